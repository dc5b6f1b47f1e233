"""One night's seeding: its updates, its rollouts, what each optimises, and the optimizer."""

import dataclasses
import functools

import optax

from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.sequences import BatchShape

MODES = ("joint", "staged")


@dataclasses.dataclass(frozen=True)
class SeedingConfig:
    """One night's seeding.

    Attributes:
      steps: updates of the slot.
      learning_rate, warmup: Adam's peak rate, reached after `warmup` steps, the first of which
        learns already; it decays along a cosine to a tenth.
      shape: packed rows of an update.
      dreams: teacher-written sequences that the student imitates in each update.
      updates_per_rollout: updates whose rollouts are sampled at once.
      reuse: times that the updates go over these rollouts before new ones are sampled.
      rollouts_from: share of the steps after which rollouts join; before, the student knows too
        little for them to earn anything.
      max_skipped: updates in a row that may be left out because they are not finite; one more, and
        the night stops.
      mode: `joint`, both terms in every update; `staged`, first the divergence alone, then the
        policy gradient alone, whatever alpha is.
      stage: of `staged`, the share of the steps that distil.
      objective, imitation: what is optimised.
    """

    steps: int
    learning_rate: float
    warmup: int
    shape: BatchShape
    dreams: int
    updates_per_rollout: int
    rollouts_from: float
    objective: Objective
    imitation: ImitationConfig
    max_skipped: int = 5
    reuse: int = 1
    mode: str = "joint"
    stage: float = 0.5

    def __post_init__(self):
        if self.steps <= self.warmup:
            raise ValueError(
                f"seeding.steps={self.steps} does not exceed seeding.warmup={self.warmup}; "
                "raise the one or lower the other"
            )
        for name in ("reuse", "updates_per_rollout"):
            if getattr(self, name) < 1:
                raise ValueError(f"seeding.{name}={getattr(self, name)}; give at least 1")
        if self.mode not in MODES:
            raise ValueError(f"seeding.mode={self.mode!r}; choose from {', '.join(MODES)}")
        if not 0 < self.stage < 1:
            raise ValueError(
                f"seeding.stage={self.stage}; it must lie between 0 and 1: for one stage alone set "
                "seeding.mode='joint' and seeding.alpha to 1 or 0"
            )
        if self.shape.rows % self.objective.accumulate:
            raise ValueError(
                f"seeding.rows={self.shape.rows} cannot be cut into seeding.accumulate="
                f"{self.objective.accumulate} equal parts; make the one a multiple of the other"
            )
        self._check_sampling()
        if self.max_skipped < 0:
            raise ValueError(f"seeding.max_skipped={self.max_skipped}; give 0 or more updates")
        if not 0 <= self.rollouts_from <= 1:
            raise ValueError(
                f"seeding.rollouts_from={self.rollouts_from}; it is a share of the steps, in [0, 1]"
            )

    def _check_sampling(self) -> None:
        how = self.imitation.temperature, self.imitation.top_p
        if how == (1, 1):
            return
        said = "seeding.rollout_temperature={}, seeding.rollout_top_p={}".format(*how)
        if self.objective.divergence.kind == "sampled":
            raise ValueError(
                f"{said} with seeding.divergence='sampled', which takes rollouts as they come; set "
                "both to 1"
            )
        if self.imitation.surrogate.importance_cap is None:
            raise ValueError(
                f"{said}: rollouts are not the student's own; correct for it with "
                "seeding.importance_cap=2, or set both to 1"
            )

    def objective_at(self, step: int) -> Objective:
        """What an update optimises."""
        if self.mode == "joint":
            return self.objective
        distils = step < round(self.stage * self.steps)
        return dataclasses.replace(self.objective, alpha=float(distils))

    def optimizer(self) -> optax.GradientTransformation:
        """Adam behind a clipped gradient."""
        return _optimizer(self.learning_rate, self.warmup, self.steps)


@functools.cache  # one object a setting: for any other, the step would compile anew every night
def _optimizer(peak: float, warmup: int, steps: int) -> optax.GradientTransformation:
    first = peak / (warmup + 1)  # from 0 the first update would be lost
    rate = optax.warmup_cosine_decay_schedule(first, peak, warmup, steps, peak / 10)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
