"""The rollouts of a night, which are collected for several updates at once and handed out to each
of them in equal shares."""

import itertools
import warnings
from collections.abc import Callable, Sequence

import jax

from sleep_jax.data.batches import bucket, pack
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.mixture import shuffled
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.rollouts import PadWidths
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    pack_exchanges,
)
from sleep_jax.services import Figures


class RolloutBuffer:
    """Rollouts as updates need them.

    A round is one call of `collect`: the rollouts of `seeding.steps_per_generation` updates, each
    of which takes an equal share, `seeding.num_iterations` times over.

    Args:
      seeding: of the night.
      exchanges: teacher-written; some of them are dreams to imitate.
      written: rollouts that exist already; then none are sampled.
      collect: `rollouts.collect_rollouts` with all arguments bound but `dreams`, `student`,
        `value_head`, `widths` and `rng`.
      rng: PRNG key; every round folds in the number of its first update.
      seed: of the order of dreams.

    Attributes:
      states: hidden states of the last round's rollouts, by the id of each.
      dreams_drawn: dreams that were imitated so far.

    Raises:
      ValueError: the rollouts of an update may not fit its rows.
    """

    def __init__(
        self,
        seeding: SeedingConfig,
        exchanges: Sequence[Exchange],
        written: Sequence[Exchange],
        collect: Callable,
        rng,
        seed: int,
    ):
        self._seeding, self._collect, self._rng = seeding, collect, rng
        self._has_written = bool(written)
        self._remaining: list[Exchange] = []
        self._figures: Figures = {}
        self.states: dict[int, HiddenStates] = {}
        self.dreams_drawn = 0
        shape, imitation, dreams = seeding.shape, seeding.imitation, []
        if self._has_written:
            self._share = min(seeding.num_prompts, len(written))
            self._widths = written_widths(written, shape, self._share)
        else:
            self._share = seeding.num_prompts * imitation.num_generations
            dreams = imitable_exchanges(exchanges, shape, imitation, self._share)
            self._widths = rollout_widths(dreams, imitation)
        self._dreams = shuffled(dreams, seed)
        self._can_imitate = seeding.num_prompts > 0 and bool(self._has_written or dreams)

    @property
    def is_resumable(self) -> bool:
        """Whether a night that stops now loses no rollout."""
        return self._has_written or not self._remaining

    def collect_written(self, student, value_head) -> None:
        """Before the first update: scores the written rollouts, if any, by the initial student."""
        if self._has_written and self._can_imitate:
            self.collect(0, student, value_head)

    def resume(self, updates: int, dreams_drawn: int) -> None:
        """Skips what an earlier attempt has used.

        Args:
          updates: that it has made.
          dreams_drawn: by these updates.
        """
        self._remaining = self._remaining[updates * self._share :]
        self._dreams = itertools.islice(self._dreams, dreams_drawn, None)
        self.dreams_drawn = dreams_drawn

    def is_due(self, step: int, objective: Objective) -> bool:
        """Whether an update learns from rollouts and none is left, so that `collect` is next."""
        is_on_policy = self._seeding.learns_from_rollouts(step, objective)
        return self._can_imitate and is_on_policy and not self._remaining

    def collect(self, step: int, student, value_head) -> None:
        """Collects a round for the updates from `step` on (`SeedingConfig.updates_of_round`).

        Args:
          step: number of the first of these updates.
          student: its collections.
          value_head: of PPO; None: another estimator.
        """
        updates = self._seeding.updates_of_round(step)
        count = 0 if self._has_written else updates * self._seeding.num_prompts
        dreams = list(itertools.islice(self._dreams, count))
        self.dreams_drawn += len(dreams)
        rollouts, states, self._figures = self._collect(
            dreams=dreams,
            student=student,
            value_head=value_head,
            widths=self._widths,
            rng=jax.random.fold_in(self._rng, step + 1),
        )
        self._remaining = rollouts * self._seeding.num_iterations
        self.states = dict(zip(map(id, rollouts), states))

    def take(self) -> list[Exchange]:
        """Removes the rollouts of an update; [] where it learns from the teacher alone."""
        share, self._remaining = self._remaining[: self._share], self._remaining[self._share :]
        return share

    def take_figures(self) -> Figures:
        """Figures of the round; its lists and texts are given once, its numbers to every update."""
        figures = self._figures
        self._figures = {name: x for name, x in figures.items() if isinstance(x, float)}
        return figures


