"""The arms of the comparison: how each of them learns, with the settings that were chosen on the
classes for tuning.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from learners import FineTuned, InContext, Joint, Learner, WithExternalLearner
from nights import Log, Night, SleepingModel
from protocol import Group, Sizes, examples_of

from sleep_jax.baselines.ewc import EWCConfig
from sleep_jax.baselines.inca import InCA
from sleep_jax.baselines.lwf import LwFConfig
from sleep_jax.baselines.model import Leaves, Model
from sleep_jax.baselines.replay import ReplayConfig
from sleep_jax.baselines.self_distillation import EVERY_LINEAR
from sleep_jax.baselines.sequential import SequentialLearner
from sleep_jax.baselines.sft import SFTConfig, with_lora
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.rewards.semantic import Encoder


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Fine-tuning of an adapter on every linear layer.

    Attributes:
      learning_rate: Adam's first rate in each group; it falls to 0 (linear).
      replays: a share of what is learnt are earlier texts.
      ewc, lwf: penalties; None: none.
      is_joint: all groups are learnt at once.
    """

    learning_rate: float = 1e-3
    replays: bool = False
    ewc: EWCConfig | None = None
    lwf: LwFConfig | None = None
    is_joint: bool = False


@dataclasses.dataclass(frozen=True)
class Untrained:
    """A model that stays as it is.

    Attributes:
      method: `in context` or `InCA`.
    """

    method: str


Arm = Night | Adapter | Untrained
ARMS: dict[str, Arm] = {
    "sleep": Night(),
    "sleep, labels kept": Night(keeps="labels"),
    "sleep, nothing kept": Night(keeps="nothing"),
    "in context": Untrained("in context"),
    "InCA": Untrained("InCA"),
    "fine-tuning": Adapter(),
    "replay": Adapter(replays=True),
    "EWC": Adapter(ewc=EWCConfig()),
    "LwF": Adapter(lwf=LwFConfig()),
    "joint training": Adapter(is_joint=True),
}
# Tried on the classes for tuning (README.md).
TRIED: dict[str, Arm] = {
    "sleep, no cross-entropy": Night(ce_coef=0.0),
    "sleep, no answer in view": Night(answer_in_view=False),
    "sleep, a quarter of cross-entropy": Night(ce_coef=0.25),
    "sleep, null space": Night(null_space=0.95),
    "sleep, null space, a quarter": Night(null_space=0.95, ce_coef=0.25),
    "sleep, taught by itself": Night(teacher="self"),
    "EWC, 1e5": Adapter(ewc=EWCConfig(strength=1e5)),
    "EWC, 1e7": Adapter(ewc=EWCConfig(strength=1e7)),
}


def learner_of(
    arm: Arm,
    base: Model,
    sizes: Sizes,
    groups: Sequence[Group],
    seed: int,
    log: Log,
    load_encoder: Callable[[], Encoder],
) -> Learner:
    """An arm before the first group.

    Args:
      arm: how it learns.
      base: the model without memory and adapter.
      sizes: of the comparison.
      groups: that will come.
      seed: of weights, of the order of texts, and of what is kept.
      log: is given the number and the figures of the updates of a night.
      load_encoder: for InCA.
    """
    rng = jax.random.key(seed)
    if isinstance(arm, Night):
        return SleepingModel.create(base, arm, sizes, len(groups), examples_of(groups), rng, log)
    if isinstance(arm, Untrained):
        if arm.method == "in context":
            return InContext(base, sizes)
        return WithExternalLearner(InCA.create(base, load_encoder()))
    lora = LoraConfig(rank=sizes.rank, alpha=2.0 * sizes.rank, targets=EVERY_LINEAR)
    steps = sizes.updates * (len(groups) if arm.is_joint else 1)
    learner = SequentialLearner(
        with_lora(base, lora, jax.random.fold_in(rng, 0)),
        Leaves("lora/.*"),
        jax.random.fold_in(rng, 1),
        SFTConfig(
            steps=steps,
            learning_rate=arm.learning_rate,
            batch_size=sizes.batch,
            max_grad_norm=1.0,
        ),
        replay=ReplayConfig(sizes.earlier_share, sizes.capacity) if arm.replays else None,
        ewc=arm.ewc,
        lwf=arm.lwf,
    )
    fine_tuned = FineTuned(learner, sizes)
    return Joint(fine_tuned, len(groups)) if arm.is_joint else fine_tuned
