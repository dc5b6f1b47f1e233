"""Isolated trials of dreams: all in one program against one after the other, ours and PEFT's.

    python benchmarks/trials.py [--peft-python PATH] [--trials 1 8 32] [--rounds 3]

A trial trains a fresh LoRA adapter on a dream, `--epochs` updates of one row of `--time` tokens,
and has the adapted model answer `--questions` greedily. Every contestant is a process of its own;
`--peft-python` is the interpreter of an environment with peft and transformers. Prints JSON lines:
for time and for peak memory, where `ratio` is ours together over the other, and for the bytes that
one more trial takes.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
from processes import compare
from shapes import (
    compiled_bytes,
    dtype_flag,
    random_params,
    shape_flags,
    shape_spec,
    shaped,
)
from timing import report

from sleep_jax.data.examples import Examples
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.trial import TrialConfig, train_adapters
from sleep_jax.models.decoder_config import TARGETS, LoraConfig


def bytes_of_one_more(args: argparse.Namespace, spec: dict, count: int) -> None:
    """Prints the bytes that a further trial adds to the program that trains `count` of them, over
    the bytes of its adapter, gradient and Adam's two moments in float32.
    """
    lora = LoraConfig(args.rank, 2.0 * args.rank, tuple(args.targets))
    cfg = shaped(args, lora=lora).replace(remat="full")
    params = jax.eval_shape(lambda: random_params(cfg))
    adapter = jax.eval_shape(lambda: init_lora(cfg, random_params(cfg), jax.random.key(0)))
    trial = TrialConfig(epochs=args.epochs, microbatch=count)

    def bytes_of(trials: int) -> int:
        shape = (trials, 1, args.time)
        tokens, mask = (jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, bool))
        rows = Examples(tokens=tokens, segment_ids=tokens, mask=mask)
        return compiled_bytes(train_adapters, cfg, trial, {"params": params}, [adapter], rows)

    more = (bytes_of(count) - bytes_of(1)) / (count - 1)
    adapter_bytes = 4 * sum(4 * leaf.size for leaf in jax.tree.leaves(adapter))
    both = {"a trial": [more], "its adapter": [adapter_bytes]}
    report("bytes of one more trial", both, "a trial", "its adapter", spec=spec)


def main():
    """Runs every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    shape_flags(parser)
    dtype_flag(parser)
    parser.add_argument("--trials", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--chunk", type=int, default=0, help="trained at a time; 0: all")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--time", type=int, default=256, help="tokens of a dream and its passage")
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=["gate", "up", "down"])
    parser.add_argument("--peft-python", help="has peft and transformers")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if not args.peft_python:
        print("no --peft-python: PEFT is not compared", file=sys.stderr)
    fields = ("epochs", "time", "questions", "prompt", "new", "rank", "targets", "dtype")
    spec = shape_spec(args) | {name: getattr(args, name) for name in fields} | {"task": "trials"}
    ours = (sys.executable, "sleep_jax_runner.py")
    for count in args.trials:
        many = spec | {"trials": count, "at_a_time": count, "chunk": args.chunk or count}
        one = many | {"at_a_time": 1}
        if args.peft_python:
            compare(
                f"{count} trials",
                (*ours, many),
                (args.peft_python, "peft_runner.py", one),
                name="peft",
                rounds=args.rounds,
            )
        if count == 1:
            continue
        compare(
            f"{count} trials",
            (*ours, many),
            (*ours, one),
            name="one after the other",
            rounds=args.rounds,
        )
        bytes_of_one_more(args, many, count)


if __name__ == "__main__":
    main()
