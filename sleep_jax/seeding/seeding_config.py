"""Settings of one night's seeding: its updates, rollouts, objective and optimizer."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.rewards.judge import JUDGES
from sleep_jax.seeding.host_arrays import HostArrays
from sleep_jax.seeding.imitation import ImitationConfig
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.running_norm import clip_by_running_norm
from sleep_jax.seeding.schedule import scale_by_night_schedule, set_length
from sleep_jax.seeding.sequences import BatchShape, Exchange, pack_exchanges
from sleep_jax.seeding.transaction import PROTOCOLS
from sleep_jax.setting import AUTO
from sleep_jax.settings import Settings, part, setting

MODES = ("joint", "staged")
SLOT_INITS = ("zero", "sender")
TEACHERS = ("self", "base", "ema")
REHEARSAL_TEACHERS = ("known", "base")
KNOWN_TEACHERS = ("self", "before", "base")
GIB = 2**30


def automatic_rate(cfg: DecoderConfig, level: int) -> float:
    """Adam's peak rate for a slot of a level: 1e-2 * sqrt(16 * 576 / (rank * width)), so 1e-2 for
    SmolLM2-135M, of width 576, and rank 16, where it was tuned."""
    return 1e-2 * math.sqrt(16 * 576 / (cfg.memory.level(level).rank * cfg.width))


@dataclasses.dataclass(frozen=True)
class SeedingConfig(Settings, section="seeding"):
    """Settings of one night's seeding.

    The learning rate rises over `warmup` steps, from above 0, and decays along a cosine to a tenth
    of its peak. Before `rollout_start` the student knows too little for rollouts to be rewarded.
    When they join, Adam's second moment is of the much smaller gradients before them: the rate may
    rise anew over `rollout_warmup` steps, and gradients may be clipped by the norms of earlier ones
    (`max_grad_norm_ratio`). In `joint` mode every update has both terms; in `staged` mode the first
    updates have the divergence alone and the later ones the policy gradient alone, whatever alpha
    is.

    Attributes:
      shape: of the batch of an update.
      objective: what updates optimise.
      imitation: how rollouts are sampled and rewarded.

    Raises:
      ValueError: a field is out of range, or fields contradict each other.
    """

    teacher: str = setting(
        "self", "what teaches the day; self: the model as it has read, base: without memory, ema: "
        "with the slot", choices=TEACHERS,
    )  # fmt: skip
    teacher_decay: float = setting(
        0.9, "teacher ema: share of its slot that it keeps at a refresh, near 1: slow; 0: none",
        least=0, below=1,
    )  # fmt: skip
    teacher_refresh: int = setting(
        25, "teacher ema: updates after which its slot moves and it reads all again", least=1
    )
    known_teacher: str = setting(
        "before", "what teaches what was known; before: the memory before the day, self: as it "
        "ended, base: none", choices=KNOWN_TEACHERS,
    )  # fmt: skip
    rehearsal_teacher: str = setting(
        "known", "what writes and teaches rehearsals; known: as seeding.known_teacher, base: the "
        "model without memory", choices=REHEARSAL_TEACHERS,
    )  # fmt: skip
    known_share: float = setting(
        0.0, "share of an update's teacher-written tokens that were known before; 0: as drawn",
        least=0, below=1,
    )  # fmt: skip
    teachers: tuple[str, ...] = setting(
        (), "further models that read the documents and teach: names as of model.name"
    )
    teacher_weights: tuple[float, ...] = setting(
        (1.0,),
        "weights of the model itself and of each of seeding.teachers; they sum to 1",
        above=0,
        most=1,
    )
    teacher_memory: float = setting(
        16.0,
        "GiB of a night's hidden states that a process keeps in memory, others on disk; 0: none",
        least=0,
        most=1e6,
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
    learning_rate: float | str = setting(
        1e-2, "Adam's peak rate; auto: by the rank of the slot and the width of the model",
        above=0, words=(AUTO,),
    )  # fmt: skip
    warmup: int = setting(4, "updates until the peak rate is reached; 0: none", least=0)
    max_grad_norm: float = setting(1.0, "largest norm of the gradient; 0: any", least=0)
    max_grad_norm_ratio: float = setting(
        0.0, "largest norm in multiples of the running mean of norms so far; 0: any",
        above=1, also=(0,),
    )  # fmt: skip
    shape: BatchShape = part(BatchShape)
    num_prompts: int = setting(
        1, "sequences imitated in each update, num_generations rollouts each; 0: none", least=0
    )
    steps_per_generation: int = setting(4, "updates whose rollouts are sampled at once", least=1)
    num_iterations: int = setting(1, "passes of these updates over their rollouts", least=1)
    rollout_start: float = setting(
        0.0, "share of the steps after which updates learn from rollouts, too", least=0, most=1
    )
    rollout_warmup: int = setting(
        0, "updates in which the rate rises anew once rollouts have joined; 0: none", least=0
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
    slot_init: str = setting(
        "zero",
        "a new slot begins as nothing, or as the largest units of its sender, if that is a level",
        choices=SLOT_INITS,
    )
    null_space: float = setting(
        0.0,
        "share of the energy of what was known that a new slot does not see; 0: it sees all",
        least=0,
        most=1,
    )
    null_space_spare: float = setting(
        0.0,
        "share of the new text's energy that null_space leaves at least, whatever its own value",
        least=0,
        most=1,
    )
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
        if self.epochs and self.rollout_warmup:
            raise ValueError(
                f"seeding.rollout_warmup={self.rollout_warmup} needs nights of one length, and "
                f"seeding.epochs={self.epochs:g} makes them differ; set one of the two to 0"
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

    def host_arrays(self) -> HostArrays:
        """What holds the hidden states of a night."""
        return HostArrays(self.teacher_memory * GIB)

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

    @property
    def first_rollout_step(self) -> int:
        """The first update that learns from rollouts; `steps` if none does."""
        steps = range(self.steps)
        joined = (i for i in steps if self.learns_from_rollouts(i, self.objective_at(i)))
        return next(joined, self.steps)

    def at_level(self, cfg: DecoderConfig, level: int) -> "SeedingConfig":
        """The same with the number that `learning_rate="auto"` stands for in a slot of a level."""
        if self.learning_rate != AUTO:
            return self
        return dataclasses.replace(self, learning_rate=automatic_rate(cfg, level))

    def optimizer(self) -> optax.GradientTransformation:
        """Adam with a warm-up and cosine schedule, after clipping the gradient; the learning rate
        is a number (`at_level`). With `epochs`, of a length that its state has (`with_length`)."""
        max_norms = self.max_grad_norm, self.max_grad_norm_ratio
        if self.epochs:
            return _optimizer_of_any_length(self.learning_rate, max_norms)
        return _optimizer(self.learning_rate, self.warmup, self.steps, self._second_rise, max_norms)

    @property
    def _second_rise(self) -> tuple[int, int]:
        """The update that rollouts join in, and the updates that the rate rises anew for."""
        return (self.first_rollout_step if self.rollout_warmup else 0, self.rollout_warmup)

    @property
    def schedule(self) -> optax.Schedule:
        """The learning rate of every update."""
        return _schedule(self.learning_rate, self.warmup, self.steps, self._second_rise)

    @property
    def distance(self) -> float:
        """Sum of the learning rates of all updates: about how far Adam can move a weight."""
        return float(jnp.sum(self.schedule(jnp.arange(self.steps))))

    def with_length(self, opt_state: optax.OptState) -> optax.OptState:
        """The initial state of `optimizer`, for a night of this length."""
        return set_length(opt_state, self.warmup, self.steps) if self.epochs else opt_state


@functools.cache  # jit compiles anew for every optimizer object
def _optimizer(
    peak: float,
    warmup: int,
    steps: int,
    second_rise: tuple[int, int],
    max_norms: tuple[float, float],
) -> optax.GradientTransformation:
    rate = _schedule(peak, warmup, steps, second_rise)
    return optax.chain(*_clipping(*max_norms), optax.adam(rate))


@functools.cache
def _optimizer_of_any_length(
    peak: float, max_norms: tuple[float, float]
) -> optax.GradientTransformation:
    adam = optax.chain(optax.scale_by_adam(), scale_by_night_schedule(peak))
    return optax.chain(*_clipping(*max_norms), adam)


def _clipping(largest: float, ratio: float) -> list[optax.GradientTransformation]:
    """Of the gradient's norm: to a number, and to multiples of its running mean; 0: neither."""
    clipping = [optax.clip_by_global_norm(largest)] if largest else []
    return [*clipping, clip_by_running_norm(ratio)] if ratio else clipping


def _schedule(peak: float, warmup: int, steps: int, second_rise: tuple[int, int]) -> optax.Schedule:
    first = peak / (warmup + 1)  # from 0 the first update would change nothing
    rate = optax.warmup_cosine_decay_schedule(first, peak, warmup, steps, peak / 10)
    return _rising_anew(rate, *second_rise)


def _rising_anew(rate: optax.Schedule, start: int, updates: int) -> optax.Schedule:
    """A schedule times a factor that rises from 1 / (updates + 1) in update `start` to 1."""
    if not start or not updates:  # with rollouts from the first update on, no moment is stale
        return rate
    rise = optax.linear_schedule(1 / (updates + 1), 1.0, updates)
    factor = optax.join_schedules([optax.constant_schedule(1.0), rise], [start])
    return lambda count: rate(count) * factor(count)
