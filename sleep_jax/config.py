"""The config of a run, section by section; presets in `configs/` change what they need.

Each field is declared, with its default, range and help, in the dataclass that uses it. Names are
the paper's where it has one: `alpha`, `lam` (lambda), `gamma` (Eq. 3), `threshold` (z0, Eq. 4).
"""

import dataclasses
import datetime
import math
from collections.abc import Mapping
from typing import Any

import ml_collections

from sleep_jax import settings
from sleep_jax.data.chunking import MIN_CHUNK_TOKENS
from sleep_jax.data.documents import SAMPLES
from sleep_jax.dreaming.dreaming_config import DreamingConfig
from sleep_jax.fields import reason, shown
from sleep_jax.interop.chat_template import DATE
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.models.decoder_config import DTYPES, REMATS
from sleep_jax.renamed_fields import RENAMED
from sleep_jax.seeding.gate import Gate
from sleep_jax.seeding.seeding_config import SeedingConfig
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
    remat: str = setting("full", "what of each layer the backward pass recomputes", choices=REMATS)
    thinking: bool = setting(
        False, "think before a reply, if the chat template supports it (Qwen 3)"
    )
    thought_tokens: int = setting(
        1024, "longest thought, in tokens, in addition to its reply", least=1
    )
    date: str = setting(DATE, "today's date for the chat template (Llama 3), as YYYY-MM-DD")

    def check(self) -> None:
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError:
            raise ValueError(
                f"model.date={self.date!r}; give a day as YYYY-MM-DD, e.g. '2024-07-26'"
            ) from None


@dataclasses.dataclass(frozen=True)
class MeshConfig(Settings, section="mesh"):
    """The sizes of the axes of the mesh; -1: all remaining devices."""

    data: int = setting(1, "devices that split the rows of a batch", least=1, also=(-1,))
    fsdp: int = setting(
        -1, "devices that split rows and one axis of every weight", least=1, also=(-1,)
    )
    tensor: int = setting(
        1, "devices that split heads, FFN units and vocabulary", least=1, also=(-1,)
    )
    slice: str = setting("", "TPU slice for --aot and --dry_run, e.g. v5e:4x4; a run ignores it")


@dataclasses.dataclass(frozen=True)
class CheckpointConfig(Settings, section="checkpoint"):
    """Checkpoints; one is saved after every phase."""

    max_to_keep: int = setting(0, "how many of the latest are kept; 0: all", least=0)
    save_interval_steps: int = setting(
        25, "updates or sampled batches between checkpoints within a phase; 0: none", least=0
    )


@dataclasses.dataclass(frozen=True)
class DataConfig(Settings, section="data"):
    """The documents of a run."""

    documents: str = setting(
        SAMPLES,
        "text, PDF, HTML, Word, JSONL file, folder, gs://..., seqio:TASK, samples, samples:4, none",
    )
    limit: int = setting(0, "read only this many parts, the first; 0: all", least=0)
    chunk_tokens: int = setting(256, "tokens of a part; longer documents are split into parts",
                                least=MIN_CHUNK_TOKENS)  # fmt: skip
    episodes: int = setting(
        1, "days that the documents are spread over; each ends with a night", least=1
    )


@dataclasses.dataclass(frozen=True)
class EvaluationConfig(Settings, section="evaluation"):
    """Evaluation of what was learnt."""

    max_new_tokens: int = setting(40, "longest answer, in tokens", least=1)
    report_samples: int = setting(3, "sample answers in the report; 0: none", least=0)
    own_questions: int = setting(
        6, "held-out own questions of each day, at most, that say what a night kept; 0: none",
        least=0,
    )  # fmt: skip
    tasks: tuple[str, ...] = setting(
        (), "tasks of lm-evaluation-harness, measured before and after every night"
    )
    task_items: int = setting(0, "items of each task, at most, the first; 0: all", least=0)


