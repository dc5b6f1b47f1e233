"""What a run will do, from its config and its documents, before anything is computed: days and
nights, slots and when they are full, updates, tokens to be written, memory and disk."""

import collections
import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence

import jax

from sleep_jax.config import read
from sleep_jax.data.batches import bucket
from sleep_jax.data.documents import read_rehearsal_topics
from sleep_jax.itinerary import Step
from sleep_jax.models.cache import init_cache
from sleep_jax.models.config import DecoderConfig
from sleep_jax.runtime.abstract import collections_of
from sleep_jax.runtime.program import Sizes
from sleep_jax.runtime.programs import rounds_of
from sleep_jax.runtime.roofline import GIB
from sleep_jax.runtime.timing import memory_at_hand
from sleep_jax.seeding.self_study import sentences
from sleep_jax.sleeper import Day

PROMPTED = 32  # tokens of a chat around a page


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run before it begins.

    Attributes:
      config: its settings.
      cfg: the decoder.
      source: what is read, in words.
      days: with their documents.
      tokens: of every document of every day.
      steps: the phases.
      is_exact: tokens are those of the model's tokenizer, not an estimate.
    """

    config: object
    cfg: DecoderConfig
    source: str
    days: tuple[Day, ...]
    tokens: tuple[tuple[int, ...], ...]
    steps: Sequence[Step]
    is_exact: bool = True

    @classmethod
    def of(
        cls,
        config,
        cfg: DecoderConfig,
        source: str,
        days: tuple[Day, ...],
        encode: Callable,
        steps: Sequence[Step],
        is_exact: bool = True,
    ) -> "RunPlan":
        """The plan of a run whose tokens are those that `encode` gives."""
        tokens = tuple(tuple(len(encode(d.text)) for d in day.documents) for day in days)
        return cls(config, cfg, source, days, tokens, steps, is_exact)

    @property
    def sizes(self) -> Sizes:
        """Of its largest day, for its programs."""
        return Sizes(
            max(len(day.documents) for day in self.days),
            bucket(max(map(max, self.tokens)) + PROMPTED),
            max(self._sentences),
        )

    @property
    def nights(self) -> int:
        """How often a level hands over what it holds."""
        return sum(step.phase == "consolidate" for step in self.steps)

    def lines(self) -> Iterator[str]:
        """The plan in words, a line each."""
        about = "" if self.is_exact else "about "
        tokens = sum(map(sum, self.tokens))
        yield f"documents   {self.source}; {about}{tokens:,} tokens"
        yield f"days        {self._days()}"
        yield from (f"slots       {line}" for line in self._slots())
        yield f"updates     {self._updates()}"
        yield f"written     {self._written()}"
        yield (
            f"memory      beside the model {_gib(self._context())} for a day's documents as a "
            f"context, {_gib(self._trials())} for the trials of a night's dreams"
        )
        yield f"disk        {self._disk()}"

    def warnings(self, workdir: str | None = None, is_here: bool = True) -> Iterator[str]:
        """What will go otherwise than the user may think, and the remedy.

        Args:
          workdir: of the run, whose disk has to hold it; None: nobody knows.
          is_here: the devices of this machine are those of the run.
        """
        yield from self._exhausted()
        yield from self._too_few_updates()
        needed = self._context() + self._trials()
        if is_here and needed > (there := memory_at_hand()):
            yield (
                f"a day of {max(map(len, self.tokens)):,} parts asks for {_gib(needed)} beside the "
                f"model, and there are {_gib(there)}; give more days by data.episodes, or dream "
                "about fewer of the day's documents by dreaming.curriculum.recent"
            )
        if workdir is not None and "://" not in workdir:
            free = shutil.disk_usage(workdir).free
            if free < self._bytes():
                yield (
                    f"workdir={workdir!r} has {_gib(free)} of disk left, the run writes about "
                    f"{_gib(self._bytes())}; set checkpoint.keep=2, or choose another "
                    "--workdir"
                )

    def _days(self) -> str:
        most, least = (f(len(day.documents) for day in self.days) for f in (max, min))
        parts = f"{least:,}" if most == least else f"{least:,} to {most:,}"
        return (
            f"{_count(len(self.days), 'day')} of {parts} part{'' if most == 1 else 's'}, "
            f"{_count(self.nights, 'night')} ({_count(len(self.steps), 'phase')})"
        )

    def _fills(self) -> dict[int, list[int]]:
        """By level the days that give it a slot, in their order; those of one that hands over what
        it holds begin anew."""
        now: dict[int, list[int]] = collections.defaultdict(list)
        most: dict[int, list[int]] = {}
        for step in self.steps:
            if step.phase != "consolidate":
                continue
            level = step.sender + 1
            now[level].append(step.day)
            now[step.sender] = []
            most[level] = max(most.get(level, []), [*now[level]], key=len)
        return most

    def _slots(self) -> Iterator[str]:
        for level, days in sorted(self._fills().items()):
            slots = self.cfg.memory.level(level).slots
            line = f"level {level}: {min(len(days), slots)} of {slots} in use at most"
            if len(days) >= slots:
                line += f", full after day {days[slots - 1] + 1}" if slots else ", it has none"
            yield line

    def _exhausted(self) -> Iterator[str]:
        memory = self.cfg.memory
        what = {
            "error": "the run stops there",
            "skip": "nights from then on are skipped",
            "reuse": "later nights overwrite the last slot",
        }
        for level, days in sorted(self._fills().items()):
            slots = memory.level(level).slots
            if len(days) <= slots or memory.on_full not in what:
                continue
            yield (
                f"level {level} has {_count(slots, 'slot')} for {_count(len(days), 'night')}: on "
                f"day {days[slots] + 1} none is free and {what[memory.on_full]} (memory.on_full="
                f"{memory.on_full!r}); begin with memory.slots of {len(days)} or "
                "memory.on_full='merge', or set it to 'skip' or 'reuse', now or in the same "
                "workdir later"
            )

    @functools.cached_property
    def _sentences(self) -> list[int]:
        return [sum(len(sentences(d.text)) for d in day.documents) for day in self.days]

    def _room(self) -> tuple[int, int, float]:
        """Of the longest day: learnt tokens that the updates of its night hold, those that its
        recitations and completed sentences have, and its parts."""
        s, study = self.config.seeding, read(self.config).study
        day = max(self.tokens, key=sum)
        written = (study.recitations + study.completions) * sum(day)
        return s.steps * s.rows * s.scored, written, len(day)

    def _updates(self) -> str:
        c = self.config
        held, _, parts = self._room()
        line = (
            f"{_count(c.seeding.steps, 'update')} a night, {self.nights * c.seeding.steps:,} in "
            f"all; at most {held / parts:,.0f} learnt tokens for each part of a day"
        )
        dreaming = sum(step.phase == "learn" for step in self.steps) * c.dreaming.steps
        return f"{line}; {_count(dreaming, 'update')} on dreams" if dreaming else line

    def _too_few_updates(self) -> Iterator[str]:
        s = self.config.seeding
        held, written, parts = self._room()
        if held < written and any(step.phase == "study" for step in self.steps):
            days = -(-written * len(self.days) // held)
            yield (
                f"a day of {_count(parts, 'part')} and a night of {_count(s.steps, 'update')}: "
                f"they hold {held:,} learnt tokens, but reciting the day and completing its "
                f"sentences once takes {written:,}, so a part is learnt {held / written:.2f} "
                f"times; for once each give seeding.steps={-(-written * s.steps // held):,}, or "
                f"more days by data.episodes={min(days, sum(map(len, self.tokens)))} (with "
                "as many memory.slots)"
            )

    def _written(self) -> str:
        """Tokens that the model samples in all of the run, at most."""
        c, study = self.config, read(self.config).study
        studied = sum(step.phase == "study" for step in self.steps)
        questions = sum(self._sentences) * study.questions
        rehearsed = len(read_rehearsal_topics()) * study.rehearsals
        counts = {
            "study": studied
            and questions * (study.max_question_tokens + study.max_answer_tokens)
            + studied * rehearsed * study.max_answer_tokens
        }
        if any(step.phase == "write" for step in self.steps):
            each = len(read(c).dreaming.writing.templates) * c.dreaming.count
            dreamt = sum(min(c.dreaming.curriculum.recent or len(x), len(x)) for x in self.tokens)
            counts["dreams"] = dreamt * each * c.dreaming.max_new_tokens
        seeding = read(c).seeding
        dreamt = rounds_of(seeding) * seeding.updates_per_rollout * seeding.dreams
        counts["rollouts"] = self.nights * dreamt * c.seeding.group * c.seeding.max_new_tokens
        words = ", ".join(f"{n:,} in {name}" for name, n in counts.items() if n)
        return f"at most {sum(counts.values()):,} tokens: {words or 'none'}"

    def _context(self) -> float:
        """Bytes of the cache that holds a day's documents."""
        sizes = self.sizes
        cache = jax.eval_shape(lambda: init_cache(self.cfg, sizes.documents + 1, sizes.context))
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))

    def _trials(self) -> float:
        """Bytes of the adapters that a night's dreams train, all of which are kept until they are
        compared."""
        d, parts = self.config.dreaming, max(map(len, self.tokens))
        if not any(step.phase == "try" for step in self.steps):
            return 0.0
        tried = min(d.curriculum.recent or parts, parts) * (d.top + d.random) * d.trial.seeds
        return tried * _size(collections_of(self.config, self.cfg)["lora"])

    def _bytes(self) -> float:
        """Of the checkpoints that are kept: each holds the memory as it is, as the day ended, and
        as it was before the last dreams."""
        held = collections_of(self.config, self.cfg)
        once = {name: _size(held[name]) for name in ("memory", "slots", "wake") if name in held}
        each = 3 * (once["memory"] + once["slots"]) + once.get("wake", 0)
        keep = self.config.checkpoint.keep
        bookmarks = 2 * _size(held.get("learner", ()))
        return each * min(keep or len(self.steps), len(self.steps)) + bookmarks

    def _disk(self) -> str:
        count = min(self.config.checkpoint.keep or len(self.steps), len(self.steps))
        return f"about {_gib(self._bytes())} of {_count(count, 'checkpoint')}"


def about_tokens(text: str) -> Sequence[int]:
    """As many as a text may have, where no tokenizer is at hand: one for four bytes."""
    return range(-(-len(text.encode("utf-8", "replace")) // 4))


def _size(tree) -> float:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{1024 * size / GIB:.1f} MiB"


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"
