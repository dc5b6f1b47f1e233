"""A model reads a text and learns by Eq. 2 with each error term: nats a token, quarter by quarter.

python experiments/wake_reading/run.py --text NOVEL.txt --workdir runs/wake_reading
python experiments/wake_reading/run.py --text OTHER.txt --rates 3e-3 1e-2 --arms adam --tokens 3000

Every run (an arm, a rate, a text and where it begins) is a JSON file in the workdir, written as it
goes on; a second call continues after the finished ones. At the end it prints the table and draws
the figure there; with --publish also beside this file, where it rewrites the table of the README.
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
from figures import report

from sleep_jax.data.documents import read_anchors
from sleep_jax.evals.metrics import perplexity
from sleep_jax.evals.recall import AnchorSet, negative_log_likelihood
from sleep_jax.interop.load import load_model
from sleep_jax.memory.memory_config import OPTIMIZERS, LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_wake
from sleep_jax.setting import AUTO
from sleep_jax.wake.error_terms import learning_rate
from sleep_jax.wake.stream import WakeConfig, init_wake, read_episode

ARMS = ("none", *OPTIMIZERS)
WINDOW, PIECE = 250, 1000  # tokens of an update; of a call
WAKE = WakeConfig(context=1000)


def memory_of(arm: str, rate: float, rank: int) -> MemoryConfig:
    """One level that learns at every stride, above the base; `none` has the base alone."""
    slowest = LevelConfig(slots=1, rank=2)
    levels = (slowest,)
    if arm != "none":
        levels = (LevelConfig(WINDOW, 0, rank, rate, arm), slowest)
    return MemoryConfig(levels, unit="tokens", stride=WINDOW, from_context=False)


def load(model: str, memory: MemoryConfig):
    """(cfg, params, tokenizer) of a model; nothing is recomputed in the backward pass."""
    cfg, params, tokenizer = load_model(model, dtype=jnp.float32, memory=memory, remat="none")
    return cfg, jax.tree.map(jnp.asarray, params), tokenizer


def tokens_of(text: pathlib.Path, tokenizer, start: int, count: int) -> list[int]:
    """The tokens of a text from the `start`-th on."""
    tokens = tokenizer.encode(text.read_text(encoding="utf-8"))[start : start + count]
    if len(tokens) < count:
        raise SystemExit(f"{text} has {start + len(tokens)} tokens; lower --tokens or --start")
    return tokens


def read_text(loaded, arm: str, rate: float, rank: int, tokens, seed: int, note) -> None:
    """Reads tokens and notes, after every piece, the loss of every stride and what it cost."""
    cfg, params, tokenizer = loaded
    cfg = cfg.replace(memory=memory_of(arm, rate, rank))
    memory, slots = init_memory(
        jax.random.key(seed), cfg.memory, layers=cfg.layers, width=cfg.width
    )
    base = {"params": params, "memory": memory, "slots": slots}
    anchors = AnchorSet.from_sequences([tokenizer.encode(t) for t in read_anchors().texts])

    def anchor_perplexity(state):
        variables = base | {"memory": put_wake(memory, state.wake)}
        return perplexity(*negative_log_likelihood(cfg, variables, anchors.tokens, anchors.mask))

    state, losses, began = init_wake(cfg, WAKE, memory), [], time.perf_counter()
    facts = {"rate": None}
    if arm != "none":
        facts["rate"] = learning_rate(cfg.memory.level(1), state.wake["level_1"])
    before = anchor_perplexity(state)
    for start in range(0, len(tokens), PIECE):
        piece = tokens[start : start + PIECE]
        state, nats = read_episode(cfg, WAKE, base, state, piece, is_end=False)
        losses += nats.tolist()
        is_done = start + PIECE >= len(tokens)
        if is_done:
            facts |= {"anchors": [before, anchor_perplexity(state)]}
        seconds = time.perf_counter() - began
        note(facts | {"losses": losses, "seconds": seconds, "is_done": is_done})


def main() -> None:
    """All arms, then the figure and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=pathlib.Path, nargs="+", required=True)
    parser.add_argument("--start", type=int, nargs="+", default=[0], help="first token")
    parser.add_argument("--tokens", type=int, default=20_000, help="a multiple of 1,000")
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--rates", type=float, nargs="+", default=[AUTO], help="default: auto")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/wake_reading"))
    parser.add_argument("--publish", action="store_true", help="rewrite the README's figures")
    a = parser.parse_args()
    a.workdir.mkdir(parents=True, exist_ok=True)
    loaded = load(a.model, memory_of("none", 0.0, a.rank))
    runs = []
    for text, start in ((text, start) for text in a.text for start in a.start):
        tokens = tokens_of(text, loaded[2], start, a.tokens)
        arms = [(arm, r) for arm in a.arms for r in (a.rates if arm != "none" else [0.0])]
        for arm, rate in arms:
            given = {"arm": arm, "given_rate": rate, "rank": a.rank, "seed": a.seed}
            given |= {"text": text.stem, "start": start, "tokens": a.tokens}
            path = a.workdir / ("_".join(map(str, given.values())) + ".json")

            def note(figures, given=given, path=path):
                path.write_text(json.dumps(given | figures))
                done = np.asarray(figures["losses"])
                print(given["arm"], len(done) * WINDOW, f"{done[-4:].mean():.4f}", flush=True)

            if not path.exists() or not json.loads(path.read_text())["is_done"]:
                read_text(loaded, arm, rate, a.rank, tokens, a.seed, note)
            runs.append(json.loads(path.read_text()))
    report(runs, a.workdir, publish=a.publish)


if __name__ == "__main__":
    main()
