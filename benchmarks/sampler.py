"""Tokens a second of the sampler against `transformers` and Tunix, at several batch sizes.

    python benchmarks/sampler.py [--tunix-python PATH] [--batches 1 8 32] [--rounds 5]

Every contestant is a process of its own; `--tunix-python` is the interpreter of an environment with
google-tunix, without which only `transformers` is compared. Prints one JSON line a comparison;
`ours`, `peer` and `ratio` are of the seconds of a whole call, prefill and all new tokens, so a
ratio below 1 is faster; `new_tokens` over them is tokens a second.
"""

import argparse
import sys

from processes import compare
from shapes import shape_flags, shape_spec


def main():
    """Runs every comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    shape_flags(parser)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--tunix-dtypes", nargs="*", default=["float32"])
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--torch-python", default=sys.executable, help="has transformers")
    parser.add_argument("--tunix-python", help="has google-tunix")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    peers = {"transformers": (args.torch_python, "transformers_runner.py", args.dtypes)}
    if args.tunix_python:
        peers["tunix"] = (args.tunix_python, "tunix_runner.py", args.tunix_dtypes)
    else:
        print("no --tunix-python: Tunix is not compared", file=sys.stderr)
    settings = {"prompt": args.prompt, "new": args.new, "temperature": args.temperature}
    for batch in args.batches:
        for name, (python, script, dtypes) in peers.items():
            for dtype in dtypes:
                spec = (
                    shape_spec(args) | settings | {"task": "sampler", "rows": batch, "dtype": dtype}
                )
                compare(
                    f"sampler, batch {batch}, {dtype}",
                    (sys.executable, "sleep_jax_runner.py", spec),
                    (python, script, spec),
                    name=name,
                    rounds=args.rounds,
                    new_tokens=batch * args.new,
                )


if __name__ == "__main__":
    main()
