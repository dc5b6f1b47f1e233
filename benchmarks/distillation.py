"""One on-policy seeding update against a training step of the peers, each a process of its own.

    python benchmarks/distillation.py --trl-python PATH --tunix-python PATH [--rounds 5]

Ours writes rollouts, scores them with a teacher that has a document in view, and updates a slot.
Peers, on as many rows, prompt and new tokens: TRL's DistillationTrainer (a teacher without
context), its SDFTTrainer (the context beside the prompt) and its GRPOTrainer, and Tunix's GRPO
learner, the last two with a KL to their reference, which is scored where our teacher is. All train
a low-rank adapter of the same rank over the FFN. The paths are interpreters of environments that
have them; peers without one are left out. Prints a JSON line each for time and peak memory;
`ratio` is ours over theirs.
"""

import argparse
import sys

from processes import compare
from shapes import dtype_flag, shape_flags, shape_spec

# Task, runner, and completions of a prompt; ours has two against a trainer that has one, since an
# advantage needs a group.
PEERS = {
    "trl distillation": ("distillation", "trl_runner.py", 2),
    "trl sdft": ("sdft", "trl_runner.py", 8),
    "trl grpo": ("grpo", "trl_runner.py", 8),
    "tunix grpo": ("grpo", "tunix_runner.py", 8),
}


def main():
    """Runs every comparison that there is an interpreter for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    shape_flags(parser)
    dtype_flag(parser)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--trl-python", help="has trl and peft")
    parser.add_argument("--tunix-python", help="has google-tunix")
    parser.add_argument("--tunix-dtype", choices=("bfloat16", "float32"), default="float32")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--document", type=int, default=64, help="tokens of the teacher's context")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--slots", type=int, default=5, help="ours: preallocated, one active")
    parser.add_argument("--kl", type=float, default=0.04, help="of GRPO; 0 scores no reference")
    parser.add_argument("--remat", choices=("full", "none"), default="full", help="of ours")
    parser.add_argument("--checkpointing", action="store_true", help="of TRL's activations")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    pythons = {"trl_runner.py": args.trl_python, "tunix_runner.py": args.tunix_python}
    fields = ("rows", "prompt", "new", "document", "rank", "slots", "kl", "remat", "checkpointing")
    spec = shape_spec(args) | {name: getattr(args, name) for name in fields}
    for name in args.peers:
        task, script, group = PEERS[name]
        if not pythons[script]:
            print(f"no --{name.split()[0]}-python: {name} is not compared", file=sys.stderr)
            continue
        theirs = args.tunix_dtype if script == "tunix_runner.py" else args.dtype
        group = min(group, args.rows)
        compare(
            "on-policy step",
            (
                sys.executable,
                "sleep_jax_runner.py",
                spec | {"task": "seeding", "group": group, "dtype": args.dtype},
            ),
            (pythons[script], script, spec | {"task": task, "group": group, "dtype": theirs}),
            name=name,
            rounds=args.rounds,
        )


if __name__ == "__main__":
    main()
