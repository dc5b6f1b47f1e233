"""Configuration of the dreams of a night: writing, selection, trials, rewards and learning."""

import dataclasses

from sleep_jax.dreaming.curriculum import CurriculumConfig
from sleep_jax.dreaming.reward import RewardConfig
from sleep_jax.dreaming.select import SelectionConfig
from sleep_jax.dreaming.trial import TrialConfig
from sleep_jax.dreaming.write import WritingConfig
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.rl.algorithms import ALGORITHMS, Surrogate, surrogate
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.settings import Settings, part, setting

RESTARTS = ("previous", "base")


@dataclasses.dataclass(frozen=True)
class LearningConfig(Settings, section="dreaming"):
    """How the writer learns from rewards.

    `rest_em` is supervised learning of the rewarded dreams; any other estimator is the policy
    gradient of all dreams that were tried. With restart `base` the slot of the night is initialised
    again and learns everything, dreams included, by seeding.steps more updates at
    seeding.learning_rate.

    Raises:
      ValueError: a field has no such value, or there would be nothing to learn from.
    """

    estimator: str = setting(
        "rest_em", "how the writer learns from rewards", choices=("rest_em", *ALGORITHMS)
    )
    restart: str = setting("previous", "weights that learning begins from", choices=RESTARTS)
    max_per_document: int = setting(
        0, "rewarded dreams per document that are learnt, best first; 0: all", least=0
    )
    batch_size: int = setting(2, "of a policy gradient: dreams per update", least=1)
    alpha: float = setting(
        0.5, "of a policy gradient: weight of the divergence, against it", least=0, most=1
    )
    importance_cap: float = setting(
        2.0, "of a policy gradient: cap of the importance weights; 2 is usual", above=0
    )
    steps: int = setting(
        20, "updates; more if two epochs over the rewarded dreams take more; 0: no dreams", least=0
    )
    learning_rate: float = setting(5e-4, "Adam's peak rate", above=0)
    ce_coef: float = setting(
        0.1,
        "weight of the cross-entropy of rewarded dreams, added to the divergence; 0: none",
        least=0,
    )

    def check(self) -> None:
        if self.estimator == "rest_em":
            return
        if self.restart == "base":
            raise ValueError(
                f"dreaming.restart='base' with dreaming.estimator={self.estimator!r}: a policy "
                "gradient starts from the model that wrote the dreams; set "
                "dreaming.restart='previous', or dreaming.estimator='rest_em'"
            )
        if self.alpha == 1:
            raise ValueError(
                f"dreaming.alpha={self.alpha} leaves dreaming.estimator={self.estimator!r} nothing "
                "to learn from; give an alpha in [0, 1), or choose 'rest_em'"
            )

    def as_seeding(self, night: SeedingConfig, writing: WritingConfig) -> SeedingConfig:
        """The seeding config by which the writer learns: the divergence, the cross-entropy of
        rewarded dreams and, unless it is ReST-EM, the policy gradient of all; without rollouts.

        Args:
          night: how the night consolidates.
          writing: how its dreams are written.

        Raises:
          ValueError: dreams are written greedily, so a policy gradient has nothing to compare.
        """
        # A moving average is of the slot of a consolidation; dreams have the fixed teacher.
        teacher = "self" if night.teacher == "ema" else night.teacher
        divergence = night.objective.divergence
        if divergence.kind == "sampled":  # needs rollouts; this is the divergence it estimates
            divergence = dataclasses.replace(divergence, kind="reverse")
        imitation, alpha, policy = night.imitation, 1.0, Surrogate()
        if self.estimator != "rest_em":
            if writing.temperature == 0:
                raise ValueError(
                    f"dreaming.temperature=0 with dreaming.estimator={self.estimator!r}: greedy "
                    "dreams do not differ, so a policy gradient has nothing to compare; give a "
                    "temperature above 0, 1 is usual, or choose 'rest_em'"
                )
            alpha = self.alpha
            # The dreams of a night are one round, before a value head has learnt: with values of 0
            # and lambda = 1 every token of a dream gets its whole reward.
            gae = {"gae": 1.0} if ALGORITHMS[self.estimator].get("gae") else {}
            policy = surrogate(
                self.estimator,
                **gae,
                length=writing.max_dream_tokens,
                importance_cap=self.importance_cap,
                value_learning_rate=night.imitation.surrogate.value_learning_rate,
            )
            sampler = {"temperature": writing.temperature, "top_p": writing.top_p}
            imitation = dataclasses.replace(imitation, surrogate=policy, **sampler)
        steps, learning_rate = max(self.steps, 1), self.learning_rate
        if self.restart == "base":
            steps, learning_rate = night.steps + self.steps, night.learning_rate
        objective = Objective(
            alpha=alpha,
            lam=0.0,
            ce_coef=self.ce_coef,
            surrogate=policy,
            divergence=divergence,
            accumulate=night.objective.accumulate,
        )
        return dataclasses.replace(
            night,
            teacher=teacher,
            steps=steps,
            epochs=0.0,
            eval_steps=0,
            learning_rate=learning_rate,
            warmup=min(night.warmup, steps - 1),
            num_prompts=self.batch_size if alpha < 1 else 0,
            steps_per_generation=1,
            num_iterations=steps,  # all updates on the same dreams
            rollout_start=0.0,
            mode="joint",
            objective=objective,
            imitation=imitation,
        )


@dataclasses.dataclass(frozen=True)
class DreamingConfig(Settings, section="dreaming"):
    """The dreams of a night.

    Attributes:
      writing, curriculum, selection, reward, learning, trial: the config of each step.
      held_out: questions that reward dreams.
      lora: the adapter of a trial.

    Raises:
      ValueError: a field has no such value, or fields contradict each other.
    """

    writing: WritingConfig = part(WritingConfig)
    curriculum: CurriculumConfig = part(CurriculumConfig)
    selection: SelectionConfig = part(SelectionConfig)
    held_out: int = setting(
        2, "self-written questions per document that reward dreams, not trained on", least=0
    )
    reward: RewardConfig = part(RewardConfig)
    learning: LearningConfig = part(LearningConfig)
    trial: TrialConfig = part(TrialConfig)
    lora: LoraConfig = part(LoraConfig)

    def check(self) -> None:
        if self.learning.steps and not self.held_out:
            raise ValueError(
                f"dreaming.held_out={self.held_out} leaves no question to reward a dream with; "
                "give at least 1, or switch dreams off by dreaming.steps=0"
            )
