"""The host memory of a night's hidden states at the shape of an 8B model.

What a night of many documents learns from is that of a preset, as long as it may be (`--dry_run`);
its teacher's hidden states are random numbers, and no model is made. They are kept as in a night,
and then updates are drawn from them. Prints a JSON line: the bytes of the states, what of them is
in memory and on disk, the most of this process that was resident before and after, mapped files
included, and the seconds to keep the states and to draw an update.
"""

import argparse
import json
import runpy
import time

import numpy as np
from loading import most_resident

from sleep_jax import config as settings
from sleep_jax.programs.abstract import decoder_of
from sleep_jax.programs.sizes import expected_sizes
from sleep_jax.seeding import trunk
from sleep_jax.seeding.host_arrays import HostArrays
from sleep_jax.seeding.mixture import fill_batch, shuffled
from sleep_jax.seeding.sequences import Teacher, make_batch, pack_exchanges

GIB = 2**30


def random_states(cfg, variables, cache, exchanges, *, width=None):
    """Stands in for `teacher_hidden_by_batch`: numbers of its shape and dtype."""
    longest = max(len(e.completion) for e in exchanges)
    hidden = np.random.default_rng(0).random((longest, cfg.width), np.float32)
    for i, e in enumerate(exchanges):
        yield i, hidden[: len(e.completion)]


def main():
    """Keeps the states of a night and draws updates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="seeding_8b")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--sentences", type=int, default=11, help="of each document")
    parser.add_argument("--context", type=int, default=384, help="tokens of each document")
    parser.add_argument("--teacher-memory", type=float, default=16.0, help="GiB")
    parser.add_argument("--updates", type=int, default=20)
    args = parser.parse_args()
    config = runpy.run_path(f"configs/{args.preset}.py")["get_config"]()
    cfg, run = decoder_of(config), settings.read(config)
    sentences = args.documents * args.sentences
    exchanges = expected_sizes(run, args.documents, args.context, sentences).exchanges
    trunk.teacher_hidden_by_batch = random_states
    arrays, teacher = HostArrays(args.teacher_memory * GIB), Teacher(cfg, {"params": None}, None)
    before, start = most_resident(), time.monotonic()
    shape = run.seeding.shape
    states = trunk.precompute(cfg, {"params": 0}, [teacher], exchanges, shape, arrays=arrays)
    kept = time.monotonic()
    by_id = dict(zip(map(id, exchanges), states))
    stream = shuffled(exchanges, 0)
    for _ in range(args.updates):
        chosen, stream = fill_batch([], stream, shape)
        arrays.let_go()
        batch_states = [by_id[id(e)] for e in chosen]
        make_batch(chosen, batch_states, pack_exchanges(chosen, shape), shape)
    sizes = {
        "states": sum(x.teacher.nbytes for x in states),
        "in_memory": arrays.in_memory,
        "on_disk": arrays.on_disk,
        "before": before,
        "peak": most_resident(),
    }
    line = {
        "name": "night_memory",
        "documents": args.documents,
        "sequences": len(exchanges),
        "gib": {name: round(size / GIB, 2) for name, size in sizes.items()},
        "seconds_to_keep": round(kept - start, 1),
        "seconds_an_update": round((time.monotonic() - kept) / max(args.updates, 1), 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
