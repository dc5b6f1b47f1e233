"""The arms of the comparison: all read the same text, they differ in their nights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from base import CFG, PAGE, WAKE
from consolidation import (
    NightConfig,
    numpy_generator,
    optimizer,
    seed_slot,
    statements,
    write_exchanges,
)
from facts import SENTENCE, Fact

from sleep_jax.baselines.finetune import finetune
from sleep_jax.baselines.model import Leaves, Model
from sleep_jax.memory.schedule import due
from sleep_jax.memory.slots import init_memory, used
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.head import masked_sum, token_log_probs
from sleep_jax.seeding.transaction import PROTOCOLS, MemoryState, Transaction, begin_consolidation
from sleep_jax.wake.stream import apply_due, init_wake, read_episode

ONE_SLOT = "one slot"
ARMS = ("no sleep", "fine-tuning", *PROTOCOLS, ONE_SLOT)


@dataclasses.dataclass
class Learner:
    """One arm's model and what it does with an episode.

    Attributes:
      arm: one of `ARMS`.
      params: the base.
      state: memory, slots and the reader.
      night: how nights are spent.
      rng: PRNG key of this run.
      episodes: all that were read; a night uses the window of its sender alone.
      log: figures of each consolidation.
    """

    arm: str
    params: Any
    state: MemoryState
    night: NightConfig
    rng: Any
    episodes: list[list[Fact]] = dataclasses.field(default_factory=list)
    log: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def create(cls, arm: str, params, night: NightConfig, seed: int) -> "Learner":
        """A model before its first episode."""
        rng = jax.random.key(seed)
        memory, slots = init_memory(rng, CFG.memory, layers=CFG.layers, width=CFG.width)
        state = MemoryState(memory, slots, init_wake(CFG, WAKE, memory))
        return cls(arm, params, state, night, rng)

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
        if self.arm == "fine-tuning":
            return self.variables
        tokens = np.concatenate(statements(episode))
        wake, _ = read_episode(CFG, WAKE, self.variables, self.state.wake, tokens)
        self.state = self.state.with_wake_state(wake)
        return self.state.with_wake_state(apply_due(CFG.memory, WAKE, wake)).variables(self.params)

    def sleep(self) -> None:
        """The night after an episode: one consolidation for each level that is due."""
        if self.arm == "no sleep":
            self.state = self.state.with_wake_state(apply_due(CFG.memory, WAKE, self.state.wake))
            return
        clock = len(self.episodes)
        for sender in due(CFG.memory, clock):
            episodes = self.episodes[-window_length(sender, clock) :]
            window = [fact for episode in episodes for fact in episode]
            rng = jax.random.fold_in(jax.random.fold_in(self.rng, clock), sender)
            if self.arm == "fine-tuning":
                steps = self.night.steps[sender - 1]
                model = fine_tune(Model(CFG, self.variables), self.night, steps, window, rng)
                self.params = model.variables["params"]
            else:
                self.consolidate(sender, window, rng)

    def consolidate(self, sender: int, window: list[Fact], rng) -> None:
        """Seeds a slot of the next level with what the sender learnt from the window."""
        protocol = self.arm if self.arm in PROTOCOLS else "commit_then_clear"
        transaction = begin_consolidation(CFG, WAKE, self.state, sender, protocol, rng)
        if self.arm == ONE_SLOT:
            transaction = into_first_slot(transaction)
        teacher = transaction.teacher.variables(self.params)
        exchanges = write_exchanges(CFG, teacher, window, self.night.rehearsal, rng)
        memory, (before, after) = seed_slot(
            CFG, self.night, transaction, self.params, exchanges, rng
        )
        self.state = transaction.commit(memory)
        clock = len(self.episodes)
        self.log.append({"clock": clock, "sender": sender, "before": before, "after": after})


def window_length(level: int, clock: int) -> int:
    """How many of the last episodes a level that sleeps now has learnt from.

    A level with slots was given one on the night of its last sleep, too, after it had been cleared:
    slow levels sleep first.
    """
    period = CFG.memory.level(level).period
    return period + (CFG.memory.level(level).slots > 0 and clock > period)


def into_first_slot(transaction: Transaction) -> Transaction:
    """The same consolidation into the receiver's first slot, whatever that holds already."""
    slots_before = transaction.before.slots
    if not used(slots_before, transaction.level):
        return transaction
    name = f"level_{transaction.level}"
    layers = transaction.student.slots["layers"] | {name: slots_before["layers"][name]}
    student = transaction.student.replace(slots={"layers": layers})
    return dataclasses.replace(transaction, student=student, index=0)


def fine_tune(model: Model, night: NightConfig, steps: int, window: list[Fact], rng) -> Model:
    """The model whose FFN weights learnt the window's own text by as many updates, of as many
    tokens, as a night has. Its memory is as initialised and changes nothing.
    """
    sentences = np.asarray(statements(window), np.int32)
    shape = (steps, night.batch_size * PAGE // SENTENCE)
    order = numpy_generator(rng).integers(len(sentences), size=shape)
    return finetune(
        model,
        Leaves("params/layers/mlp/.*"),
        next_token_loss,
        (sentences[rows] for rows in order),
        optimizer(night.tuning_rate, steps),
        steps=steps,
        updates_per_call=steps,
    )


def next_token_loss(model: Model, tokens, rng):
    """(sum in nats, tokens) of the next-token loss of int32 [rows, time]."""
    cfg = model.cfg
    hidden = Decoder(cfg).apply(model.variables, tokens[:, :-1])
    targets = tokens[:, 1:].reshape(-1)
    mask = jnp.ones(targets.shape, bool)
    head = lm_head(cfg, model.variables["params"])
    scores = token_log_probs(hidden.reshape(-1, cfg.width), targets, mask, head, 1024)
    return masked_sum(-scores, mask)