@dataclasses.dataclass(frozen=True)
class RunConfig(Settings):
    """All settings of a run.

    Raises:
      ValueError: a setting is out of its range, or settings contradict each other.
    """

    seed: int = setting(0, "seed of all random draws", least=0, most=2**32 - 1)
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
        scored = self.seeding.shape.max_target_length
        written = ["max_answer_tokens", "max_rehearsal_tokens"]
        for name in written + ["max_variant_tokens"] * bool(self.study.multiple):
            if (longest := getattr(self.study, name)) > scored:
                raise ValueError(
                    f"study.{name}={longest} is more than a row scores, "
                    f"seeding.max_target_length={scored}; lower the one or raise the other"
                )
        if self.study.readings and not self.study.rehearsals:
            raise ValueError(
                f"study.readings={self.study.readings} asks about replies to general prompts, of "
                "which study.rehearsals=0 writes none; set study.rehearsals to 1 or more, or "
                "study.readings=0"
            )
        self._check_something_to_learn()
        self._check_screening()
        if self.study.earlier_questions and self.seeding.known_teacher == "base":
            raise ValueError(
                f"study.earlier_questions={self.study.earlier_questions} with "
                "seeding.known_teacher='base', which never learnt what they are about and would "
                "teach to forget it; set seeding.known_teacher='before', or earlier_questions=0"
            )
        if self.memory.router_key == "contrast" and not self.study.rehearsals:
            raise ValueError(
                "memory.router_key='contrast' compares what is new with what was known, of which "
                "study.rehearsals=0 writes nothing; raise it, or set memory.router_key='mean'"
            )
        self._check_own_questions()
        self._check_tasks()
        if self.dreaming.learning.restart == "base" and self.memory.on_full == "reuse":
            raise ValueError(
                "dreaming.restart='base' with memory.on_full='reuse' would empty a slot that holds "
                "earlier nights; set dreaming.restart='previous', or another memory.on_full"
            )
        if self.seeding.null_space and self.memory.on_full == "reuse":
            raise ValueError(
                f"seeding.null_space={self.seeding.null_space} with memory.on_full='reuse' would "
                "take what earlier nights learnt out of the slot that holds it; set "
                "seeding.null_space=0, or another memory.on_full"
            )
        if self.seeding.null_space and self.memory.expert == "lora":
            raise ValueError(
                f"seeding.null_space={self.seeding.null_space} with memory.expert='lora': a slot "
                "that does not see the FFN's known inputs still sees its hidden units; set "
                "seeding.null_space=0, or another memory.expert"
            )
        if self.seeding.slot_init == "sender" and self.memory.depth < 2:
            raise ValueError(
                "seeding.slot_init='sender' with one level of memory, whose slots are filled from "
                "the context, which has no units; set seeding.slot_init='zero', or another level"
            )
        self.dreaming.learning.as_seeding(self.seeding, self.dreaming.writing)

    def _check_screening(self) -> None:
        if not self.study.is_screened:
            return
        if not self.memory.from_context:
            raise ValueError(
                "study.is_screened=True with memory.from_context=False, where nothing is studied; "
                "set study.is_screened=False"
            )
        rates = tuple(level.learning_rate for level in self.memory.levels)
        if any(rates):
            raise ValueError(
                f"study.is_screened=True with memory.learning_rates={rates}: "
                "levels learn every sentence by day, before any is left out; set "
                "memory.learning_rates to 0, or study.is_screened=False"
            )

    def _check_tasks(self) -> None:
        if math.isfinite(self.gate.tasks) and not self.evaluation.tasks:
            raise ValueError(
                f"gate.tasks={self.gate.tasks} watches evaluation.tasks, and there are none; name "
                "some, or set gate.tasks=inf"
            )
        if "test_questions" in self.evaluation.tasks:
            raise ValueError(
                "evaluation.tasks has 'test_questions', which every night is asked anyway; leave "
                "it out"
            )

    def _check_own_questions(self) -> None:
        asking = {
            f"gate.answers={self.gate.answers}": self.gate.answers,
            f"seeding.eval_steps={self.seeding.eval_steps}": self.seeding.eval_steps,
        }
        sources = {
            "evaluation.own_questions": self.evaluation.own_questions,
            "dreaming.held_out": self.dreaming.held_out,
            "study.questions": self.study.questions,
        }
        for field in (field for field, value in asking.items() if value):
            for name in (name for name, count in sources.items() if not count):
                raise ValueError(
                    f"{field} asks held-out own questions, and {name}=0 leaves none; set it to 1 "
                    "or more"
                )
        if self.seeding.epochs and self.dreaming.learning.restart == "base":
            raise ValueError(
                f"seeding.epochs={self.seeding.epochs} with dreaming.restart='base', which makes "
                "seeding.steps updates again; set dreaming.restart='previous', or epochs=0"
            )

    def _check_something_to_learn(self) -> None:
        study, seeding = self.study, self.seeding
        names = ("recitations", "completions", "questions", "rehearsals")
        writes = study.multiple or any(getattr(study, name) for name in names)
        if self.memory.from_context and not writes:
            raise ValueError(
                f"{', '.join(f'study.{name}=0' for name in names)} leave a night nothing to learn; "
                "set one of them to 1 or more, study.multiple above 0, or memory.from_context=False"
            )
        if self.dreaming.learning.steps and not study.questions:
            raise ValueError(
                "study.questions=0 leaves no question that could reward a dream; set at least 1, "
                "or dreaming.steps=0 for no dreams"
            )
        objective = seeding.objective
        needs_rollouts = {
            "seeding.mode='staged'": seeding.mode == "staged",
            f"seeding.alpha={objective.alpha}": objective.alpha == 0,
            f"seeding.lam={objective.lam}": objective.lam == 1 and not objective.lam_as_probability,
        }
        has_none = {
            "seeding.num_prompts=0": not seeding.num_prompts,
            f"seeding.rollout_start={seeding.rollout_start}": seeding.rollout_start == 1,
        }
        needs_rollouts, has_none = (
            [field for field, is_so in conditions.items() if is_so]
            for conditions in (needs_rollouts, has_none)
        )
        if needs_rollouts and has_none:
            raise ValueError(
                f"{has_none[0]} with {needs_rollouts[0]}, which learns from rollouts, and there "
                "are none; enable rollouts, or set seeding.mode='joint' with alpha above 0 and lam "
                "below 1"
            )

    def with_room_to_think(self) -> "RunConfig":
        """The settings with room for a thought before every reply in a chat, if the model thinks.

        Raises:
          ValueError: a reply with its thought does not fit a row.
        """
        if not self.model.thinking:
            return self
        thought, scored = self.model.thought_tokens, self.seeding.shape.max_target_length
        for name in ("max_answer_tokens", "max_rehearsal_tokens"):
            if thought + (longest := getattr(self.study, name)) > scored:
                raise ValueError(
                    f"model.thought_tokens={thought} beside study.{name}={longest} exceed "
                    f"seeding.max_target_length={scored}, so a reply with its thought could not be "
                    f"learnt; lower the one or raise the other"
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
        """How dreams are learnt from their rewards, as a seeding."""
        return self.dreaming.learning.as_seeding(self.seeding, self.dreaming.writing)


def default() -> ml_collections.ConfigDict:
    """The default config of a run; a preset changes some of its fields."""
    return settings.defaults(RunConfig)


def restored(values: Mapping[str, Any], where: str) -> ml_collections.ConfigDict:
    """The config that was kept as JSON, which has lists for tuples; a field that it lacks, since it
    was added later, has its default.

    Args:
      values: nested dicts.
      where: what kept it, for errors.

    Raises:
      ValueError: a field that is unknown, or has a value of another type; names it.
    """
    from flax.traverse_util import flatten_dict

    config, known = default(), settings.every(RunConfig)
    for path, value in flatten_dict({**values}, sep=".").items():
        if path in RENAMED:
            raise ValueError(
                f"{where} was written by an older version of sleep_jax: it has {path}, which is "
                f"called {RENAMED[path]} now; go on with that version"
            )
        if path not in known:
            raise ValueError(f"{where}: {path}={shown(value)}; there is no such setting")
        try:
            value = tuple(value) if isinstance(value, list) else value
            config.update_from_flattened_dict({path: value})
        except TypeError as error:
            raise ValueError(f"{where}: {path}={shown(value)}; {reason(error)}") from error
    return config


def read(config) -> RunConfig:
    """The settings of a config, with every value checked.

    Args:
      config: the ConfigDict of a run.

    Raises:
      ValueError, OSError: a setting, or the file of templates that one names, is wrong; says which
        and what is allowed.
    """
    return settings.read(RunConfig, config).with_room_to_think()
