"""Settings of one night's seeding: its updates, rollouts, objective and optimizer."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import optax

from sleep_jax.rewards.judge import JUDGES
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.schedule import scale_by_night_schedule, set_length
from sleep_jax.seeding.sequences import BatchShape, Exchange, pack_exchanges
from sleep_jax.seeding.transaction import PROTOCOLS
from sleep_jax.settings import Settings, part, setting

MODES = ("joint", "staged")


@dataclasses.dataclass(frozen=True)
class SeedingConfig(Settings, section="seeding"):
    """Settings of one night's seeding.

    The learning rate rises over `warmup` steps, from above 0, and decays along a cosine to a tenth
    of its peak. Before `rollout_start` the student knows too little for rollouts to be rewarded. In
    `joint` mode every update has both terms; in `staged` mode the first updates have the divergence
    alone and the later ones the policy gradient alone, whatever alpha is.

    Attributes:
      shape: of the batch of an update.
      objective: what updates optimise.
      imitation: how rollouts are sampled and rewarded.

    Raises:
      ValueError: a field is out of range, or fields contradict each other.
    """

    teachers: tuple[str, ...] = setting(
        (), "further models that read the documents and teach: names as of model.name"
    )
    teacher_weights: tuple[float, ...] = setting(
        (1.0,),
        "weights of the model itself and of each of seeding.teachers; they sum to 1",
        above=0,
        most=1,
    )
    protocol: str = setting(
        "commit_then_clear", "which state of the sender teaches the new slot", choices=PROTOCOLS
    )
    steps: int = setting(100, "updates of a night, unless seeding.epochs decides", least=1)
    epochs: float = setting(
        0.0, "passes over what a night learns from, which make its updates; 0: seeding.steps",
        least=0,
    )  # fmt: skip
    max_steps: int = setting(
        1000, "most updates of a night by seeding.epochs, or that goes on by eval_steps", least=1
    )
    eval_steps: int = setting(
        0, "updates between answers to held-out own questions, which end a night early, or later; "
        "0: none", least=0,
    )  # fmt: skip
    early_stopping_patience: int = setting(
        2, "evaluations without more right answers after which a night that is as long as planned "
        "ends", least=1,
    )  # fmt: skip
    learning_rate: float = setting(1e-2, "Adam's peak rate", above=0)
    warmup: int = setting(4, "updates until the peak rate is reached; 0: none", least=0)
    shape: BatchShape = part(BatchShape)
    num_prompts: int = setting(
        1, "sequences imitated in each update, num_generations rollouts each; 0: none", least=0
    )
    steps_per_generation: int = setting(4, "updates whose rollouts are sampled at once", least=1)
    num_iterations: int = setting(1, "passes of these updates over their rollouts", least=1)
    rollout_start: float = setting(
        0.0, "share of the steps after which updates learn from rollouts, too", least=0, most=1
    )
    max_consecutive_errors: int = setting(
        5, "updates in a row that are not finite before the night stops", least=0
    )
    mode: str = setting(
        "joint", "both terms in every update, or distil first and imitate then", choices=MODES
    )
    distill_fraction: float = setting(
        0.5, "mode staged: share of the steps that distil; to distil in all: joint with alpha=1",
        above=0, below=1,
    )  # fmt: skip
    objective: Objective = part(Objective)
    imitation: ImitationConfig = part(ImitationConfig)
    judge: str = setting(
        "embedding",
        "what decides r_sem; embedding: cosine and agreement of facts, model: the initial model",
        choices=JUDGES,
    )  # fmt: skip

    def check(self) -> None:
        name = "max_steps" if self.epochs else "steps"
        if getattr(self, name) <= self.warmup:
            raise ValueError(
                f"seeding.{name}={getattr(self, name)} does not exceed seeding.warmup="
                f"{self.warmup}; raise {name} or lower warmup"
            )
        if self.eval_steps and not self.epochs and self.steps > self.max_steps:
            raise ValueError(
                f"seeding.steps={self.steps} is more than seeding.max_steps={self.max_steps}, with "
                "which a night ends that goes on by seeding.eval_steps; raise max_steps"
            )
        if self.shape.max_target_length > self.shape.max_length:
            raise ValueError(
                f"seeding.max_target_length={self.shape.max_target_length} is more than a row "
                f"holds, seeding.max_length={self.shape.max_length}; lower the former or raise the "
                f"latter"
            )
        if self.shape.batch_size % self.objective.accumulate:
            raise ValueError(
                f"seeding.batch_size={self.shape.batch_size} cannot be cut into seeding.accumulate="
                f"{self.objective.accumulate} equal parts; make batch_size a multiple of it"
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
        temperature, top_p = self.imitation.temperature, self.imitation.top_p
        if (temperature, top_p) == (1, 1):
            return
        fields = f"seeding.rollout_temperature={temperature}, seeding.rollout_top_p={top_p}"
        if self.objective.divergence.kind == "sampled":
            raise ValueError(
                f"{fields} with seeding.divergence='sampled', which needs tokens sampled from the "
                "student itself; set both to 1"
            )
        if self.imitation.surrogate.importance_cap is None:
            raise ValueError(
                f"{fields}: rollouts are not sampled from the student itself; correct for it with "
                "seeding.importance_cap=2, or set both to 1"
            )

    def with_shared_prefix(self, tokens: tuple[int, ...]) -> "SeedingConfig":
        """The same with these tokens as `BatchShape.shared_prefix`."""
        shape = dataclasses.replace(self.shape, shared_prefix=tokens)
        return dataclasses.replace(self, shape=shape)

    def sized_for(self, exchanges: Sequence[Exchange]) -> "SeedingConfig":
        """The same with the updates of a night that learns from these exchanges: `epochs` times
        the rows that they fill, over those of an update, rounded up; with a warm-up that ends
        before, and at most `max_steps`. Without epochs, as it is."""
        if not self.epochs:
            return self
        rows = self.epochs * len(pack_exchanges(exchanges, self.shape))
        updates = math.ceil(rows / self.shape.batch_size - 1e-9)
        steps = min(max(updates, 1), self.max_steps)
        return dataclasses.replace(self, steps=steps, warmup=min(self.warmup, steps - 1))

    @property
    def most_steps(self) -> int:
        """The most updates that a night of this config may take; before `sized_for`, of any."""
        return self.max_steps if self.epochs or self.eval_steps else self.steps

    def updates_of_round(self, step: int) -> int:
        """For how many updates the round of rollouts is collected that begins with update `step`:
        where nights differ in length, rounds do not, and all share one program."""
        if self.epochs or self.eval_steps:
            return self.steps_per_generation
        return min(self.steps_per_generation, self.steps - step)

    def objective_at(self, step: int) -> Objective:
        """The objective of update `step`, whose alpha `mode` may override."""
        if self.mode == "joint":
            return self.objective
        is_distilling = step < round(self.distill_fraction * self.steps)
        return dataclasses.replace(self.objective, alpha=float(is_distilling))

    def learns_from_rollouts(self, step: int, objective: Objective) -> bool:
        """Whether update `step` with an objective learns from rollouts."""
        is_on_policy = self.num_prompts > 0 and (objective.alpha < 1 or objective.lam > 0)
        return is_on_policy and step >= round(self.rollout_start * self.steps)

    def optimizer(self) -> optax.GradientTransformation:
        """Adam with a warm-up and cosine schedule, after clipping the gradient to norm 1; with
        `epochs`, of a length that its state has (`with_length`)."""
        if self.epochs:
            return _optimizer_of_any_length(self.learning_rate)
        return _optimizer(self.learning_rate, self.warmup, self.steps)

    def with_length(self, opt_state: optax.OptState) -> optax.OptState:
        """The initial state of `optimizer`, for a night of this length."""
        return set_length(opt_state, self.warmup, self.steps) if self.epochs else opt_state


@functools.cache  # jit compiles anew for every optimizer object
def _optimizer(peak: float, warmup: int, steps: int) -> optax.GradientTransformation:
    first = peak / (warmup + 1)  # from 0 the first update would change nothing
    rate = optax.warmup_cosine_decay_schedule(first, peak, warmup, steps, peak / 10)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


@functools.cache
def _optimizer_of_any_length(peak: float) -> optax.GradientTransformation:
    adam = optax.chain(optax.scale_by_adam(), scale_by_night_schedule(peak))
    return optax.chain(optax.clip_by_global_norm(1.0), adam)
