"""The dreams of a night: how they are written, chosen, tried and rewarded, and how the writer
learns from them."""

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
    """How the writer learns: `rest_em`, the rewarded dreams by heart; any other estimator, by the
    policy gradient of all that were tried. From `base` the night's slot learns all anew, dreams and
    all, by seeding.steps more updates at seeding.learning_rate.

    Raises:
      ValueError: a field has no such value, or there would be nothing to learn from.
    """

    estimator: str = setting(
        "rest_em", "how the writer learns from rewards", choices=("rest_em", *ALGORITHMS)
    )
    restart: str = setting("previous", "what learning begins from", choices=RESTARTS)
    cap: int = setting(
        0, "rewarded dreams of a document that are learnt, the best; 0: all", least=0
    )
    batch_size: int = setting(2, "of a policy gradient: dreams of an update", least=1)
    alpha: float = setting(
        0.5, "of a policy gradient: weight of the divergence beside it", least=0, most=1
    )
    importance_cap: float = setting(
        2.0, "of a policy gradient: largest weight against the sampler, 2 is usual", above=0
    )
    steps: int = setting(
        20, "updates, more where each rewarded dream, twice, takes more; 0: no dreams", least=0
    )
    learning_rate: float = setting(5e-4, "Adam's peak rate", above=0)
    ce_coef: float = setting(
        0.1,
        "weight of the cross-entropy of rewarded dreams, beside the divergence; 0: none",
        least=0,
    )

    def check(self) -> None:
        if self.estimator == "rest_em":
            return
        if self.restart == "base":
            raise ValueError(
                f"dreaming.restart='base' with dreaming.estimator={self.estimator!r}: a policy "
                "gradient goes on from the self that wrote; set dreaming.restart='previous', or "
                "dreaming.estimator='rest_em'"
            )
        if self.alpha == 1:
            raise ValueError(
                f"dreaming.alpha={self.alpha} leaves dreaming.estimator={self.estimator!r} nothing "
                "to learn from; give an alpha in [0, 1), or choose 'rest_em'"
            )

    def seeding(self, night: SeedingConfig, writing: WritingConfig) -> SeedingConfig:
        """Learning as a seeding: the cross-entropy of rewarded dreams beside the divergence and,
        unless it is ReST-EM, the policy gradient of all; nothing is rolled out.

        Args:
          night: how the night consolidates.
          writing: how its dreams are written.

        Raises:
          ValueError: dreams that are written so are nothing that a policy gradient could learn
            from.
        """
        divergence = night.objective.divergence
        if divergence.kind == "sampled":  # without rollouts: what it estimates, in full
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
            # A night's dreams are one round, which begins before a critic has learnt: with values
            # of 0 and lambda = 1 all tokens of a dream are credited with what it earned.
            values = {"gae": 1.0} if ALGORITHMS[self.estimator].get("gae") else {}
            policy = surrogate(
                self.estimator,
                **values,
                length=writing.max_dream_tokens,
                importance_cap=self.importance_cap,
                value_learning_rate=night.imitation.surrogate.value_learning_rate,
            )
            drawn = {"temperature": writing.temperature, "top_p": writing.top_p}
            imitation = dataclasses.replace(imitation, surrogate=policy, **drawn)
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
            steps=steps,
            learning_rate=learning_rate,
            warmup=min(night.warmup, steps - 1),
            num_prompts=self.batch_size if alpha < 1 else 0,
            steps_per_generation=1,
            num_iterations=steps,  # the same dreams, again and again
            rollouts_from=0.0,
            mode="joint",
            objective=objective,
            imitation=imitation,
        )


@dataclasses.dataclass(frozen=True)
class DreamingConfig(Settings, section="dreaming"):
    """The dreams of a night.

    Attributes:
      writing, curriculum, selection, reward, trial, learning: how each is done.
      lora: the adapter of a trial.

    Raises:
      ValueError: a field has no such value, or fields that cannot be together.
    """

    writing: WritingConfig = part(WritingConfig)
    curriculum: CurriculumConfig = part(CurriculumConfig)
    selection: SelectionConfig = part(SelectionConfig)
    held_out: int = setting(
        2, "own questions per document that reward dreams and are not trained on", least=0
    )
    reward: RewardConfig = part(RewardConfig)
    learning: LearningConfig = part(LearningConfig)
    trial: TrialConfig = part(TrialConfig)
    lora: LoraConfig = part(LoraConfig)

    def check(self) -> None:
        if self.learning.steps and not self.held_out:
            raise ValueError(
                f"dreaming.held_out={self.held_out} leaves no question that could reward a dream; "
                "give at least 1, or no dreams by dreaming.steps=0"
            )
