"""Fine-tuning task after task, with what a method keeps between tasks: nothing, old examples
(`replay.py`), how much each weight mattered (`ewc.py`), or the model before (`lwf.py`).

    learner = SequentialLearner(model, Leaves("lora/.*"), jax.random.key(seed), ewc=EWCConfig())
    for pairs in tasks:
        learner = learner.learn(pairs)
        learner.save(folder)                      # learner.restore(folder) goes on after it
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence

import jax
import safetensors.flax
from flax.traverse_util import flatten_dict, unflatten_dict

from sleep_jax.baselines.ewc import Consolidated, EWCConfig, ewc_loss, remember
from sleep_jax.baselines.finetune import Log, Loss
from sleep_jax.baselines.lwf import LwFConfig, lwf_loss
from sleep_jax.baselines.model import Model, Trainable
from sleep_jax.baselines.replay import ReplayConfig, ReplayMemory, with_replay
from sleep_jax.baselines.sft import SFTConfig, sft
from sleep_jax.data.examples import PromptCompletion

ARRAYS = "learner.safetensors"  # with the facts as its metadata


@dataclasses.dataclass(frozen=True)
class SequentialLearner:
    """A model that is fine-tuned on tasks one after the other.

    Attributes:
      model: as it is now.
      trainable: what is trained.
      rng: PRNG key of all tasks.
      sft: how each task is learnt.
      replay: None: no old examples.
      ewc: None: no penalty.
      lwf: None: no divergence from the model before a task.
      tasks: learnt so far.
      kept: for replay.
      consolidated: for the penalty.

    Raises:
      ValueError: both `ewc` and `lwf` are given.
    """

    model: Model
    trainable: Trainable
    rng: jax.Array
    sft: SFTConfig = dataclasses.field(default_factory=SFTConfig)
    replay: ReplayConfig | None = None
    ewc: EWCConfig | None = None
    lwf: LwFConfig | None = None
    tasks: int = 0
    kept: ReplayMemory = dataclasses.field(default_factory=ReplayMemory)
    consolidated: Consolidated | None = None

    def __post_init__(self):
        if self.ewc is not None and self.lwf is not None:
            raise ValueError(f"ewc={self.ewc} with lwf={self.lwf}; a task has one loss: give one")

    def learn(
        self,
        pairs: Sequence[PromptCompletion],
        log: Log = lambda step, figures: None,
    ) -> "SequentialLearner":
        """After one more task, (prompt, reply) tokens."""
        keys = jax.random.split(jax.random.fold_in(self.rng, self.tasks), 4)
        mixed, kept, consolidated = pairs, self.kept, self.consolidated
        if self.replay is not None:
            mixed = with_replay(pairs, kept, self.replay, keys[0])
            kept = kept.add(pairs, self.replay.capacity, keys[1])
        model = sft(
            self.model, self.trainable, mixed, self.sft, rng=keys[2], loss=self._loss(), log=log
        )
        if self.ewc is not None:
            consolidated = remember(
                model, self.trainable, pairs, consolidated, self.ewc, rng=keys[3]
            )
        return dataclasses.replace(
            self, model=model, tasks=self.tasks + 1, kept=kept, consolidated=consolidated
        )

    def _loss(self) -> Loss | None:
        """Of the next task; None: the cross-entropy alone."""
        if self.ewc is not None:
            return ewc_loss(self.model, self.trainable, self.consolidated, self.ewc)
        if self.lwf is not None and self.tasks:
            return lwf_loss(self.model, self.trainable, self.lwf)
        return None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes what changes from task to task."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {"trained": self.trainable.split(self.model.variables)[0]}
        if self.consolidated is not None:
            arrays |= {"anchor": self.consolidated.anchor, "fisher": self.consolidated.fisher}
        facts = {"tasks": self.tasks, "kept": self.kept.pairs, "seen": self.kept.seen}
        draft = folder / f"{ARRAYS}.new"
        safetensors.flax.save_file(
            flatten_dict(arrays, sep="/"), draft, {"facts": json.dumps(facts)}
        )
        draft.replace(folder / ARRAYS)

    def restore(self, folder: str | os.PathLike[str]) -> "SequentialLearner":
        """As it was saved there; itself where nothing was."""
        path = pathlib.Path(folder) / ARRAYS
        if not path.exists():
            return self
        with safetensors.safe_open(path, "numpy") as file:
            facts = json.loads(file.metadata()["facts"])
        arrays = unflatten_dict(safetensors.flax.load_file(path), sep="/")
        _, frozen = self.trainable.split(self.model.variables)
        variables = self.trainable.merge(arrays["trained"], frozen)
        consolidated = None
        if "fisher" in arrays:
            consolidated = Consolidated(arrays["anchor"], arrays["fisher"])
        kept = tuple((tuple(prompt), tuple(reply)) for prompt, reply in facts["kept"])
        return dataclasses.replace(
            self,
            model=self.model.replace(variables=variables),
            tasks=facts["tasks"],
            kept=ReplayMemory(kept, facts["seen"]),
            consolidated=consolidated,
        )
