"""The rounds of a night: rollouts of several updates are played at once and handed out, an update's
share at a time."""

import itertools
from collections.abc import Callable, Sequence

import jax

from sleep_jax.seeding.mixture import shuffled
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.rollouts import imitable, rollout_widths, written_widths
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import Exchange, States
from sleep_jax.seeding.update_log import Figures


class Rounds:
    """Rollouts as updates need them.

    Args:
      seeding: of the night.
      exchanges: teacher-written; some of them are dreams to imitate.
      written: on-policy sequences that were written before; then nothing is rolled out.
      play: `rollouts.play`, all but `dreams`, `student`, `value_head`, `widths` and `rng` given.
      rng: PRNG key; every round has one of its own.
      seed: of the order of dreams.

    Attributes:
      known: states of the last round's rollouts, by the id of each.
      figures: of the last round; {} before it.
      drawn: dreams that were imitated so far.

    Raises:
      ValueError: what an update learns from may not fit its rows.
    """

    def __init__(
        self,
        seeding: SeedingConfig,
        exchanges: Sequence[Exchange],
        written: Sequence[Exchange],
        play: Callable,
        rng,
        seed: int,
    ):
        self._seeding, self._play, self._rng = seeding, play, rng
        self._is_written = bool(written)
        self._left: list[Exchange] = []
        self.known: dict[int, States] = {}
        self.figures: Figures = {}
        self.drawn = 0
        shape, imitation, dreams = seeding.shape, seeding.imitation, []
        if self._is_written:
            self._share = min(seeding.num_prompts, len(written))
            self._widths = written_widths(written, shape, self._share)
        else:
            self._share = seeding.num_prompts * imitation.num_generations
            dreams = imitable(exchanges, shape, imitation, self._share)
            self._widths = rollout_widths(dreams, imitation)
        self._dreams = shuffled(dreams, seed)
        self._can_imitate = seeding.num_prompts > 0 and bool(self._is_written or dreams)

    @property
    def is_between(self) -> bool:
        """Whether a night that stops here can go on: no rollout is left that would be lost."""
        return self._is_written or not self._left

    def begin(self, student, value_head) -> None:
        """Before the first update: what was written is scored by the student as it is."""
        if self._is_written and self._can_imitate:
            self.play(0, student, value_head)

    def skip(self, updates: int, drawn: int) -> None:
        """Goes on after so many updates, which have drawn so many dreams."""
        self._left = self._left[updates * self._share :]
        self._dreams = itertools.islice(self._dreams, drawn, None)
        self.drawn = drawn

    def is_due(self, step: int, objective: Objective) -> bool:
        """Whether an update needs a round of its own: it learns from rollouts, and none is left."""
        learns = self._seeding.learns_from_rollouts(step, objective)
        return self._can_imitate and learns and not self._left

    def play(self, step: int, student, value_head) -> None:
        """A round for the updates from `step` on, of no more dreams than are left to learn from.

        Args:
          step: of an update.
          student: collections of the student as it is.
          value_head: of PPO, as it is; None: another estimator.
        """
        updates = min(self._seeding.steps_per_generation, self._seeding.steps - step)
        count = updates * self._seeding.num_prompts
        asked = [] if self._is_written else list(itertools.islice(self._dreams, count))
        self.drawn += len(asked)
        rollouts, states, self.figures = self._play(
            dreams=asked,
            student=student,
            value_head=value_head,
            widths=self._widths,
            rng=jax.random.fold_in(self._rng, step + 1),
        )
        self._left = rollouts * self._seeding.num_iterations
        self.known = dict(zip(map(id, rollouts), states))

    def take(self) -> list[Exchange]:
        """The rollouts of an update; none where it learns from the teacher alone."""
        here, self._left = self._left[: self._share], self._left[self._share :]
        return here

    def told(self) -> Figures:
        """Figures of the round; lists, which show its rollouts, are told once."""
        figures = self.figures
        self.figures = {name: x for name, x in figures.items() if isinstance(x, float)}
        return figures
