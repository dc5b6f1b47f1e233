"""The sampler: jitted prefill and one `lax.while_loop`, static shapes, groups that share their
prefill."""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from sleep_jax.models.cache import append, grow, init_cache
from sleep_jax.models.decode_layout import CUT, decode_layout, logits_by_rows, whole
from sleep_jax.models.decoder import Decoder, lm_head, unstack_layers
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.experts import RANDOM_EXPERT
from sleep_jax.models.linear import transposed
from sleep_jax.models.mixer import get_mixer
from sleep_jax.models.sharding import constrain, constrain_tree

MIN_TEMPERATURE = 1e-6  # logits divided by much less overflow, and draws are NaN


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How to sample.

    Attributes:
      max_new_tokens: longest completion, EOS included.
      eos_ids: tokens that end a completion; the one that ends it is part of it.
      temperature: 0 is greedy.
      top_k: keep the k likeliest tokens, the first ones where several are equal; 0 keeps all.
      top_p: keep the smallest set of likeliest tokens whose mass reaches p, the first ones where
        several are equal; 1 keeps all.
      num_generations: completions per prompt; they share its prefill.
    """

    max_new_tokens: int
    eos_ids: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    num_generations: int = 1

    def __post_init__(self):
        for name, value, low, high in (
            ("max_new_tokens", self.max_new_tokens, 1, float("inf")),
            ("temperature", self.temperature, 0, float("inf")),
            ("top_k", self.top_k, 0, float("inf")),
            ("top_p", self.top_p, 1e-6, 1),
            ("num_generations", self.num_generations, 1, float("inf")),
        ):
            if not low <= value <= high:
                raise ValueError(f"sampling.{name}={value}; it must lie in [{low}, {high}]")
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise ValueError(
                f"sampling.temperature={self.temperature}; give 0 (greedy) or at least "
                f"{MIN_TEMPERATURE}"
            )


@flax.struct.dataclass
class Samples:
    """Completions, group members of a prompt next to each other.

    Attributes:
      tokens: int32 [prompts * num_generations, new]; 0 after the end.
      log_probs: float32 [prompts * num_generations, new], of each token under the distribution it
        was drawn from.
      mask: bool [prompts * num_generations, new]; true up to and including EOS.
    """

    tokens: jax.Array
    log_probs: jax.Array
    mask: jax.Array


def truncate(logits, config: SamplingConfig):
    """Temperature, then top-k, then top-p, on logits [batch, vocab]; removed tokens get -inf."""
    if config.temperature > 0:
        logits = logits / config.temperature
    if config.top_k:
        count = min(config.top_k, logits.shape[-1])
        logits = _keep_likeliest(logits, count, jax.lax.top_k(logits, count)[0][:, -1:])
    if config.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        p = jax.nn.softmax(ordered, axis=-1)
        # A token stays if the mass before it is below p; the likeliest always does.
        last = jnp.sum(jnp.cumsum(p, axis=-1) - p < config.top_p, -1, keepdims=True) - 1
        logits = _keep_likeliest(logits, last + 1, jnp.take_along_axis(ordered, last, -1))
    return logits


def _keep_likeliest(logits, count, least):
    """Logits with -inf for all but the `count` [batch, 1] largest, the smallest of which is `least`
    [batch, 1]; where several equal it, the first ones are kept."""
    is_kept = logits >= least
    is_equal = logits == least

    def first_of_equals():
        left = count - jnp.sum(logits > least, -1, keepdims=True)
        return is_kept & (~is_equal | (jnp.cumsum(is_equal, -1) <= left))

    # Rarely needed, and as expensive as the cumulative mass.
    is_too_many = jnp.any(jnp.sum(is_kept, -1, keepdims=True) > count)
    is_kept = jax.lax.cond(is_too_many, first_of_equals, lambda: is_kept)
    return jnp.where(is_kept, logits, -jnp.inf)


def draw(rng, log_probs, block: int = 256):
    """One categorical draw a row by inverse transform, with a single uniform number.

    The cumulative sum runs over blocks and then within one block, which is far cheaper than a
    Gumbel draw per token of a large vocabulary.

    Args:
      rng: PRNG key.
      log_probs: [batch, vocab], normalised.
      block: tokens per block.

    Returns:
      int32 [batch], tokens whose probability is above 0.
    """
    return _invert_cdf(jax.random.uniform(rng, (len(log_probs), 1)), log_probs, block)


def _invert_cdf(uniform, log_probs, block: int):
    """The tokens where the cumulative distributions exceed `uniform` [batch, 1] in [0, 1)."""
    b, v = log_probs.shape
    mass = jnp.pad(jnp.exp(log_probs), ((0, 0), (0, -v % block))).reshape(b, -1, block)
    block_mass = mass.sum(-1)
    block_sums = jnp.cumsum(block_mass, -1)
    target = uniform * block_sums[:, -1:]
    i = _first_above(block_sums, target, block_mass)
    inside = jnp.take_along_axis(mass, i[..., None], 1)[:, 0]
    before = jnp.take_along_axis(block_sums, i, 1) - inside.sum(-1, keepdims=True)
    j = _first_above(jnp.cumsum(inside, -1), target - before, inside)
    return (i * block + j)[:, 0].astype(jnp.int32)


def _first_above(cumulative, target, mass):
    """Index of the first entry with mass whose cumulative sum exceeds the target [batch, 1]; the
    last entry with mass where, by rounding, none does."""
    has_mass = mass > 0
    last = has_mass.shape[-1] - 1 - jnp.argmax(has_mass[:, ::-1], -1, keepdims=True)
    exceeds = has_mass & (cumulative > target)
    first = jnp.argmax(exceeds, -1, keepdims=True)
    return jnp.where(jnp.any(exceeds, -1, keepdims=True), first, last)


def draw_token(config: SamplingConfig, logits, rng):
    """The next token of each row.

    Args:
      config: how to sample.
      logits: float32 [batch, vocab].
      rng: PRNG key; a greedy draw needs none.

    Returns:
      (tokens, log_probs): int32 [batch] and float32 [batch], under the distribution they were drawn
      from.
    """
    logits = truncate(logits, config)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    if config.temperature == 0:
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    else:
        token = draw(rng, log_probs)
    return token, jnp.take_along_axis(log_probs, token[:, None], -1)[:, 0]


@functools.partial(jax.jit, static_argnames=("cfg",))
def prefill(cfg: DecoderConfig, variables, tokens, mask, cache=None):
    """Reads tokens into a cache, the context: level 0 of the memory.

    Args:
      cfg: the decoder.
      variables: its collections, without `cache`.
      tokens: int32 [batch, time], padded on the left.
      mask: int32 [batch, time], 1 on real tokens.
      cache: a cache to continue; it must have no free room (it is grown here).

    Returns:
      (cache, hidden): the grown cache and the hidden states [batch, time, d] of the tokens.
    """
    cache = init_cache(cfg, *tokens.shape) if cache is None else grow(cfg, cache, tokens.shape[1])
    cache = constrain_tree(cache, "cache")
    hidden, grown = Decoder(cfg).apply(
        {**variables, "cache": cache}, tokens, mask, mutable=["cache"]
    )
    return grown["cache"], hidden


@functools.partial(jax.jit, static_argnames=("cfg", "config"))
def sample(
    cfg: DecoderConfig,
    config: SamplingConfig,
    variables,
    prompts,
    mask,
    rng,
    cache=None,
    expert_rng=None,
) -> Samples:
    """Completes prompts.

    Args:
      cfg: the decoder; `scan_layers=False` unrolls the decode step, which is faster on CPU.
      config: how to sample.
      variables: the decoder's collections in the scanned form, without `cache`.
      prompts: int32 [prompts, time], padded on the left.
      mask: int32 [prompts, time], 1 on real tokens.
      rng: PRNG key.
      cache: context already read, one row a prompt, from `prefill` of the scanned decoder.
      expert_rng: PRNG key of the random expert that routers add for every sampled token, but not
        for those of the prompt; None: they add none.

    Returns:
      `Samples` of prompts * num_generations rows.
    """
    scanned = cfg.replace(scan_layers=True)
    cache, hidden = prefill(scanned, variables, prompts, mask, cache)
    cache = grow(scanned, cache, config.max_new_tokens, config.num_generations)
    cache = constrain_tree(cache, "cache")
    hidden = whole(jnp.repeat(hidden[:, -1], config.num_generations, axis=0))
    params, eos = variables["params"], jnp.array(config.eos_ids, jnp.int32)
    variables = decode_layout(variables)
    if not cfg.scan_layers:
        variables = unstack_layers(cfg, variables)
        cache = unstack_layers(cfg, {"cache": cache})["cache"]
    rows, head = hidden.shape[0], lm_head(cfg, params)
    head = constrain(head, None, CUT)
    if rows > 1:  # a new layout, made once; for a single row it would not pay
        head = transposed(head.T)

    # A scan over layers would write the whole cache anew for every token.
    is_appended_to = cfg.scan_layers and get_mixer(cfg.mixer).is_appended_to()

    def expert_rngs(step):
        if expert_rng is None:
            return {}
        return {RANDOM_EXPERT: jax.random.fold_in(expert_rng, step)}

    def unfinished(state):
        step, _, _, done, _ = state
        return (step < config.max_new_tokens) & ~jnp.all(done)

    def advance(state):
        step, cache, hidden, done, out = state
        logits = logits_by_rows(hidden, head)
        token, log_prob = draw_token(config, logits, jax.random.fold_in(rng, step))
        token = jnp.where(done, 0, token)
        out = Samples(
            tokens=out.tokens.at[:, step].set(token),
            log_probs=out.log_probs.at[:, step].set(jnp.where(done, 0.0, log_prob)),
            mask=out.mask.at[:, step].set(~done),
        )
        done = done | jnp.isin(token, eos)
        hidden, changed = Decoder(cfg).apply(
            {**variables, "cache": cache},
            token[:, None],
            mutable=["appended" if is_appended_to else "cache"],
            rngs=expert_rngs(step),
        )
        cache = append(cfg, cache, changed["appended"]) if is_appended_to else changed["cache"]
        return step + 1, cache, hidden[:, 0], done, out

    shape = (rows, config.max_new_tokens)
    out = Samples(
        tokens=jnp.zeros(shape, jnp.int32),
        log_probs=jnp.zeros(shape, jnp.float32),
        mask=jnp.zeros(shape, bool),
    )
    state = (jnp.zeros((), jnp.int32), cache, hidden, jnp.zeros((rows,), bool), out)
    return jax.lax.while_loop(unfinished, advance, state)[-1]
