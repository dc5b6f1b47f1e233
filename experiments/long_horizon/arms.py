"""The arms of the comparison: all read the same text, they differ in their nights."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from base import CFG, PAGE, WAKE, memory_config
from consolidation import (
    NightConfig,
    draw_rows,
    known_exchanges,
    new_exchanges,
    optimizer,
    seed_slot,
    statements,
)
from facts import ASKED, PAD, SENTENCE, Fact

from sleep_jax.baselines.finetune import finetune
from sleep_jax.baselines.model import Leaves, Model
from sleep_jax.data.batches import pad
from sleep_jax.data.orders import numpy_generator
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.schedule import due
from sleep_jax.memory.slots import init_memory, used
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.head import masked_sum, token_log_probs
from sleep_jax.seeding.transaction import MemoryState, Transaction, begin_consolidation
from sleep_jax.wake.stream import apply_due, init_wake, read_episode

METHODS = ("none", "fine-tuning", "commit_then_clear", "paper")


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to spend the nights.

    Attributes:
      method: one of `METHODS`; `none`: wake weights learn by Eq. 2 and never sleep.
      night: the settings.
      one_slot: every night trains the receiver's first slot again.
    """

    method: str
    night: NightConfig = dataclasses.field(default_factory=NightConfig)
    one_slot: bool = False

    def without(self, **settings) -> "Arm":
        """The same with other settings of its nights."""
        return dataclasses.replace(self, night=dataclasses.replace(self.night, **settings))


FINE_TUNING = Arm("fine-tuning", NightConfig(known_pages=0, learning_rate=2e-4))
REPLAY = Arm("fine-tuning", NightConfig(known=360, earlier_facts=60, learning_rate=2e-4))
WRITTEN = {"known": 480, "earlier_facts": 60, "drafts": 8}
LASTING = Arm(
    "commit_then_clear",
    NightConfig(
        **WRITTEN,
        parts=4,
        replays_today=False,
        known_teacher="before",
        null_space=0.97,
        begins_as="sender",
        ranks=(64, 128),
        learning_rate=2e-3,
    ),
)
LONGER = {"steps": (80, 240)}
ARMS = {
    "fine-tuning": FINE_TUNING,
    "fine-tuning with replay": REPLAY,
    "lasting": LASTING,
    "commit_then_clear": Arm("commit_then_clear"),
    "one slot": Arm("commit_then_clear", one_slot=True),
    "paper": Arm("paper"),
    "no sleep": Arm("none"),
    "lasting, no null space": LASTING.without(null_space=0.0),
    "lasting, one teacher": LASTING.without(known_teacher="self"),
    "lasting, no earlier questions": LASTING.without(earlier_facts=0),
    "lasting, recitation alone": LASTING.without(asks=False),
    "lasting, slots begin as nothing": LASTING.without(begins_as="nothing"),
    "lasting, all drafts": LASTING.without(drafts=1),
    "lasting, drawn evenly": LASTING.without(parts=1),
    "lasting, narrow slots": LASTING.without(ranks=(16, 32)),
    "fine-tuning with replay, drafts": REPLAY.without(**WRITTEN),
    "lasting, longer": LASTING.without(**LONGER),
    "fine-tuning, longer": FINE_TUNING.without(**LONGER),
    "fine-tuning with replay, longer": REPLAY.without(**LONGER),
}


