"""The settings of a run, section by section; presets in `configs/` change what they need.

Each field stands, with its default, its range and a line of help, in the dataclass that uses it.
Fields keep the names of the paper where it has one: `alpha`, `lam` (lambda), `gamma` (Eq. 3),
`threshold` (z0, Eq. 4).
"""

import dataclasses
import datetime

import ml_collections

from sleep_jax import settings
from sleep_jax.data.chunking import MIN_CHUNK_TOKENS
from sleep_jax.data.documents import SAMPLES
from sleep_jax.dreaming.dreaming_config import DreamingConfig
from sleep_jax.interop.chat_template import DATE
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.models.decoder_config import DTYPES, REMATS
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.transaction import Gate
from sleep_jax.settings import Settings, part, setting
from sleep_jax.study.study_config import StudyConfig
from sleep_jax.wake.stream import WakeConfig


@dataclasses.dataclass(frozen=True)
class ModelConfig(Settings, section="model"):
    """The base model."""

    name: str = setting(
        "SmolLM2-135M-Instruct", "a folder, a .gguf file, a Hub name, or tiny (random weights)"
    )
    dtype: str = setting("bfloat16", "dtype of the operands of matrix products", choices=DTYPES)
    remat: str = setting(
        "full", "what of each layer the backward pass computes again", choices=REMATS
    )
    thinking: bool = setting(False, "think before a reply, where the chat template can (Qwen 3)")
    thought_tokens: int = setting(
        1024, "tokens that a thought may take, beside those of its reply", least=1
    )
    date: str = setting(DATE, "what a chat template takes for today (Llama 3), as YYYY-MM-DD")

    def check(self) -> None:
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(
                f"model.date={self.date!r}; give a day as YYYY-MM-DD, e.g. '2024-07-26'"
            ) from None


@dataclasses.dataclass(frozen=True)
class MeshConfig(Settings, section="mesh"):
    """The sizes of the mesh's axes; -1: what the devices leave."""

    data: int = setting(1, "ways to cut rows", least=1, also=(-1,))
    fsdp: int = setting(-1, "ways to cut rows, and one axis of every weight", least=1, also=(-1,))
    tensor: int = setting(1, "ways to cut heads, FFN units, vocabulary", least=1, also=(-1,))
    slice: str = setting("", "TPU slice that the sizes are meant for, e.g. v5e:4x4; for plans only")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Settings, section="checkpoint"):
    """Checkpoints; one follows every phase."""

    keep: int = setting(0, "how many are kept, the last; 0: all", least=0)
    updates: int = setting(
        25, "one more within a phase every so many updates or batches; 0: none", least=0
    )


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings, section="data"):
    """What is read."""

    documents: str = setting(
        SAMPLES,
        "a text, PDF, HTML, Word, JSONL file, a folder, gs://..., seqio:TASK, samples, samples:4",
    )
    limit: int = setting(0, "read only the first parts of whatever is given; 0: all", least=0)
    chunk_tokens: int = setting(256, "tokens of a part; a longer document becomes several",
                                least=MIN_CHUNK_TOKENS)  # fmt: skip
    episodes: int = setting(
        1, "days over which the documents are read; each ends in a night", least=1
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Settings, section="evaluation"):
    """How it is asked."""

    max_new_tokens: int = setting(40, "longest answer, in tokens", least=1)
    samples: int = setting(3, "answers that a report shows; 0: none", least=0)


