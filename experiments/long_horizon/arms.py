"""The arms of the comparison: all read the same text, they differ in their nights."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from base import CFG, PAGE, WAKE
from facts import SENTENCE, Fact
from night import NightConfig, generator_of, optimizer_of, seed, statements, study

from sleep_jax.memory.schedule import due
from sleep_jax.memory.slots import init_memory, used
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.head import masked_sum, token_log_probs
from sleep_jax.seeding.transaction import PROTOCOLS, MemoryState, Transaction, begin_consolidation
from sleep_jax.wake.stream import apply_due, init_wake, read_episode

ONE_SLOT = "one slot"
ARMS = ("no sleep", "fine-tuning", *PROTOCOLS, ONE_SLOT)


@dataclasses.dataclass
class Life:
    """One arm's model and what it does with an episode.

    Attributes:
      arm: one of `ARMS`.
      params: the base.
      self: memory, slots and the reader.
      night: how nights are spent.
      rng: PRNG key of this life.
      past: every episode so far; a night reads the window of its sender alone.
      log: a line a night.
    """

    arm: str
    params: Any
    self: MemoryState
    night: NightConfig
    rng: Any
    past: list[list[Fact]] = dataclasses.field(default_factory=list)
    log: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def born(cls, arm: str, params, night: NightConfig, seed: int) -> "Life":
        """A life before its first episode."""
        rng = jax.random.key(seed)
        memory, slots = init_memory(rng, CFG.memory, layers=CFG.layers, width=CFG.width)
        return cls(
            arm, params, MemoryState(memory, slots, init_wake(CFG, WAKE, memory)), night, rng
        )

    @property
    def variables(self):
        """The model as it stands."""
        return self.self.variables(self.params)

    def read(self, episode: list[Fact]) -> Any:
        """Reads an episode; its updates (Eq. 2) come due and stay pending.

        Returns:
          The collections of the model with them applied: awake, before the night.
        """
        self.past.append(episode)
        if self.arm == "fine-tuning":
            return self.variables
        tokens = np.concatenate(statements(episode))
        state, _ = read_episode(CFG, WAKE, self.variables, self.self.wake, tokens)
        self.self = self.self.with_wake_state(state)
        return self.self.with_wake_state(apply_due(CFG.memory, WAKE, state)).variables(self.params)

    def sleep(self) -> None:
        """The night after an episode: one consolidation for each level that is due."""
        if self.arm == "no sleep":
            self.self = self.self.with_wake_state(apply_due(CFG.memory, WAKE, self.self.wake))
            return
        clock = len(self.past)
        for sender in due(CFG.memory, clock):
            episodes = self.past[-held_by(sender, clock) :]
            window = [fact for episode in episodes for fact in episode]
            rng = jax.random.fold_in(jax.random.fold_in(self.rng, clock), sender)
            if self.arm == "fine-tuning":
                self.params = fine_tune(
                    self.params, self.self, self.night, self.night.steps[sender - 1], window, rng
                )
                continue
            protocol = self.arm if self.arm in PROTOCOLS else "commit_then_clear"
            transaction = begin_consolidation(CFG, WAKE, self.self, sender, protocol, rng)
            if self.arm == ONE_SLOT:
                transaction = into_first_slot(transaction)
            teacher = transaction.teacher.variables(self.params)
            exchanges = study(CFG, teacher, window, self.night.rehearsal, rng)
            memory, (before, after) = seed(
                CFG, self.night, transaction, self.params, exchanges, rng
            )
            self.self = transaction.commit(memory)
            self.log.append({"clock": clock, "sender": sender, "before": before, "after": after})


def held_by(level: int, clock: int) -> int:
    """Of how many episodes a level that sleeps now holds something.

    A level with slots was given one on the night of its last sleep, too, after it had been cleared:
    slow levels sleep first.
    """
    period = CFG.memory.level(level).period
    return period + (CFG.memory.level(level).slots > 0 and clock > period)


def into_first_slot(transaction: Transaction) -> Transaction:
    """The same consolidation into the receiver's first slot, whatever that holds already."""
    held = transaction.before.slots
    if not used(held, transaction.level):
        return transaction
    name = f"level_{transaction.level}"
    slots = {"layers": transaction.student.slots["layers"] | {name: held["layers"][name]}}
    student = transaction.student.replace(slots=slots)
    return dataclasses.replace(transaction, student=student, index=0)


def fine_tune(params, self: MemoryState, night: NightConfig, steps: int, window: list[Fact], rng):
    """The base's FFN weights after as many updates, of as many tokens, as a night has.

    Next-token loss on the window's own text; the memory is as at birth and stays silent.
    """
    sentences = np.asarray(statements(window), np.int32)
    shape = (steps, night.rows * PAGE // SENTENCE)
    order = generator_of(rng).integers(len(sentences), size=shape)
    optimizer = optimizer_of(night.tuning_rate, steps)
    return _fine_tune(optimizer, params, self.memory, self.slots, sentences, order)


@functools.partial(jax.jit, static_argnames="optimizer")
def _fine_tune(optimizer, params, memory, slots, sentences, order):
    def with_mlp(mlp):
        return params | {"layers": params["layers"] | {"mlp": mlp}}

    def loss(mlp, tokens):
        variables = {"params": with_mlp(mlp), "memory": memory, "slots": slots}
        hidden = Decoder(CFG).apply(variables, tokens[:, :-1])
        targets = tokens[:, 1:].reshape(-1)
        mask = jnp.ones(targets.shape, bool)
        head = lm_head(CFG, params)
        scores = token_log_probs(hidden.reshape(-1, CFG.width), targets, mask, head, 1024)
        total, scored = masked_sum(-scores, mask)
        return total / scored

    def step(state, rows):
        mlp, held = state
        updates, held = optimizer.update(jax.grad(loss)(mlp, sentences[rows]), held)
        return (optax.apply_updates(mlp, updates), held), None

    mlp = params["layers"]["mlp"]
    return with_mlp(jax.lax.scan(step, (mlp, optimizer.init(mlp)), order)[0][0])
