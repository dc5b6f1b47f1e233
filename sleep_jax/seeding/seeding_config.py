"""One night's seeding: its updates, its rollouts, what each optimises, and the optimizer."""

import dataclasses
import functools

import optax

from sleep_jax.rewards.judge import JUDGES
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.sequences import BatchShape
from sleep_jax.seeding.transaction import PROTOCOLS
from sleep_jax.settings import Settings, part, setting

MODES = ("joint", "staged")


@dataclasses.dataclass(frozen=True)
class SeedingConfig(Settings, section="seeding"):
    """One night's seeding.

    The rate is reached after `warmup` steps, the first of which learns already, and decays along a
    cosine to a tenth. Before `rollouts_from` the student knows too little for rollouts to earn
    anything. `joint` has both terms in every update; `staged` first the divergence alone, then the
    policy gradient alone, whatever alpha is.

    Attributes:
      shape: of an update.
      objective, imitation: what is optimised.

    Raises:
      ValueError: a field has no such value, or fields that cannot be together.
    """

    teachers: tuple[str, ...] = setting((), "further models that read, too: names as of model.name")
    teacher_weights: tuple[float, ...] = setting(
        (1.0,),
        "of the self that has read and of each of those; they sum to 1",
        above=0,
        most=1,
    )
    protocol: str = setting("commit_then_clear", "who teaches whom", choices=PROTOCOLS)
    steps: int = setting(100, "updates of a night", least=1)
    learning_rate: float = setting(1e-2, "Adam's peak rate", above=0)
    warmup: int = setting(4, "updates until that rate is reached; 0: it begins with it", least=0)
    shape: BatchShape = part(BatchShape)
    num_prompts: int = setting(
        1, "sequences imitated in each update, num_generations rollouts each; 0: none", least=0
    )
    steps_per_generation: int = setting(4, "updates whose rollouts are sampled at once", least=1)
    num_iterations: int = setting(1, "passes of these updates over their rollouts", least=1)
    rollouts_from: float = setting(
        0.0, "share of the steps after which rollouts join", least=0, most=1
    )
    max_skipped: int = setting(
        5, "updates in a row that are not finite before the night stops", least=0
    )
    mode: str = setting("joint", "both terms at once, or distil and then imitate", choices=MODES)
    stage: float = setting(
        0.5, "of staged: share of the steps that distil; for one alone: joint, alpha 1 or 0",
        above=0, below=1,
    )  # fmt: skip
    objective: Objective = part(Objective)
    imitation: ImitationConfig = part(ImitationConfig)
    judge: str = setting(
        "embedding", "r_sem; embedding is cosine and agreement of facts, model the initial model",
        choices=JUDGES,
    )  # fmt: skip

    def check(self) -> None:
        if self.steps <= self.warmup:
            raise ValueError(
                f"seeding.steps={self.steps} does not exceed seeding.warmup={self.warmup}; "
                "raise the one or lower the other"
            )
        if self.shape.max_target_length > self.shape.max_length:
            raise ValueError(
                f"seeding.max_target_length={self.shape.max_target_length} is more than a row "
                f"holds, seeding.max_length={self.shape.max_length}; lower the one or raise the "
                f"other"
            )
        if self.shape.batch_size % self.objective.accumulate:
            raise ValueError(
                f"seeding.batch_size={self.shape.batch_size} cannot be cut into seeding.accumulate="
                f"{self.objective.accumulate} equal parts; make the one a multiple of the other"
            )
        self._check_teachers()
        self._check_sampling()

    def _check_teachers(self) -> None:
        count, weights = len(self.teachers) + 1, self.teacher_weights
        if len(weights) != count:
            raise ValueError(
                f"seeding.teacher_weights={weights} has {len(weights)} entries, but there are "
                f"{count} teachers: the model itself and seeding.teachers={self.teachers}"
            )
        if abs(sum(weights) - 1) > 1e-6:
            raise ValueError(
                f"seeding.teacher_weights={weights} sum to {sum(weights):g}; they have to sum to 1"
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

    def with_shared_prefix(self, tokens: tuple[int, ...]) -> "SeedingConfig":
        """The same where all prompts begin with some tokens (`BatchShape.shared_prefix`)."""
        return dataclasses.replace(
            self, shape=dataclasses.replace(self.shape, shared_prefix=tokens)
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
