"""What Knowledge Seeding costs over plain fine-tuning: one update of a slot against one LoRA SFT
update of the same base, rows and scored tokens, with and without the teacher's scoring pass.

    python benchmarks/seeding_step.py [--layers 30] [--vocab 152064] [--rows 4] [--time 512]
    python benchmarks/seeding_step.py --memory-layers last_quarter

Prints one JSON line a comparison; `ratio` is seeding over SFT. Where some layers carry no memory,
`stored trunk` is the update that goes on from their stored output over one that runs them. Memory
is what the compiler assigns (arguments, temporaries, results), the base's weights included; its
lines say bytes.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from shapes import compiled_bytes, dtype_flag, random_params, shape_flags, shaped
from timing import interleaved, report

from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.interop.tensors import split_stacks
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, take_slot, unlock
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.models.head import masked_sum, token_log_probs
from sleep_jax.sampling.sampler import prefill
from sleep_jax.seeding.sequences import BatchShape, Exchange, Teacher, make_batch, pack_exchanges
from sleep_jax.seeding.step import Objective, init_state, seeding_step
from sleep_jax.seeding.trunk import precompute


@functools.partial(jax.jit, static_argnames=("cfg", "optimizer"), donate_argnames=("state",))
def sft_step(cfg, optimizer, state, params, batch):
    """One LoRA update by the cross-entropy of the tokens that a seeding step scores."""

    def loss(lora):
        hidden = Decoder(cfg).apply(
            {"params": params, "lora": lora}, batch.tokens, batch.segment_ids
        )
        hidden = jnp.take_along_axis(hidden, batch.target_positions[..., None], axis=1)
        mask = batch.mask.reshape(-1)
        log_probs = token_log_probs(
            hidden.reshape(-1, cfg.width), batch.targets.reshape(-1), mask, lm_head(cfg, params)
        )
        total, count = masked_sum(-log_probs, mask)
        return total / count

    lora, opt_state = state
    value, gradient = jax.value_and_grad(loss)(lora)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return (optax.apply_updates(lora, updates), opt_state), value


def exchanges_of(args, vocab: int, rng) -> list[Exchange]:
    """One exchange fills a row; every other one was written by the student."""
    prompt = args.time - args.scored + 1
    return [
        Exchange(
            document=0,
            student=tuple(rng.integers(0, vocab, prompt)),
            teacher=tuple(rng.integers(0, vocab, prompt)),
            completion=tuple(rng.integers(0, vocab, args.scored)),
            kind="quote",
            on_policy=bool(row % 2),
            advantage=row - args.rows / 2,
            log_probs=np.full(args.scored, -np.log(vocab), np.float32),
        )
        for row in range(args.rows)
    ]


def repeated(step, state):
    """A function without arguments that does a step; it keeps the state, which steps donate."""

    def run():
        nonlocal state
        state, value = step(state)
        return value

    return run


def step_flags(parser: argparse.ArgumentParser, **defaults) -> None:
    """Adds the flags of the rows that a step learns from, and of what learns."""
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--time", type=int, default=512, help="tokens of a row")
    parser.add_argument("--scored", type=int, default=256, help="tokens of a row that are scored")
    parser.add_argument("--document", type=int, default=256, help="tokens of the teacher's context")
    parser.add_argument("--rank", type=int, default=16, help="of the slot and of the adapter")
    parser.add_argument("--slots", type=int, default=5, help="preallocated; one is active")
    parser.add_argument("--alpha", type=float, default=0.5, help="1 distils, 0 imitates alone")
    parser.add_argument("--memory-layers", choices=("all", "last_quarter"), default="all")
    parser.add_argument("--remat", choices=("full", "none"), default="full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.set_defaults(**defaults)


def steps_of(args, bare):
    """What is compared: functions without arguments that do a step, by name, and the programs of an
    update as (jitted, arguments), by name.

    Args:
      args: the flags of `step_flags`.
      bare: the decoder without memory, with the adapter's config.
    """
    rng = np.random.default_rng(0)
    params = random_params(bare)
    levels = (LevelConfig(slots=args.slots, rank=args.rank),)
    cfg = bare.replace(memory=MemoryConfig(levels, layers=args.memory_layers))
    memory, slots = init_memory(jax.random.key(1), cfg.memory, layers=cfg.layers, width=cfg.width)
    teacher = {"params": split_stacks(cfg, params), "memory": memory, "slots": slots}
    student = teacher | {"slots": unlock(slots, 1)[0]}

    document = rng.integers(0, bare.vocab, (1, args.document)).astype(np.int32)
    context, _ = prefill(cfg, teacher, document, np.ones_like(document))
    teachers = [Teacher(cfg, teacher, context)]
    exchanges = exchanges_of(args, bare.vocab, rng)
    shape = BatchShape(args.rows, args.time, args.scored)

    def score():
        states = precompute(cfg, student, teachers, exchanges, shape, width=args.time)
        return make_batch(exchanges, states, pack_exchanges(exchanges, shape), shape)

    batch, optimizer = jax.tree.map(jnp.asarray, score()), optax.adam(1e-3)
    objective = Objective(alpha=args.alpha)
    index = jnp.int32(0)
    slot = jax.tree.map(jnp.copy, take_slot(memory, 1, 0))
    seed = functools.partial(seeding_step, cfg, objective, optimizer, 1, index)
    lora = init_lora(bare, params, jax.random.key(2))
    sft = functools.partial(sft_step, bare, optimizer)

    def score_and_seed(state):
        return seed(state, student, score())

    contestants = {
        "lora sft": repeated(lambda s: sft(s, params, batch), (lora, optimizer.init(lora))),
        "seeding": repeated(
            lambda s: seed(s, student, batch), init_state(jax.tree.map(jnp.copy, slot), optimizer)
        ),
        "seeding and teacher": repeated(
            score_and_seed, init_state(jax.tree.map(jnp.copy, slot), optimizer)
        ),
        "teacher": score,
    }
    if batch.trunk is not None:
        whole = batch.replace(trunk=None)
        contestants["seeding, trunk run"] = repeated(
            lambda s: seed(s, student, whole), init_state(jax.tree.map(jnp.copy, slot), optimizer)
        )
    state = init_state(slot, optimizer)
    fresh = init_lora(bare, params, jax.random.key(2))
    ours = (cfg, objective, optimizer, 1, index, state, student, batch)
    peer = (bare, optimizer, (fresh, optimizer.init(fresh)), params, batch)
    return contestants, {"seeding": (seeding_step, ours), "lora sft": (sft_step, peer)}


def main():
    """Runs every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    shape_flags(parser, vocab=152064)
    dtype_flag(parser)
    step_flags(parser)
    args = parser.parse_args()
    setting = vars(args)

    bare = shaped(args, remat=args.remat, lora=LoraConfig(args.rank, 2 * args.rank))
    contestants, programs = steps_of(args, bare)
    seconds = interleaved(contestants, args.rounds)
    for ours in ("seeding", "seeding and teacher", "teacher"):
        report("seeding step, time", seconds, ours, "lora sft", aim=2.0, **setting)
    if "seeding, trunk run" in contestants:
        report("stored trunk, time", seconds, "seeding", "seeding, trunk run", **setting)

    held = {name: [compiled_bytes(jitted, *given)] for name, (jitted, given) in programs.items()}
    report("seeding step, bytes", held, "seeding", "lora sft", aim=1.15, **setting)


if __name__ == "__main__":
    main()
