"""What one accelerator makes of this code: one command, at most ten minutes, no network.

    python benchmarks/device.py                       # a GPU, or a TPU VM
    python benchmarks/device.py --layers 2 --vocab 512 --trials 4 --batches 1 4    # a smoke test

First the tiny preset runs twice, once undisturbed and once killed and resumed, each a process of
its own. Then, with random weights of --model:

rollouts   tokens/s of the sampler, beside the least time in which the weights and what is cached
           can be read once a token
update     an update of Knowledge Seeding, its share of the peak, and beside a LoRA SFT update
trials     dreams that train an adapter each, all in one program, beside one alone
memory     the most that was held on the device, and what an update holds by its compiler

Prints a line a figure; at the end device.json, or what --out names, has them and a table is
printed. What there was no time for is left out, and said.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = ("--config=configs/sleep_tiny.py", "--config.checkpoint.save_interval_steps=1")
COLUMNS = ("part", "what", "value", "unit", "of the device", "first call, s")


def flags() -> argparse.ArgumentParser:
    """The command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--model", default="Qwen/Qwen3-1.7B", help="whose shape [%(default)s]")
    parser.add_argument("--layers", type=int, help="of it; all unless given")
    parser.add_argument("--vocab", type=int, help="of it; as it is unless given")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64, 256])
    parser.add_argument("--new", type=int, default=128, help="tokens of a rollout [%(default)s]")
    parser.add_argument("--trials", type=int, nargs="*", default=[32, 256])
    parser.add_argument("--minutes", type=float, default=10, help="in all [%(default)s]")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("device.json"))
    parser.add_argument("--inside", type=float, help=argparse.SUPPRESS)  # seconds left
    return parser


def main() -> None:
    """Both processes' work: this one never holds the device."""
    args, end = flags().parse_args(), time.monotonic()
    if args.inside is not None:
        from device_parts import measure

        for line in measure(args, time.monotonic() + args.inside):
            print(json.dumps(line), flush=True)
        return
    end += 60 * args.minutes
    lines = [say(resumed(end))]
    again = [sys.executable, __file__, *sys.argv[1:], f"--inside={end - time.monotonic()}"]
    with subprocess.Popen(again, stdout=subprocess.PIPE, text=True) as process:
        lines += [say(json.loads(line)) for line in process.stdout]
    args.out.write_text(json.dumps(lines, indent=1) + "\n")
    print(table(lines), f"written to {args.out}", sep="\n\n")
    if process.returncode:
        sys.exit(process.returncode)


def say(line: dict) -> dict:
    """Prints a figure as it comes."""
    print(f"{line['part']}: {line['what']}: {line['value']} {line['unit']}", flush=True)
    return line


def resumed(end: float) -> dict:
    """Whether a tiny run that is killed within a night and started again ends with the bits of one
    that was left alone, on this device."""
    line = {"part": "resume", "what": "a run killed in its night", "unit": ""}
    with tempfile.TemporaryDirectory() as folder:
        home = pathlib.Path(folder)
        whole, killed = home / "whole", home / "killed"
        if not is_finished(run(whole), end):
            return line | {"value": "the tiny preset does not end here: see its lines above"}
        process = run(killed)
        while process.poll() is None and not any(killed.glob("mid_phase/*/digests.json")):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            return line | {"value": "it had ended before it could be killed"}
        if not is_finished(run(killed), end):
            return line | {"value": "does not resume: see its lines above"}
        other, count = differing(whole, killed)
    if other:
        return line | {"value": f"{other} of {count} arrays of its end differ"}
    return line | {"value": f"ends with the same bits, {count} arrays"}


def is_finished(process: subprocess.Popen, end: float) -> bool:
    """Whether a process ends well before `end`, of `time.monotonic`; then it is stopped."""
    try:
        return process.wait(max(1.0, end - time.monotonic())) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def differing(*workdirs: pathlib.Path) -> tuple[int, int]:
    """Arrays of the last checkpoint of two runs that are not the same, and how many there are."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # here; the device is for the other processes
    import numpy as np

    from sleep_jax.inspect.run import Run

    ends = [Run(workdir)[-1] for workdir in workdirs]
    names = [*ends[0].leaves()]
    return sum(not np.array_equal(*(end.read(x) for end in ends)) for x in names), len(names)


def run(workdir: pathlib.Path) -> subprocess.Popen:
    """The tiny preset, as a process whose lines go to this one's error stream."""
    command = [sys.executable, "launch.py", *TINY, f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr, env=os.environ)


def table(lines: list[dict]) -> str:
    """All figures as Markdown."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for line in lines:
        share = line.get("share")
        of_device = "" if share is None else f"{100 * share:.0f} % of its {line['bound']}"
        first = line.get("first", "")
        rows.append([line[x] for x in ("part", "what", "value", "unit")] + [of_device, first])
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


if __name__ == "__main__":
    main()
