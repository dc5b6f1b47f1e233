"""An experiment: a model, what it is given to read, and how it will be asked; all that stays the
same through a run.
"""

import collections
import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections

from sleep_jax.config import RunConfig, read
from sleep_jax.data.documents import (
    NONE,
    Document,
    Source,
    read_anchors,
    read_rehearsal_topics,
    read_source,
)
from sleep_jax.days import Day, EvalQuestion, cut_into_days, reading_of
from sleep_jax.evals.recall import AnchorSet
from sleep_jax.interop.fingerprint import fingerprint
from sleep_jax.interop.load import load_model
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.resolve import resolve
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.lengths import Lengths, check_lengths, check_positions, measure, of_days
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.encoder import load_encoder
from sleep_jax.models.sharding import place
from sleep_jax.rewards.agreement import agreement
from sleep_jax.rewards.calibration import calibrated_judge
from sleep_jax.rewards.judge import JUDGES, Judge, is_exact, rule_judge
from sleep_jax.rewards.semantic import cosine_judge, embedding_judge
from sleep_jax.rewards.yes_no import YesNoScore
from sleep_jax.run_schedule import ScheduledPhase, schedule_of_days
from sleep_jax.tasks.task_scores import Tasks

NOTHING = "nothing new"  # what is read where no documents are given


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A model and its days.

    Attributes:
      config: the run's settings.
      cfg, params, tokenizer: the base model.
      days: what it reads and is asked.
      others: (config, params) of further checkpoints that teach.
      topics: general prompts that it rehearses on.
      anchors: texts that it should predict as well after the night as before, by name of the score.
      judge: r_sem.
      source: a line that says what it reads.
    """

    config: ml_collections.FrozenConfigDict
    cfg: DecoderConfig
    params: Any
    tokenizer: Tokenizer
    days: tuple[Day, ...]
    others: tuple[tuple[DecoderConfig, Any], ...]
    topics: list[str]
    anchors: dict[str, AnchorSet]
    judge: Judge
    source: str = ""

    @functools.cached_property
    def settings(self) -> RunConfig:
        """Its config as dataclasses."""
        return read(self.config)

    @property
    def prompts(self) -> Prompts:
        """Its prompts."""
        return Prompts(self.tokenizer)

    @property
    def documents(self) -> list[Document]:
        """All that it reads."""
        return [document for day in self.days for document in day.documents]

    @property
    def questions(self) -> list[EvalQuestion]:
        """All test questions."""
        return [question for day in self.days for question in day.questions]

    def stream(self, day: int) -> tuple[int, ...]:
        """The tokens of a day, in the order of reading."""
        pages = map(self.prompts.plain_document, self.days[day].documents)
        return tuple(token for page in pages for token in page)

    def pages(
        self, scheduled: ScheduledPhase, left_out: Sequence[int] = ()
    ) -> list[tuple[int, ...]]:
        """The tokens that were read between a level's last sleep and this one, document by
        document, but for some days.
        """
        out = []
        for day in range(scheduled.since, scheduled.day + 1):
            if day in left_out:
                continue
            start = scheduled.start if day == scheduled.since else 0
            stop = scheduled.stop if day == scheduled.day else None
            offset = 0
            for page in map(self.prompts.plain_document, self.days[day].documents):
                end = None if stop is None else max(stop - offset, 0)
                out.append(page[max(start - offset, 0) : end])
                offset += len(page)
        return [page for page in out if page]

    def questions_until(self, day: int) -> list[EvalQuestion]:
        """The test questions of a day and of those before it."""
        return [question for earlier in self.days[: day + 1] for question in earlier.questions]

    def on(self, day: int) -> "Experiment":
        """The same with the settings of the night of a day."""
        config = self.days[day].config
        if config in (None, self.config):
            return self
        if config not in self._by_config:
            self._by_config[config] = self._with(config)
        return self._by_config[config]

    @functools.cached_property
    def _by_config(self) -> dict[ml_collections.FrozenConfigDict, "Experiment"]:
        """What `on` has made, by settings."""
        return {}

    def _with(self, config: ml_collections.FrozenConfigDict) -> "Experiment":
        """The same model and days with other settings; other teachers and another judge are loaded
        where these ask for them.
        """
        others, judge = self.others, self.judge
        if config.seeding.teachers != self.config.seeding.teachers:
            documents = [x for day in self.days if day.config == config for x in day.documents]
            lengths = measure(read(config), self.prompts, documents)
            others = tuple(_others(config, self.cfg, self.tokenizer, lengths))
        if config.seeding.judge != self.config.seeding.judge:
            judge = load_judge(config.seeding.judge, self.cfg, self.params, self.tokenizer)
        cfg = self.cfg.replace(**_overrides(config))
        return dataclasses.replace(self, config=config, cfg=cfg, others=others, judge=judge)

    @functools.cached_property
    def reading(self) -> str:
        """Fingerprint of what it reads and is asked, day by day."""
        return reading_of(self.days)

    @functools.cached_property
    def base(self) -> dict[str, dict[str, str]]:
        """The models whose weights it does not change, by the field that names each: name and
        fingerprint of the weights. A checkpoint holds these in place of a copy.
        """
        c = self.config
        models = {"model.name": (c.model.name, self.params)} | {
            f"seeding.teachers[{i}]": (name, params)
            for i, (name, (_, params)) in enumerate(zip(c.seeding.teachers, self.others))
        }
        return {
            field: {"name": name, "weights": fingerprint(params)}
            for field, (name, params) in models.items()
        }

    @functools.cached_property
    def memories(self) -> list[MemoryConfig]:
        """The levels as each day has them."""
        by_config = {None: self.cfg.memory, self.config: self.cfg.memory}
        return memories_of(self.days, by_config)

    @functools.cached_property
    def schedule(self) -> list[ScheduledPhase]:
        """Its phases in order."""
        lengths = [len(self.stream(day)) for day in range(len(self.days))]
        dreams = [(day.config or self.config).dreaming.steps > 0 for day in self.days]
        return schedule_of_days(self.memories, lengths, dreams)


def memories_of(days: Sequence[Day], by_config: dict[Any, MemoryConfig]) -> list[MemoryConfig]:
    """The levels as each day has them; `by_config` has those of days without own settings, and is
    given others.
    """
    for day in days:
        if day.config not in by_config:
            by_config[day.config] = read(day.config).memory
    return [by_config[day.config] for day in days]


def load_experiment(
    config: ml_collections.ConfigDict, known: Sequence[Day] = (), given: Source | None = None
) -> Experiment:
    """Loads everything that a run needs and checks it.

    Args:
      config: the settings of the nights of new days.
      known: the days that it was given before, each with the settings of its night; none are read
        again.
      given: whole documents to read on new days; None: those of `data.documents`, which may be
        `none` where days are known.

    Raises:
      ValueError, OSError: a setting, a document or the model is not as it should be; says which and
        what to do.
    """
    # A mistake is reported before a large model is loaded.
    read(config)
    if config.evaluation.tasks:
        Tasks(config.evaluation.tasks)
    if given is None and (config.data.documents != NONE or not known):
        given = read_source(config.data.documents, config.data.limit)
    cfg, params, tokenizer = load_base(config)
    source, new = NOTHING, ()
    if given is not None:
        source, new = cut_into_days(config, given, tokenizer.encode, known)
    days = (*known, *new)
    documents = [document for day in new for document in day.documents]
    lengths = check_lengths(of_days(config, len(days)), Prompts(tokenizer), documents)
    check_positions(config, cfg, lengths)
    params = jax.device_put(place(params, "params"))
    experiment = Experiment(
        config=ml_collections.FrozenConfigDict(config),
        cfg=cfg,
        params=params,
        tokenizer=tokenizer,
        days=days,
        others=tuple(_others(config, cfg, tokenizer, lengths)),
        topics=read_rehearsal_topics(),
        anchors=_anchors(tokenizer),
        judge=load_judge(config.seeding.judge, cfg, params, tokenizer),
        source=source,
    )
    schedule = experiment.schedule  # raises where a level would never learn
    if config.dreaming.random_expert and config.dreaming.steps:
        _check_random_expert(cfg.memory, schedule)
    return experiment


def load_base(config: ml_collections.ConfigDict) -> tuple[DecoderConfig, Any, Tokenizer]:
    """The base model of a run: its config with the memory of the run, weights on the host, and
    tokenizer.

    Args:
      config: of the run.

    Raises:
      ValueError, OSError: as `load_model`.
    """
    name = config.model.name
    options = {"dtype": config.model.dtype, **template_options(config), **_overrides(config)}
    return (
        tiny_model(seed=config.seed, **options) if name == "tiny" else load_model(name, **options)
    )


def _overrides(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The fields of a decoder's config that a run sets."""
    settings = read(config)
    return {
        "memory": settings.memory,
        "lora": settings.dreaming.lora,
        "remat": settings.model.remat,
    }


