"""Our side: the sampler, one on-policy seeding update (rollout, teacher's scoring, update), or
trials of dreams.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from turns import Turns

from sleep_jax.data.examples import make_examples
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.trial import TrialConfig, train_adapters
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, take_slot, unlock
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig, prefill
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.rollouts import sample_rollouts
from sleep_jax.seeding.sequences import BatchShape, Exchange, Teacher, make_batch, pack_exchanges
from sleep_jax.seeding.step import Objective, init_state, seeding_step
from sleep_jax.seeding.trunk import precompute


class NoTokenizer:
    """A tokenizer without text, in which no token ends a turn."""

    eos_ids = (-1,)

    def decode(self, ids) -> str:
        """No text."""
        return ""

    def reply_text(self, ids) -> str:
        """No text."""
        return ""

    def reply_start(self, ids) -> int:
        """No thought comes before a reply."""
        return 0


def decoder_of(spec) -> tuple[DecoderConfig, dict]:
    """The shape of the spec and random weights of it."""
    cfg = DecoderConfig(
        vocab=spec.vocab,
        width=spec.width,
        hidden=spec.hidden,
        layers=spec.layers,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        rope_theta=spec.rope_theta,
        tie_embeddings=True,
        dtype=jnp.dtype(spec.dtype),
    )
    return cfg, Decoder(cfg).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def tokens_of(rng, spec, count: int) -> tuple[int, ...]:
    """Random tokens."""
    return tuple(int(t) for t in rng.integers(2, spec.vocab, count))


def sampler(turns: Turns):
    """Completes `rows` prompts."""
    spec, rng = turns.spec, np.random.default_rng(0)
    cfg, params = decoder_of(spec)
    sampling = SamplingConfig(spec.new, (-1,), temperature=spec.temperature)
    prompts = [tokens_of(rng, spec, spec.prompt) for _ in range(spec.rows)]
    key, count = jax.random.key(0), iter(range(1 << 30))

    def step():
        # Returns lists, so it has finished.
        generate(
            cfg,
            sampling,
            {"params": params},
            prompts,
            jax.random.fold_in(key, next(count)),
            width=spec.prompt,
        )

    return step


def seeding(turns: Turns):
    """One update on rollouts alone, as `seed_slot` does it; half of each prompt is a prefix
    by the teacher that the student continues.
    """
    spec, rng = turns.spec, np.random.default_rng(0)
    cfg, params = decoder_of(spec)
    memory = MemoryConfig((LevelConfig(slots=spec.slots, rank=spec.rank),))
    cfg = cfg.replace(memory=memory, remat=spec.remat)
    memory, slots = init_memory(jax.random.key(1), cfg.memory, layers=cfg.layers, width=cfg.width)
    before = {"params": params, "memory": memory, "slots": slots}
    student = before | {"slots": unlock(slots, 1)[0]}

    document = np.asarray([tokens_of(rng, spec, spec.document)], np.int32)
    context, _ = prefill(cfg, before, document, np.ones_like(document))
    teachers = [Teacher(cfg, before, context)]

    prefix = spec.prompt // 2
    prompts = [tokens_of(rng, spec, spec.prompt - prefix) for _ in range(spec.rows // spec.group)]
    dreams = [
        Exchange(0, prompt, prompt, tokens_of(rng, spec, prefix + spec.new), "quote")
        for prompt in prompts
    ]
    share = prefix / (prefix + spec.new)
    imitation = ImitationConfig(
        num_generations=spec.group, prefix_range=(share, share), max_new_tokens=spec.new
    )
    objective, optimizer = Objective(lam=1.0), optax.adam(1e-4)
    shape = BatchShape(spec.rows, spec.prompt + spec.new, spec.new)
    index, key, count = jnp.int32(0), jax.random.key(2), iter(range(1 << 30))
    state = init_state(take_slot(memory, 1, 0), optimizer)

    def judge(candidates, references):
        return np.zeros(len(candidates), np.float32)

    def write():
        current = {**student, "memory": put_slot(memory, 1, index, state.slot)}
        return sample_rollouts(
            cfg,
            current,
            NoTokenizer(),
            judge,
            imitation,
            dreams,
            jax.random.fold_in(key, next(count)),
            width=spec.prompt,
        )[0]

    def score(rollouts):
        width = spec.prompt + spec.new
        return precompute(cfg, student, teachers, rollouts, shape, width=width)

    def update(rollouts, states):
        batch = make_batch(rollouts, states, pack_exchanges(rollouts, shape), shape)
        return seeding_step(cfg, objective, optimizer, 1, index, state, student, batch)

    write, score = turns.timed("rollout", write), turns.timed("teacher", score)
    update = turns.timed("update", update, jax.block_until_ready)

    def step():
        nonlocal state
        rollouts = write()
        state, _ = update(rollouts, score(rollouts))

    return step


def trials(turns: Turns):
    """Trains an adapter on each dream and samples its replies, `at_a_time` of them together."""
    spec, rng = turns.spec, np.random.default_rng(0)
    cfg, params = decoder_of(spec)
    cfg = cfg.replace(lora=LoraConfig(spec.rank, 2.0 * spec.rank, tuple(spec.targets)))
    trial = TrialConfig(epochs=spec.epochs, learning_rate=1e-3, microbatch=spec.chunk)
    dreams = make_examples([[((), tokens_of(rng, spec, spec.time))] for _ in range(spec.trials)])
    dreams.mask[..., 0] = False  # no row's first token is scored
    prompts = [
        [tokens_of(rng, spec, spec.prompt) for _ in range(spec.questions)] for _ in dreams.tokens
    ]
    lora = init_lora(cfg, params, jax.random.key(1))
    base = AdaptedModels(
        cfg,
        {"params": params},
        NoTokenizer(),
        max_new_tokens=spec.new,
        batch=spec.at_a_time * spec.questions,
    )

    def train(rows):
        return train_adapters(cfg, trial, base.variables, [lora], rows)[0]

    def answer(adapters, prompts):
        return base.with_adapters(adapters).replies(prompts)

    train = turns.timed("train", train, jax.block_until_ready)
    answer = turns.timed("answer", answer)

    def step():
        count = spec.trials if turns.is_warm else spec.at_a_time
        for start in range(0, count, spec.at_a_time):
            part = slice(start, start + spec.at_a_time)
            answer(train(jax.tree.map(lambda x, part=part: x[part], dreams)), prompts[part])

    return step


def device_peak() -> int:
    """Peak bytes in use on the accelerator."""
    return jax.devices()[0].memory_stats()["peak_bytes_in_use"]


if __name__ == "__main__":
    turns = Turns("jax", peak=None if jax.default_backend() == "cpu" else device_peak)
    tasks = {"sampler": sampler, "seeding": seeding, "trials": trials}
    turns.serve(tasks[turns.spec.task](turns))
