"""Settings of one night's seeding: its updates, rollouts, objective and optimizer."""

import dataclasses
import functools
import math

import jax.numpy as jnp
import optax

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.judge import JUDGES
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.sequences import BatchShape
from sleep_jax.seeding.transaction import PROTOCOLS
from sleep_jax.settings import Settings, part, setting

MODES = ("joint", "staged")
AUTO = "auto"


def automatic_rate(cfg: DecoderConfig, level: int) -> float:
    """Adam's peak rate for a slot of a level: 1e-2 * sqrt(16 * 576 / (rank * width)), so 1e-2 for
    SmolLM2-135M, of width 576, and rank 16, where it was tuned."""
    return 1e-2 * math.sqrt(16 * 576 / (cfg.memory.level(level).rank * cfg.width))


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
    steps: int = setting(100, "updates of a night", least=1)
    learning_rate: float | str = setting(
        1e-2, "Adam's peak rate; auto: by the rank of the slot and the width of the model",
        above=0, words=(AUTO,),
    )  # fmt: skip
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
        if self.steps <= self.warmup:
            raise ValueError(
                f"seeding.steps={self.steps} does not exceed seeding.warmup={self.warmup}; "
                "raise steps or lower warmup"
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

    def at_level(self, cfg: DecoderConfig, level: int) -> "SeedingConfig":
        """The same with the number that `learning_rate="auto"` stands for in a slot of a level."""
        if self.learning_rate != AUTO:
            return self
        return dataclasses.replace(self, learning_rate=automatic_rate(cfg, level))

    def optimizer(self) -> optax.GradientTransformation:
        """Adam with a warm-up and cosine schedule, after clipping the gradient to norm 1; the
        learning rate is a number (`at_level`)."""
        return _optimizer(self.learning_rate, self.warmup, self.steps)

    @property
    def schedule(self) -> optax.Schedule:
        """The learning rate of every update."""
        return _schedule(self.learning_rate, self.warmup, self.steps)

    @property
    def distance(self) -> float:
        """Sum of the learning rates of all updates: about how far Adam can move a weight."""
        return float(jnp.sum(self.schedule(jnp.arange(self.steps))))


def _schedule(peak: float, warmup: int, steps: int) -> optax.Schedule:
    first = peak / (warmup + 1)  # from 0 the first update would change nothing
    return optax.warmup_cosine_decay_schedule(first, peak, warmup, steps, peak / 10)


@functools.cache  # jit compiles anew for every optimizer object
def _optimizer(peak: float, warmup: int, steps: int) -> optax.GradientTransformation:
    rate = _schedule(peak, warmup, steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
