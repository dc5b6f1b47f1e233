"""What memory costs: time of a model with levels against the bare base, and of wake against a
forward pass, at the shape of SmolLM2-135M with random weights.

    python benchmarks/memory_overhead.py [--levels 3] [--rounds 7] [--batches 1 8]

Prints one JSON line a comparison; `ratio` is with memory over without.
"""

import argparse
import functools

import jax
import numpy as np
from shapes import SMOLLM2, random_params
from timing import interleaved, report

from sleep_jax.evals.recall import negative_log_likelihood
from sleep_jax.interop.absorb import absorb
from sleep_jax.interop.tensors import split_stacks
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, unlock
from sleep_jax.models.decoder import Decoder
from sleep_jax.sampling.sampler import SamplingConfig, sample
from sleep_jax.wake.stream import WakeConfig, init_wake, read_strides


def chain(levels: int, slots: int, layers) -> MemoryConfig:
    """`levels` levels of rank 16 that learn by day, each with `slots` slots."""
    fast = tuple(LevelConfig(256 * 2**i, slots, 16, 0.1) for i in range(levels - 1))
    return MemoryConfig(
        (*fast, LevelConfig(0, slots, 16)), unit="tokens", layers=layers, stride=256
    )


@functools.partial(jax.jit, static_argnames=("cfg",))
def forward(cfg, variables, tokens):
    """Final hidden states."""
    return Decoder(cfg).apply(variables, tokens)


def main():
    """Runs every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--slots", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8], help="of decoding")
    args = parser.parse_args()
    params = random_params(SMOLLM2)
    setting = vars(args)

    def model(slots, layers="all"):
        cfg = SMOLLM2.replace(memory=chain(args.levels, slots, layers))
        memory, active = init_memory(jax.random.key(1), cfg.memory, layers=30, width=576)
        for level in range(1, args.levels + 1):
            active, _ = unlock(active, level)
        variables = {"params": split_stacks(cfg, params), "memory": memory, "slots": active}
        return cfg, variables

    tokens = np.random.default_rng(0).integers(0, 49152, (8, 256)).astype(np.int32)
    bare = (SMOLLM2, {"params": params})
    full, small = model(args.slots), model(2)
    plain, absorbed = absorb(*full)
    contestants = {
        "bare": bare,
        f"{args.slots} slots, 1 active": full,
        "2 slots, 1 active": small,
        "absorbed, 1 active": (plain, {"params": absorbed}),
    }
    seconds = interleaved(
        {n: functools.partial(forward, *m, tokens) for n, m in contestants.items()}, args.rounds
    )
    for name in list(contestants)[1:]:
        report("forward 8x256 with memory", seconds, name, "bare", **setting)

    sampling = SamplingConfig(32, (-1,))
    for batch in args.batches:
        prompts = tokens[:batch, :16]
        mask = np.ones_like(prompts)

        def draw(cfg, variables, prompts=prompts, mask=mask):
            unrolled = cfg.replace(scan_layers=False)
            return sample(unrolled, sampling, variables, prompts, mask, jax.random.key(0)).tokens

        seconds = interleaved(
            {n: functools.partial(draw, *m) for n, m in contestants.items()}, args.rounds
        )
        for name in list(contestants)[1:]:
            report(f"decode at batch {batch} with memory", seconds, name, "bare", **setting)

    for layers in ("all", "last_quarter"):
        cfg, variables = model(args.slots, layers)
        cfg = cfg.replace(remat="full")  # as in the presets
        wake = WakeConfig(context=1024)
        state = init_wake(cfg, wake, variables["memory"])
        strides = np.stack([tokens[:4], np.ones((4, 256), np.int32)], axis=1)
        ticks = np.full(4, 256, np.int32)

        def learn(
            cfg=cfg, variables=variables, state=state, strides=strides, ticks=ticks, wake=wake
        ):
            return read_strides(cfg, wake, variables, state, strides, ticks)[1]

        def only_read(cfg=cfg, variables=variables):
            row = tokens[:4].reshape(1, -1)  # the same tokens, which see as much
            return negative_log_likelihood(cfg, variables, row, np.ones_like(row))

        seconds = interleaved({"wake": learn, "loss alone": only_read}, args.rounds)
        report(f"wake, 1024 tokens, layers {layers}", seconds, "wake", "loss alone", **setting)


if __name__ == "__main__":
    main()
