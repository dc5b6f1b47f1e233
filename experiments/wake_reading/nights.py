"""What levels hand up: a text is read with Eq. 2, level 1 -> 2 and 2 -> 3 sleep, and the loss on
what was read, and on what follows, is measured before and after every night.

python experiments/wake_reading/nights.py --text NOVEL.txt --workdir runs/wake_reading

Two windows are read. After the first, level 1 is consolidated into level 2; after the second, level
2 into level 3, then level 1 into level 2, as in a run. Sequences are the pages that were read.
Writes nights.json into the workdir, with --publish also beside this file, and prints the table.
"""

import argparse
import json
import math
import pathlib

import jax
from run import WAKE, WINDOW, load, tokens_of

from sleep_jax.config import default, read
from sleep_jax.data.documents import read_anchors
from sleep_jax.evals.metrics import perplexity
from sleep_jax.evals.recall import AnchorSet, negative_log_likelihood
from sleep_jax.memory.memory_config import OPTIMIZERS, LevelConfig, MemoryConfig
from sleep_jax.memory.schedule import due
from sleep_jax.memory.slots import init_memory
from sleep_jax.report.publish import publish
from sleep_jax.rewards.agreement import agreement
from sleep_jax.rewards.judge import rule_judge
from sleep_jax.seeding.consolidate import run_consolidation
from sleep_jax.seeding.gate import Gate
from sleep_jax.seeding.sequences import Teacher
from sleep_jax.seeding.transaction import MemoryState, begin_consolidation
from sleep_jax.setting import AUTO
from sleep_jax.study.self_study import reread
from sleep_jax.wake.context import read as read_context
from sleep_jax.wake.stream import init_wake, read_episode

HERE = pathlib.Path(__file__).parent
MARKS = ("<!-- nights: written by nights.py -->", "<!-- end of nights -->")
NEXT = 1000  # tokens that follow and are not read