@dataclasses.dataclass
class Learner:
    """One arm's model and what it does with an episode.

    Attributes:
      arm: how it spends its nights.
      params: the base.
      state: memory, slots and the reader.
      rng: PRNG key of this run.
      episodes: all that were read; a night uses the window of its sender alone.
      log: figures of each consolidation.
    """

    arm: Arm
    params: Any
    state: MemoryState
    rng: Any
    episodes: list[list[Fact]] = dataclasses.field(default_factory=list)
    log: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @classmethod
    def create(cls, arm: Arm, params, seed: int) -> "Learner":
        """A model before its first episode."""
        rng, memory_cfg = jax.random.key(seed), memory_config(arm.night.ranks)
        memory, slots = init_memory(rng, memory_cfg, layers=CFG.layers, width=CFG.width)
        cfg = CFG.replace(memory=memory_cfg)
        return cls(arm, params, MemoryState(memory, slots, init_wake(cfg, WAKE, memory)), rng)

    @property
    def cfg(self):
        """The decoder with the memory of this arm."""
        return CFG.replace(memory=memory_config(self.arm.night.ranks))

    @property
    def variables(self):
        """The model's collections as they are now."""
        return self.state.variables(self.params)

    def read(self, episode: list[Fact]) -> Any:
        """Reads an episode; its updates (Eq. 2) come due and stay pending.

        Returns:
          The model's collections with them applied: awake, before the night.
        """
        self.episodes.append(episode)
        if self.arm.method == "fine-tuning":
            return self.variables
        tokens = np.concatenate(statements(episode))
        wake, _ = read_episode(self.cfg, WAKE, self.variables, self.state.wake, tokens)
        self.state = self.state.with_wake_state(wake)
        awake = self.state.with_wake_state(apply_due(self.cfg.memory, WAKE, wake))
        return awake.variables(self.params)

    def sleep(self) -> None:
        """The night after an episode: one consolidation for each level that is due."""
        if self.arm.method == "none":
            wake = apply_due(self.cfg.memory, WAKE, self.state.wake)
            self.state = self.state.with_wake_state(wake)
            return
        clock = len(self.episodes)
        for sender in due(self.cfg.memory, clock):
            length = window_length(self.cfg, sender, clock)
            is_handed = self.cfg.memory.level(sender).slots > 0
            skipped = int(is_handed and not self.arm.night.replays_today)
            window = list(itertools.chain(*self.episodes[-length : clock - skipped]))
            earlier = list(itertools.chain(*self.episodes[:-length]))
            rng = jax.random.fold_in(jax.random.fold_in(self.rng, clock), sender)
            asked = _drawn(earlier, self.arm.night.earlier_facts, rng)
            if self.arm.method == "fine-tuning":
                self.fine_tune(sender, window, asked, rng)
            else:
                self.consolidate(sender, window, asked, rng)

    def consolidate(self, sender: int, window: list[Fact], earlier: list[Fact], rng) -> None:
        """Seeds a slot of the next level with what the sender learnt from the window.

        Args:
          sender: the level.
          window: what it learnt from.
          earlier: people of before who are asked about again.
          rng: PRNG key.
        """
        night, cfg = self.arm.night, self.cfg
        transaction = begin_consolidation(cfg, WAKE, self.state, sender, self.arm.method, rng)
        if self.arm.one_slot:
            transaction = into_first_slot(transaction)
        teacher = transaction.teacher.variables(self.params)
        # What was read is pending until now: without it, this is the model before the day.
        before = transaction.before.variables(self.params)
        known_teacher = {"self": teacher, "before": before}[night.known_teacher]
        exchanges = new_exchanges(cfg, teacher, window, rng, night.asks)
        exchanges += known_exchanges(cfg, known_teacher, earlier, night.known, rng, night.drafts)
        memory, figures = seed_slot(
            cfg, night, transaction, self.params, exchanges, known_teacher, rng
        )
        self.state = transaction.commit(memory)
        self.log.append(
            {
                "clock": len(self.episodes),
                "sender": sender,
            }
            | figures
        )

    def fine_tune(self, sender: int, window: list[Fact], earlier: list[Fact], rng) -> None:
        """The FFN weights learn the window's own text by as many updates, of as many tokens, as a
        night of this sender has. With replay they also learn the questions of a night with the true
        answers, and half of every update is what the model itself wrote before: the answers about
        earlier people, and unprompted sentences. Its memory is as initialised and changes nothing.
        """
        night, steps = self.arm.night, self.arm.night.steps[sender - 1]
        new, known = statements(window), []
        if night.known_pages:
            new = new + [fact.tokens(question) for question in ASKED for fact in window]
            written = known_exchanges(
                self.cfg, self.variables, earlier, night.known, rng, night.drafts
            )
            known = [e.student + e.completion for e in written]
        sentences = pad(new + known, SENTENCE, value=PAD)[0]
        rows = np.arange(len(new)), np.arange(len(new), len(sentences))
        order = draw_rows(night, steps, *rows, rng, PAGE // SENTENCE)
        model = finetune(
            Model(CFG.replace(memory=MemoryConfig()), {"params": self.params}),
            Leaves("params/layers/mlp/.*"),
            next_token_loss,
            (sentences[rows] for rows in order),
            optimizer(night.learning_rate, steps),
            steps=steps,
            updates_per_call=steps,
        )
        self.params = model.variables["params"]


def _drawn(facts: Sequence[Fact], count: int, rng) -> list[Fact]:
    """At most `count` of the facts, each once."""
    order = numpy_generator(jax.random.fold_in(rng, 1)).permutation(len(facts))
    return [facts[i] for i in order[:count]]


def window_length(cfg, level: int, clock: int) -> int:
    """How many of the last episodes a level that sleeps now has learnt from.

    A level with slots was given one on the night of its last sleep, too, after it had been cleared:
    slow levels sleep first.
    """
    period = cfg.memory.level(level).period
    return period + (cfg.memory.level(level).slots > 0 and clock > period)


def into_first_slot(transaction: Transaction) -> Transaction:
    """The same consolidation into the receiver's first slot, whatever that holds already."""
    slots_before = transaction.before.slots
    if not used(slots_before, transaction.level):
        return transaction
    name = f"level_{transaction.level}"
    layers = transaction.student.slots["layers"] | {name: slots_before["layers"][name]}
    student = transaction.student.replace(slots={"layers": layers})
    return dataclasses.replace(transaction, student=student, index=0)


def next_token_loss(model: Model, tokens, rng):
    """(sum in nats, tokens) of the next-token loss of int32 [rows, time]; of padding, none."""
    cfg = model.cfg
    hidden = Decoder(cfg).apply(model.variables, tokens[:, :-1])
    targets = tokens[:, 1:].reshape(-1)
    mask = targets != PAD
    head = lm_head(cfg, model.variables["params"])
    scores = token_log_probs(hidden.reshape(-1, cfg.width), targets, mask, head, 1024)
    return masked_sum(-scores, mask)