@dataclasses.dataclass(frozen=True)
class RunConfig(Settings):
    """All settings of a run.

    Raises:
      ValueError: a setting has no such value, or settings that cannot be together.
    """

    seed: int = setting(0, "seed of all that is drawn at random", least=0, most=2**32 - 1)
    model: ModelConfig = part(ModelConfig)
    mesh: MeshConfig = part(MeshConfig)
    checkpoint: CheckpointConfig = part(CheckpointConfig)
    data: DataConfig = part(DataConfig)
    memory: MemoryConfig = part(MemoryConfig)
    wake: WakeConfig = part(WakeConfig)
    gate: Gate = part(Gate)
    study: StudyConfig = part(StudyConfig)
    seeding: SeedingConfig = part(SeedingConfig)
    dreaming: DreamingConfig = part(DreamingConfig)
    evaluation: EvaluationConfig = part(EvaluationConfig)

    def check(self) -> None:
        learns = any(level.learning_rate for level in self.memory.levels)
        if learns and self.wake.context < self.memory.stride:
            raise ValueError(
                f"wake.context={self.wake.context} holds less than memory.stride="
                f"{self.memory.stride} tokens; raise the one or lower the other"
            )
        if (longest := self.study.max_answer_tokens) > self.seeding.shape.max_target_length:
            raise ValueError(
                f"study.max_answer_tokens={longest} is more than a row scores, "
                f"seeding.max_target_length={self.seeding.shape.max_target_length}; lower the one "
                f"or raise the other"
            )
        self._check_that_there_is_something_to_learn()
        if self.dreaming.learning.restart == "base" and self.memory.on_full == "reuse":
            raise ValueError(
                "dreaming.restart='base' with memory.on_full='reuse' would empty a slot that holds "
                "earlier nights; set dreaming.restart='previous', or another memory.on_full"
            )
        self.dreaming.learning.as_seeding(self.seeding, self.dreaming.writing)

    def _check_that_there_is_something_to_learn(self) -> None:
        study, seeding = self.study, self.seeding
        names = ("recitations", "completions", "questions", "rehearsals")
        if self.memory.from_context and not any(getattr(study, name) for name in names):
            raise ValueError(
                f"{', '.join(f'study.{name}=0' for name in names)} leave a night nothing to learn; "
                "give one of them 1 or more, or set memory.from_context=False"
            )
        if self.dreaming.learning.steps and not study.questions:
            raise ValueError(
                "study.questions=0 leaves no question that could reward a dream; give at least 1, "
                "or no dreams by dreaming.steps=0"
            )
        objective = seeding.objective
        needs_rollouts = {
            "seeding.mode='staged'": seeding.mode == "staged",
            f"seeding.alpha={objective.alpha}": objective.alpha == 0,
            f"seeding.lam={objective.lam}": objective.lam == 1 and not objective.coin,
        }
        has_none = {
            "seeding.num_prompts=0": not seeding.num_prompts,
            f"seeding.rollouts_from={seeding.rollouts_from}": seeding.rollouts_from == 1,
        }
        needy, none = (
            [what for what, is_so in x.items() if is_so] for x in (needs_rollouts, has_none)
        )
        if needy and none:
            raise ValueError(
                f"{none[0]} with {needy[0]}, which learns from rollouts, and there are none; let "
                "there be some, or set seeding.mode='joint' with alpha above 0 and lam below 1"
            )

    def with_room_to_think(self) -> "RunConfig":
        """The same where all that the model replies in a chat may begin with a thought.

        Raises:
          ValueError: a reply with its thought could not be learnt.
        """
        if not self.model.thinking:
            return self
        thought, scored = self.model.thought_tokens, self.seeding.shape.max_target_length
        if thought + self.study.max_answer_tokens > scored:
            raise ValueError(
                f"model.thought_tokens={thought} beside study.max_answer_tokens="
                f"{self.study.max_answer_tokens} exceed seeding.max_target_length={scored}, so a "
                f"reply with its thought could not be learnt; lower the one or raise the other"
            )

        writing = dataclasses.replace(self.dreaming.writing, thought_tokens=thought)
        answer = self.evaluation.max_new_tokens + thought
        return dataclasses.replace(
            self,
            study=dataclasses.replace(self.study, thought_tokens=thought),
            dreaming=dataclasses.replace(self.dreaming, writing=writing),
            evaluation=dataclasses.replace(self.evaluation, max_new_tokens=answer),
        )

    @property
    def reinforcing(self) -> SeedingConfig:
        """How what dreams earn is learnt."""
        return self.dreaming.learning.as_seeding(self.seeding, self.dreaming.writing)


def default() -> ml_collections.ConfigDict:
    """The defaults of a run; a preset is a function that changes some of them and returns the
    rest."""
    return settings.defaults(RunConfig)


def read(config) -> RunConfig:
    """The settings of a config, every one held to what it may be.

    Args:
      config: the ConfigDict of a run.

    Raises:
      ValueError, OSError: a setting, or the file of templates that one names, is not as it should
        be; says which and what is allowed.
    """
    return settings.read(RunConfig, config).with_room_to_think()
