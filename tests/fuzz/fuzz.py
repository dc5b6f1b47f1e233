"""Fuzzing: reads randomly changed files of every format and reports faults.

python tests/fuzz/fuzz.py --inputs 20000 [--seed 0] [NAME ...]

Same seed, same inputs. The exit status is 1 where there is a fault; the inputs that show one are
kept in --keep.
"""

import argparse
import collections
import faulthandler
import os
import pathlib
import sys
import tempfile
import time
import warnings

import model_files
import run_files
import text_files
from formats import Format
from oracle import Fault, judge

SCRATCH = "/dev/shm" if os.path.isdir("/dev/shm") else None  # in memory where possible
TRACED = 4  # every fourth input has its memory traced
FORMATS = {x.name: x for x in (*model_files.FORMATS, *text_files.FORMATS, *run_files.FORMATS)}


def try_inputs(
    format: Format, folder: pathlib.Path, inputs: int, seed: int = 0
) -> dict[str, list[tuple[int, Fault]]]:
    """Tries inputs of a format. Returns {kind of fault: [(number of the input, fault), ...]}.

    Raises:
      AssertionError: a base, which is as it should be, cannot be read.
    """
    format.lay_out(folder)
    for base in format.bases:
        (folder / format.file).write_bytes(base)
        format.read(folder)
    faults: dict[str, list[tuple[int, Fault]]] = collections.defaultdict(list)
    try:
        for number in range(inputs):
            content = format.input(seed, number)
            (folder / format.file).write_bytes(content)
            if number % 100 == 0:
                faulthandler.dump_traceback_later(900, exit=True)  # a hang outside Python
            if fault := judge(format.read, folder, len(content), number % TRACED == 0):
                faults[fault.kind].append((number, fault))
    finally:
        faulthandler.cancel_dump_traceback_later()
    return dict(faults)


def main() -> int:
    """Tries the named formats, or all, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FORMATS))
    parser.add_argument("--inputs", type=int, default=20_000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=pathlib.Path, help="folder for inputs that show a fault")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in FORMATS]:
        parser.error(f"no format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    warnings.simplefilter("ignore")
    status = 0
    for name in arguments.names or FORMATS:
        began = time.process_time()
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=SCRATCH) as folder:
            faults = try_inputs(
                FORMATS[name], pathlib.Path(folder), arguments.inputs, arguments.seed
            )
        seconds = time.process_time() - began
        print(
            f"{name}: {arguments.inputs:,} inputs, {len(faults)} faults, {seconds:.0f} s",
            flush=True,
        )
        for kind, seen in faults.items():
            status, (number, fault) = 1, seen[0]
            print(f"  {len(seen)} x {kind} (first: input {number}): {fault.words}", flush=True)
            if arguments.keep:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                content = FORMATS[name].input(arguments.seed, number)
                (arguments.keep / f"{name}-{number}").write_bytes(content)
    return status


if __name__ == "__main__":
    sys.exit(main())
