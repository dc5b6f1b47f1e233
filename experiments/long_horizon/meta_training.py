"""A base that one update can write to: an episode has a single update of Eq. 2, so the base is
meta-trained for it (as Nested Learning meta-learns the initial state of its fast levels).

    minimise   L(base; pages) + L(homes | base + one step on new facts) + L(known pages | the same)

The gradient goes through the step. The fast weights are those of `init_memory`, drawn anew for
every episode; only the base is trained.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from facts import END, HOMES, INDEX, QUESTIONS, STATEMENTS, Fact, pages, random_facts

from sleep_jax.baselines.finetune import finetune
from sleep_jax.baselines.model import Leaves, Model
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_wake, take_wake
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.progress import phase_progress

EPISODES, FACTS, ROWS = 6, 6, 12  # of an update: episodes, new facts in each, pages without any
HOME_WEIGHT = 5.0  # of a home in the loss; most other words are unpredictable


def is_home(tokens):
    """Which tokens are homes."""
    first = INDEX[HOMES[0]]
    return (tokens >= first) & (tokens < first + len(HOMES))


def page_terms(
    cfg: DecoderConfig, variables, tokens, home: float = HOME_WEIGHT, other: float = 1.0
):
    """(sum, weights) of the next-token loss of pages int32 [rows, time]; homes weigh `home`, all
    other words `other`.
    """
    hidden = Decoder(cfg).apply(variables, tokens[:, :-1])
    targets = tokens[:, 1:]
    weight = jnp.where(is_home(targets), home, other)
    nats = optax.softmax_cross_entropy_with_integer_labels(
        lm_logits(cfg, variables["params"], hidden), targets
    )
    return jnp.sum(weight * nats), jnp.sum(weight)


def page_loss(cfg: DecoderConfig, variables, tokens, *weights: float):
    """Mean of `page_terms`."""
    total, weight = page_terms(cfg, variables, tokens, *weights)
    return total / weight


def loss_after_writing(cfg, length: float, params, slots, rng, text, questions, known):
    """The loss of a base after an episode was written to its level 1.

    Args:
      cfg: with the memory of `only_fast`.
      length: norm of the step.
      params, slots: the base and its inactive slots.
      rng: PRNG key of the fast weights.
      text: int32 [pages, time], the episode.
      questions: int32 [n, time], sentences about it; the loss is of homes alone.
      known: int32 [rows, time], pages of known facts, to stay likely.
    """
    memory, _ = init_memory(rng, cfg.memory, layers=cfg.layers, width=cfg.width)
    before = jnp.concatenate([jnp.full_like(text[:, :1], END), text], axis=1)

    def collections(wake):
        return {"params": params, "slots": slots, "memory": put_wake(memory, wake)}

    wake = take_wake(memory)
    gradient = jax.grad(lambda wake: page_loss(cfg, collections(wake), before, 1.0))(wake)
    scale = length / jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient)) + 1e-12)
    after = collections(jax.tree.map(lambda w, g: w - scale * g, wake, gradient))
    return page_loss(cfg, after, questions, 1.0, 0.0) + page_loss(cfg, after, known)


def only_fast(cfg: DecoderConfig) -> DecoderConfig:
    """The decoder with level 1 alone (the slowest level has no wake weights)."""
    fast = LevelConfig(period=1, slots=0, rank=cfg.memory.level(1).rank)
    levels = (fast, LevelConfig(period=0, slots=1, rank=1))
    return cfg.replace(
        memory=MemoryConfig(levels=levels, unit="episodes", stride=60, from_context=False)
    )


def meta_train(
    cfg: DecoderConfig, params, known: list[Fact], length: float, steps: int, learning_rate=1.5e-3
):
    """The base after `steps` updates of the loss above."""
    cfg = only_fast(cfg)
    memory, slots = init_memory(jax.random.key(0), cfg.memory, layers=cfg.layers, width=cfg.width)
    rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, 20, steps, 0.0)
    with phase_progress("meta-train", steps) as bar:
        model = finetune(
            Model(cfg, {"params": params, "memory": memory, "slots": slots}),
            Leaves("params/.*"),
            functools.partial(meta_loss, length),
            episode_batches(known),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)),
            steps=steps,
            log=lambda step, figures: bar.advance(loss=figures["loss"]),
        )
    return jax.tree.map(np.asarray, model.variables["params"])


def meta_loss(length: float, model: Model, batch, rng):
    """The loss above, as that of `finetune`; `batch` is one of `episode_batches`."""
    rows, keys, *episodes = batch
    params, slots = model.variables["params"], model.variables["slots"]
    each = functools.partial(loss_after_writing, model.cfg, length, params, slots)
    plain = page_loss(model.cfg, model.variables, rows)
    return plain + jnp.mean(jax.vmap(each)(keys, *episodes)), jnp.ones(())


def episode_batches(known: list[Fact]):
    """Batches without end.

    Yields:
      pages int32 [ROWS, time]; and for each of EPISODES episodes what `loss_after_writing` takes:
      keys of the fast weights, texts, sentences about them, and pages of known facts.
    """
    rng = np.random.default_rng(2)
    for i in itertools.count():
        new = [random_facts(rng, FACTS) for _ in range(EPISODES)]
        text = [[_page(facts, t) for t in STATEMENTS] for facts in new]
        questions = [[f.tokens(t) for f in facts for t in _two_wordings(rng)] for facts in new]
        about_known = pages(rng, known, 2 * EPISODES, 6).reshape(EPISODES, 2, -1)
        keys = jax.random.split(jax.random.key(i), EPISODES)
        yield pages(rng, known, ROWS, 6), keys, np.array(text), np.array(questions), about_known


def _page(facts: list[Fact], template: str) -> tuple[int, ...]:
    return sum((fact.tokens(template) for fact in facts), ())


def _two_wordings(rng: np.random.Generator) -> list[str]:
    every = STATEMENTS + QUESTIONS
    return [every[i] for i in rng.integers(len(every), size=2)]