def imitable_exchanges(
    exchanges: Sequence[Exchange], shape: BatchShape, imitation: ImitationConfig, rollouts: int
) -> list[Exchange]:
    """The exchanges that the student can imitate, except those that are too long: wherever they are
    cut, the rollouts of an update must fit its rows. Warns of those left out.

    Args:
      exchanges: teacher-written.
      shape: of the batch.
      imitation: how they are rolled out.
      rollouts: of an update.

    Raises:
      ValueError: all that could be imitated are too long.
    """
    dreams = [e for e in exchanges if e.is_imitable]
    fitting, fewest = fitting_dreams(dreams, shape, imitation, rollouts)
    if dreams and not fitting:
        raise ValueError(
            f"{rollouts} rollouts of an update (seeding.num_prompts x seeding.num_generations) may "
            f"need {fewest} rows, more than seeding.batch_size={shape.batch_size}; raise it "
            f"or lower one of the two"
        )
    if len(fitting) < len(dreams):
        warnings.warn(
            f"{len(dreams) - len(fitting)} of {len(dreams)} sequences are too long for {rollouts} "
            "rollouts an update and are not rolled out; raise seeding.batch_size or "
            "seeding.max_length to imitate them, too",
            stacklevel=2,
        )
    return fitting


def fitting_dreams(
    dreams: Sequence[Exchange], shape: BatchShape, imitation: ImitationConfig, rollouts: int
) -> tuple[list[Exchange], int]:
    """(dreams whose rollouts fit the rows of an update, the fewest rows that any dream needs).

    Args:
      dreams: that can be imitated.
      shape, imitation, rollouts: as for `imitable_exchanges`.
    """
    needed = [
        rows_needed(shape, bucket(_longest_prompt(e)), rollouts, imitation.max_new_tokens)
        for e in dreams
    ]
    fitting = [e for e, rows in zip(dreams, needed) if rows <= shape.batch_size]
    return fitting, min(needed, default=0)


def _longest_prompt(dream: Exchange) -> int:
    return len(dream.student) + len(dream.completion)


def rows_needed(shape: BatchShape, prompt_width: int, rollouts: int, new_tokens: int) -> int:
    """Rows that rollouts need if each is as long as possible."""
    row_length = shape.max_length - len(shape.shared_prefix)
    length = min(prompt_width + new_tokens - len(shape.shared_prefix), row_length)
    return len(pack([(length, new_tokens)] * rollouts, (row_length, shape.max_target_length)))


def rollout_widths(dreams: Sequence[Exchange], imitation: ImitationConfig) -> PadWidths:
    """Widths that hold every rollout from some dreams."""
    student = max(map(_longest_prompt, dreams), default=1)
    teacher = max((len(e.teacher) + len(e.completion) for e in dreams), default=1)
    return PadWidths(bucket(student), bucket(teacher + imitation.max_new_tokens))


def written_widths(written: Sequence[Exchange], shape: BatchShape, share: int) -> PadWidths:
    """Widths that hold rollouts that exist already.

    Args:
      written: the rollouts.
      shape: of the batch.
      share: how many of them an update learns from.

    Raises:
      ValueError: the longest of them that an update may learn from do not fit its rows.
    """
    longest = sorted(written, key=lambda e: len(e.student + e.completion))[-share:]
    if (needed := len(pack_exchanges(longest, shape))) > shape.batch_size:
        raise ValueError(
            f"dreaming.batch_size={share} dreams of an update, with their documents in context, "
            f"may need {needed} rows, more than seeding.batch_size={shape.batch_size}; raise it or "
            f"lower dreaming.batch_size"
        )
    return PadWidths(0, written_width(written))


def written_width(written: Sequence[Exchange]) -> int:
    """Width of a teacher's rows that holds every one of these rollouts, in tokens."""
    return bucket(max(len(e.teacher + e.completion) for e in written))