def memory_of(optimizer: str, rate: float, period: int) -> MemoryConfig:
    """Level 1 learns at every stride; level 2 holds what it hands up, level 3 what level 2 does."""
    levels = (
        LevelConfig(period, 0, 16, rate, optimizer, updates_per_period=period // WINDOW),
        LevelConfig(2 * period, 2, 16),
        LevelConfig(slots=2, rank=16),
    )
    return MemoryConfig(levels, unit="tokens", stride=WINDOW, from_context=False)


def seeding_of(steps: int):
    """A night of distillation on two pages an update, without rollouts."""
    c = default()
    c.seeding.update({"steps": steps, "num_prompts": 0, "alpha": 1.0, "lam": 0.0})
    c.seeding.update({"batch_size": 2, "max_length": WINDOW + 6, "max_target_length": WINDOW})
    return read(c).seeding


def pages(tokens) -> list[list[int]]:
    """The tokens of each window."""
    return [tokens[start : start + WINDOW] for start in range(0, len(tokens), WINDOW)]


class Reader:
    """A model with its memory, and measures of it."""

    def __init__(self, loaded, memory: MemoryConfig, seed: int):
        cfg, self.params, self.tokenizer = loaded
        self.cfg = cfg.replace(memory=memory)
        self.rng = jax.random.key(seed)
        weights, slots = init_memory(self.rng, memory, layers=cfg.layers, width=cfg.width)
        self.state = MemoryState(weights, slots, init_wake(self.cfg, WAKE, weights))
        anchors = [self.tokenizer.encode(text) for text in read_anchors().texts]
        self.anchors = AnchorSet.from_sequences(anchors)

    def read(self, tokens) -> None:
        """Reads tokens by Eq. 2."""
        variables = self.state.variables(self.params)
        wake, _ = read_episode(self.cfg, WAKE, variables, self.state.wake, tokens, is_end=False)
        self.state = self.state.with_wake_state(wake)

    def nats(self, state: MemoryState, tokens) -> float:
        """Nats a token, every page on its own."""
        texts = AnchorSet.from_sequences(pages(tokens))
        variables = state.variables(self.params)
        total, count = negative_log_likelihood(self.cfg, variables, texts.tokens, texts.mask)
        return total / count

    def anchor_perplexity(self, variables) -> float:
        """Perplexity of the packaged anchor texts."""
        texts = self.anchors
        return perplexity(*negative_log_likelihood(self.cfg, variables, texts.tokens, texts.mask))

    def sleep(self, sender: int, replayed, steps: int, measured: dict) -> dict:
        """Consolidates a level; returns the losses on texts before, as teacher and afterwards."""
        rng = jax.random.fold_in(self.rng, 10 * sender + len(replayed))
        transaction = begin_consolidation(
            self.cfg, WAKE, self.state, sender, "commit_then_clear", rng
        )
        variables = transaction.teacher.variables(self.params)
        context = read_context(self.cfg, variables, [()])[0]
        exchanges = reread(pages(replayed))
        self.state, figures = run_consolidation(
            self.cfg,
            self.params,
            self.tokenizer,
            rule_judge(agreement),
            seeding_of(steps),
            Gate(divergence=math.inf, anchors=math.inf),
            transaction,
            teachers=[Teacher(self.cfg, variables, context)],
            exchanges=exchanges,
            probe=exchanges,
            anchors=self.anchor_perplexity,
            rng=rng,
            log=lambda step, metrics: None,
        )
        states = {
            "before": transaction.teacher,
            "cleared": transaction.student,
            "after": self.state,
        }
        losses = {
            text: {name: self.nats(state, tokens) for name, state in states.items()}
            for text, tokens in measured.items()
        }
        anchors = self.anchor_perplexity(self.state.variables(self.params))
        return {"levels": f"{sender} -> {sender + 1}", **figures, **losses, "anchors": anchors}


def table(result: dict) -> str:
    """Nats a token less those of the base, and the share of the gain that a night keeps."""
    lines = [
        "| night | text | before the night | level cleared | after the night | kept | anchors |",
        "|---" * 7 + "|",
    ]
    anchors = result["base"]["anchors"]
    for night in result["nights"]:
        for text in ("read", "next"):
            base = result["base"][f"{text}_{night['window']}"]
            nats = {name: value - base for name, value in night[text].items()}
            held = nats["before"] - nats["cleared"]
            kept = (nats["after"] - nats["cleared"]) / held if held else math.nan
            cells = [f"{nats[name]:+.3f}" for name in ("before", "cleared", "after")]
            cells += [f"{kept:.0%}", f"{night['anchors'] / anchors - 1:+.1%}"]
            label = {"read": "what was read", "next": "what follows"}[text]
            lines.append(f"| {night['levels']} | {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Reads two windows with their three nights."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=pathlib.Path, required=True)
    parser.add_argument("--start", type=int, default=0, help="first token")
    parser.add_argument("--period", type=int, default=2500, help="tokens between nights")
    parser.add_argument("--steps", type=int, default=30, help="updates of a night")
    parser.add_argument("--optimizer", default="adam", choices=OPTIMIZERS)
    parser.add_argument("--rate", type=float, default=AUTO, help="default: auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/wake_reading"))
    parser.add_argument("--publish", action="store_true", help="rewrite the README's table")
    a = parser.parse_args()
    a.workdir.mkdir(parents=True, exist_ok=True)
    memory = memory_of(a.optimizer, a.rate, a.period)
    loaded = load(a.model, memory)
    tokens = tokens_of(a.text, loaded[2], a.start, 2 * a.period + NEXT)
    reader = Reader(loaded, memory, a.seed)
    result = {k: str(v) if k == "text" else v for k, v in vars(a).items()} | {"text": a.text.stem}
    del result["workdir"], result["publish"]
    initial = reader.state
    base = {"anchors": reader.anchor_perplexity(initial.variables(reader.params))}
    nights = []
    for window in (1, 2):
        end = window * a.period
        part = {"read": tokens[:end], "next": tokens[end : end + NEXT]}
        base |= {f"{name}_{window}": reader.nats(initial, text) for name, text in part.items()}
        reader.read(tokens[end - a.period : end])
        for sender in due(memory, end):
            replayed = tokens[end - memory.level(sender).period : end]
            night = reader.sleep(sender, replayed, a.steps, part)
            nights.append(night | {"window": window})
            print(json.dumps(nights[-1]), flush=True)
            text = json.dumps(result | {"base": base, "nights": nights}, indent=1) + "\n"
            (a.workdir / "nights.json").write_text(text)
    lines = table(result | {"base": base, "nights": nights})
    print(lines)
    if a.publish:
        (HERE / "nights.json").write_text(text)
        publish(HERE / "README.md", MARKS, lines)


if __name__ == "__main__":
    main()