def _check_random_expert(memory: MemoryConfig, schedule: Sequence[ScheduledPhase]) -> None:
    """Warns where the random expert would add nothing: dreams are written by the model as their day
    ended, and no router leaves out a slot that was filled by then.
    """
    in_use, most = collections.Counter(), 0
    for scheduled in schedule:
        if scheduled.phase == "wake" and scheduled.is_end:
            most = max(most, *(min(x.slots, in_use[n]) for n, x in enumerate(memory.levels, 1)))
        elif scheduled.phase == "consolidate":
            in_use[scheduled.sender + 1] += 1
            in_use[scheduled.sender] = 0
    if not memory.top_k or most <= memory.top_k:
        warnings.warn(
            f"dreaming.random_expert=True is a no-op: memory.router={memory.router!r} with "
            f"top_k={memory.top_k} leaves no slot out of the {most} that a level has filled at "
            "most when dreams are written; set memory.router='sigmoid' and a "
            "memory.top_k below them, raise data.episodes, or dreaming.random_expert=False",
            stacklevel=3,
        )


def template_options(config) -> dict[str, Any]:
    """How chat templates are used."""
    return {"thinking": config.model.thinking, "date": config.model.date}


def _others(config, cfg: DecoderConfig, tokenizer: Tokenizer, lengths: Sequence[Lengths]):
    """The further teachers, (config, params) each; they need the student's tokenizer and room for
    what it reads.
    """
    for i, name in enumerate(config.seeding.teachers):
        remat, template = config.model.remat, template_options(config)
        other, params, teacher_tokenizer = load_model(
            name, dtype=config.model.dtype, remat=remat, **template
        )
        sample = "A teacher of 1,260 words: Odrin Bascale?"
        if other.vocab != cfg.vocab or teacher_tokenizer.encode(sample) != tokenizer.encode(sample):
            raise ValueError(f"seeding.teachers: {name!r} has another tokenizer than the student")
        check_positions(config, other, lengths, f"seeding.teachers[{i}]={name!r}")
        yield other, jax.device_put(place(params, "params"))


def _anchors(tokenizer: Tokenizer) -> dict[str, AnchorSet]:
    """General text as it stands, and general questions with their answers as chats."""
    anchors, prompts = read_anchors(), Prompts(tokenizer)
    chats = [
        (*prompts.without_context(q.question), *prompts.reply(q.answer)) for q in anchors.questions
    ]
    return {
        "anchor_perplexity": AnchorSet.from_sequences([*map(prompts.plain, anchors.texts)]),
        "chat_perplexity": AnchorSet.from_sequences(chats),
    }


def load_judge(name: str, cfg: DecoderConfig, params, tokenizer: Tokenizer) -> Judge:
    """r_sem by its name; the base model is that of the judge `model`."""
    if name in ("embedding", "cosine"):
        encoder = load_encoder(resolve("all-MiniLM-L6-v2"))
        return embedding_judge(encoder) if name == "embedding" else cosine_judge(encoder)
    if name == "agreement":
        return rule_judge(agreement)
    if name == "exact":
        return rule_judge(is_exact)
    if name == "model":
        return calibrated_judge(YesNoScore(cfg, params, tokenizer))
    raise ValueError(f"seeding.judge={name!r}; choose from {', '.join(JUDGES)}")
