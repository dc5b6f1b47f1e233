"""What a run will do, from its config and its documents, before anything is computed: days and
nights, slots and when they are full, updates, tokens to be written, memory and disk.
"""

import dataclasses
import functools
import math
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp

from sleep_jax.addresses import is_remote
from sleep_jax.config import read
from sleep_jax.data.documents import read_rehearsal_topics
from sleep_jax.days import Day
from sleep_jax.forecast.timing import memory_at_hand
from sleep_jax.lengths import of_days
from sleep_jax.models.cache import init_cache
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.programs.abstract import collections_of
from sleep_jax.programs.seeding import rounds_of
from sleep_jax.programs.sizes import Sizes, expected_sizes
from sleep_jax.run_schedule import ScheduledPhase
from sleep_jax.runtime.hardware import GIB
from sleep_jax.seeding.consolidate import known_probe
from sleep_jax.seeding.seeding_config import automatic_rate
from sleep_jax.setting import AUTO
from sleep_jax.slot_plan import LevelPlan, exhausted, levels
from sleep_jax.study.self_study import sentences
from sleep_jax.study.variants import sampled_tokens
from sleep_jax.wake.context import read_shape

PROMPTED = 32  # tokens of a chat around a page
LOWEST_SHARE = 0.01  # of the automatic learning rate, below which the plan warns


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """A run before it begins.

    Attributes:
      config: its settings.
      cfg: the decoder.
      source: a line that says what is read.
      days: with their documents; the first of them may be over.
      tokens: of every document of every day.
      schedule: its phases in order, or those that are left.
      is_exact: tokens are those of the model's tokenizer, not an estimate.
      slots_used: how many slots of each level are in use already.
    """

    config: object
    cfg: DecoderConfig
    source: str
    days: tuple[Day, ...]
    tokens: tuple[tuple[int, ...], ...]
    schedule: Sequence[ScheduledPhase]
    is_exact: bool = True
    slots_used: Mapping[int, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config,
        cfg: DecoderConfig,
        source: str,
        days: tuple[Day, ...],
        encode: Callable,
        schedule: Sequence[ScheduledPhase],
        is_exact: bool = True,
        slots_used: Mapping[int, int] | None = None,
    ) -> "RunPlan":
        """The plan of a run; `encode` counts its tokens."""
        tokens = tuple(tuple(len(encode(d.text)) for d in day.documents) for day in days)
        return cls(config, cfg, source, days, tokens, schedule, is_exact, slots_used or {})

    @functools.cached_property
    def ahead(self) -> range:
        """The days that are not over, from 0."""
        return range(self.schedule[0].day, len(self.days))

    def _of_days(self, by_day: Sequence) -> Sequence:
        """Of what each day has, that of the days that are not over."""
        return by_day[self.ahead.start :]

    @property
    def _parts(self) -> list[int]:
        """Documents of each day that is not over."""
        return [len(day.documents) for day in self._of_days(self.days)]

    @functools.cached_property
    def sizes(self) -> Sizes:
        """Of its largest day, for its programs."""
        return self._sizes(max(self._parts), max(self._of_days(self._sentences)))

    def _sizes(self, documents: int, sentences: int) -> Sizes:
        context = max(map(max, self._of_days(self.tokens))) + PROMPTED
        settings = read(of_days(self.config, len(self.days)))
        return expected_sizes(settings, documents, context, sentences)

    @functools.cached_property
    def _updates_by_day(self) -> list[int]:
        """The planned updates of the night of each day, at most."""
        seeding = read(self.config).seeding
        if not seeding.epochs:
            return [seeding.steps] * len(self.days)
        counts = zip((len(day.documents) for day in self.days), self._sentences)
        return [seeding.sized_for(self._sizes(*count).exchanges).steps for count in counts]

    @property
    def consolidations(self) -> int:
        """How often a level hands over what it holds."""
        return sum(scheduled.phase == "consolidate" for scheduled in self.schedule)

    @property
    def nights(self) -> int:
        """On how many days one does."""
        return len(
            {scheduled.day for scheduled in self.schedule if scheduled.phase == "consolidate"}
        )

    @functools.cached_property
    def merges(self) -> int:
        """How often the slots of a level become one."""
        return sum(len(level.merges) for level in self._levels)

    @functools.cached_property
    def _levels(self) -> list[LevelPlan]:
        return levels(self.cfg.memory, self.schedule, self.slots_used)

    @property
    def seedings(self) -> float:
        """Slots that are seeded on a day and its night, on average."""
        return (self.consolidations + self.merges) / len(self.ahead)

    def lines(self) -> Iterator[str]:
        """The plan as lines."""
        about = "" if self.is_exact else "about "
        tokens = sum(map(sum, self._of_days(self.tokens)))
        yield f"documents   {self.source}; {about}{tokens:,} tokens"
        yield f"days        {self._days()}"
        for level in self._levels:
            yield f"slots       {level.line()}"
        yield f"updates     {self._updates()}"
        yield f"written     {self._written()}"
        yield (
            f"memory      beside the model {_gib(self._context())} for a day's documents as a "
            f"context, then {_gib(self._trials())} for the trials of a night's dreams"
        )
        yield f"host        {self._host()}"
        yield f"disk        {self._disk()}"
        if tasks := self.config.evaluation.tasks:
            yield (
                f"tasks       {', '.join(tasks)}: before and after every night; what they take is "
                "not in this plan"
            )

    def warnings(
        self, workdir: str | None = None, is_here: bool = True, is_loaded: bool = True
    ) -> Iterator[str]:
        """What may surprise the user, with the remedy, a line each.

        Args:
          workdir: of the run, whose disk has to hold it; None: unknown.
          is_here: it runs on the devices of this machine.
          is_loaded: the model is in memory already.
        """
        yield from exhausted(self.cfg.memory, self.schedule, self.slots_used)
        yield from self._too_few_updates()
        yield from self._too_low_a_rate()
        if is_here:
            yield from self._too_little_memory(is_loaded)
            yield from self._too_little_scratch()
        if workdir is not None and not is_remote(workdir):
            yield from self._too_little_disk(workdir)

    def _too_little_memory(self, is_loaded: bool) -> Iterator[str]:
        needed = max(self._context(), self._trials())  # never at the same time
        run = collections_of(self.config, self.cfg)
        model = 0.0 if is_loaded else sum(_size(run[x]) for x in ("params", "memory", "slots"))
        if needed > (available := max(memory_at_hand() - model, 0.0)):
            yield (
                f"a day of {max(self._parts):,} parts asks for {_gib(needed)} beside the model, "
                f"and there are {_gib(available)}; give more days by data.episodes, or "
                "dream about fewer of the day's documents by dreaming.curriculum.recent"
            )

    def _too_little_scratch(self) -> Iterator[str]:
        folder, on_disk = tempfile.gettempdir(), self._hidden_states()[1]
        if (free := shutil.disk_usage(folder).free) < on_disk:
            yield (
                f"{folder} has {_gib(free)} of disk left, and a night keeps up to {_gib(on_disk)} "
                "of hidden states there; raise seeding.teacher_memory, or name another folder by "
                "TMPDIR"
            )

    def _too_little_disk(self, workdir: str) -> Iterator[str]:
        folder = pathlib.Path(workdir).absolute()  # which a dry run does not make
        free = shutil.disk_usage(next(x for x in (folder, *folder.parents) if x.exists())).free
        if free < self._bytes():
            yield (
                f"workdir={workdir!r} has {_gib(free)} of disk left, the run writes about "
                f"{_gib(self._bytes())}; set checkpoint.max_to_keep=2, or choose another --workdir"
            )

    def _days(self) -> str:
        most, least = max(self._parts), min(self._parts)
        parts = f"{least:,}" if most == least else f"{least:,} to {most:,}"
        slept = _count(self.nights, "night")
        if self.consolidations != self.nights:
            slept += f", {_count(self.consolidations, 'consolidation')}"
        return (
            f"{_count(len(self._parts), 'day')} of {parts} part{'' if most == 1 else 's'}, {slept} "
            f"({_count(len(self.schedule), 'phase')})"
        )

    @functools.cached_property
    def _sentences(self) -> list[int]:
        return [sum(len(sentences(d.text)) for d in day.documents) for day in self.days]

    def _room(self) -> tuple[int, int, float]:
        """Of the longest day: the learnt tokens that the updates of its night hold, the tokens
        that its recitations, completed sentences and variants have, and its parts.
        """
        s, study = self.config.seeding, read(self.config).study
        longest = max(self.ahead, key=lambda day: sum(self.tokens[day]))
        day, updates = self.tokens[longest], self._updates_by_day[longest]
        written = math.ceil((study.recitations + study.completions + study.multiple) * sum(day))
        return updates * s.batch_size * s.max_target_length, written, len(day)

    def _updates(self) -> str:
        c = self.config
        learnt, _, parts = self._room()
        event = "consolidation or merge" if self.merges else "consolidation"
        updates = self._of_days(self._updates_by_day)
        least, most = min(updates), max(updates)
        each = f"{least:,} to {_count(most, 'update')}" if least < most else _count(most, "update")
        # A level that hands over more than one day has the updates of all of them, at most.
        total = self.merges * most + sum(
            min(sum(self._updates_by_day[x.since : x.day + 1]), self._most_updates)
            if x.sender
            else self._updates_by_day[x.day]
            for x in self.schedule
            if x.phase == "consolidate"
        )
        line = (
            f"{each} a {event}, {total:,} in all; at most "
            f"{learnt / parts:,.0f} learnt tokens for each part of a day"
        )
        if c.seeding.learning_rate == AUTO:
            rates = [f"{rate:.2g}" for rate in self._automatic_rates().values()]
            line += f"; learning rate {' and '.join(dict.fromkeys(rates))}"
        if c.seeding.eval_steps:
            line += "; fewer or more as own questions are answered"
        dreaming = (
            sum(scheduled.phase == "learn" for scheduled in self.schedule)
            * read(c).reinforcing.steps
        )
        return f"{line}; at least {_count(dreaming, 'update')} on dreams" if dreaming else line

    @property
    def _most_updates(self) -> int:
        """Of one consolidation."""
        seeding = read(self.config).seeding
        return seeding.max_steps if seeding.epochs else seeding.steps

    def _too_few_updates(self) -> Iterator[str]:
        name = "max_steps" if self.config.seeding.epochs else "steps"
        updates = max(self._of_days(self._updates_by_day))
        learnt, written, parts = self._room()
        if updates < self._most_updates:
            return  # as many as seeding.epochs asks for
        variants = ", and its variants," if self.config.study.multiple else ""
        if learnt < written and any(scheduled.phase == "study" for scheduled in self.schedule):
            days = -(-written * len(self.ahead) // learnt)
            yield (
                f"a day of {_count(parts, 'part')} and a night of {_count(updates, 'update')}: "
                f"they hold {learnt:,} learnt tokens, but reciting the day and completing its "
                f"sentences once{variants} takes {written:,}, so a part is learnt "
                f"{learnt / written:.2f} times; for once each give "
                f"seeding.{name}={-(-written * updates // learnt):,}, or more days by "
                f"data.episodes={min(days, sum(self._parts))} (with as many memory.slots)"
            )

    def _automatic_rates(self) -> dict[int, float]:
        """By receiving level."""
        senders = {x.sender for x in self.schedule if x.phase == "consolidate"}
        return {n + 1: automatic_rate(self.cfg, n + 1) for n in sorted(senders)}

    def _too_low_a_rate(self) -> Iterator[str]:
        given, gate = self.config.seeding.learning_rate, self.config.gate.divergence
        if given == AUTO or gate >= 1:
            return
        for level, rate in self._automatic_rates().items():
            if given < LOWEST_SHARE * rate:
                yield (
                    f"seeding.learning_rate={given:g} is 1/{rate / given:.0f} of the rate "
                    f"{rate:.2g} that 'auto' gives a slot of level {level}, rank "
                    f"{self.cfg.memory.level(level).rank}, at width {self.cfg.width}: the night "
                    f"may be refused, as gate.divergence={gate:g} asks for more than it can learn; "
                    "set seeding.learning_rate='auto', or gate.divergence=inf"
                )

    def _pages(self, day: int) -> int:
        """What the night of a day dreams about, at most: documents of the day, and weak ones of the
        days before it.
        """
        curriculum, parts = self.config.dreaming.curriculum, len(self.tokens[day])
        earlier = sum(map(len, self.tokens[:day]))
        return min(curriculum.recent or parts, parts) + min(curriculum.weak, earlier)

    def _written(self) -> str:
        """Tokens that the model samples in all of the run, at most."""
        c, study = self.config, read(self.config).study
        seeding = read(c).seeding.sized_for(self.sizes.exchanges)
        studied = sum(scheduled.phase == "study" for scheduled in self.schedule)
        sentences, tokens = self._of_days(self._sentences), self._of_days(self.tokens)
        questions = sum(sentences) * study.questions if studied else 0
        topics = len(read_rehearsal_topics())
        of_reading = study.readings * (study.max_question_tokens + study.max_chat_tokens)
        rehearsed = study.free_texts * study.rehearsal_tokens + study.rehearsals * (
            sum(study.rehearsal_lengths(topics)) + topics * of_reading
        )
        writes_again = study.earlier_answers == "before"
        again = writes_again * study.earlier_questions * study.max_chat_tokens
        replays = [
            scheduled
            for scheduled in self.schedule
            if scheduled.phase == "merge" or (scheduled.phase == "consolidate" and scheduled.sender)
        ]
        writing, rounds = read(c).dreaming.writing, sum(rounds_of(seeding))
        each = c.dreaming.num_generations * sum(
            writing.max_tokens(t.form) for t in writing.templates
        )
        rolled_out = (
            rounds * seeding.num_prompts * c.seeding.num_generations * c.seeding.max_new_tokens
        )
        counts = {
            "study": questions * (study.max_question_tokens + study.max_chat_tokens)
            + studied * rehearsed
            + sum(x.phase == "study" and x.day > 0 for x in self.schedule) * again
            + sum(map(functools.partial(sampled_tokens, study), tokens, sentences)) * bool(studied),
            "replays": len(replays) * rehearsed + sum(x.since > 0 for x in replays) * again,
            "dreams": sum(self._pages(x.day) * each for x in self.schedule if x.phase == "write"),
            "rollouts": (self.consolidations + self.merges) * rolled_out,
        }
        words = ", ".join(f"{n:,} in {name}" for name, n in counts.items() if n)
        total = f"at most {sum(counts.values()):,} tokens beside the answers that are graded"
        return f"{total}: {words or 'none'}"

    def _context(self) -> float:
        """Bytes of the cache that holds a day's documents."""
        sizes = self.sizes
        rows, capacity = read_shape([*sizes.contexts, 0])
        cache = jax.eval_shape(lambda: init_cache(self.cfg, rows, capacity))
        return _size(cache)

    def _hidden_states(self) -> tuple[float, float]:
        """Bytes of the hidden states by which a night is taught, in the memory of each process and
        on its disk, if replies are as long as they may be.
        """
        seeding, sizes, width = read(self.config).seeding, self.sizes, self.cfg.width
        exchanges = [*sizes.exchanges, *sizes.probe, *known_probe(sizes.exchanges)]
        operand = jnp.dtype(self.cfg.dtype).itemsize * (1 + len(seeding.teachers))
        total = width * operand * sum(len(e.completion) for e in exchanges)
        if "trunk" in self.cfg.stacks:
            total += width * 4 * sum(len(e.student + e.completion) - 1 for e in exchanges)
        in_memory = min(total, seeding.teacher_memory * GIB)
        return in_memory, total - in_memory

    def _host(self) -> str:
        in_memory, on_disk = self._hidden_states()
        line = (
            f"up to {_gib(in_memory)} of hidden states teach a night from the memory of a process"
        )
        if not on_disk:
            return line
        return (
            f"{line} (seeding.teacher_memory), and up to {_gib(on_disk)} from its disk "
            f"({tempfile.gettempdir()}, or TMPDIR)"
        )

    def _trials(self) -> float:
        """Bytes of the adapters that a night's dreams train, all of which are kept until they are
        compared.
        """
        tried_on = [
            self._pages(scheduled.day) for scheduled in self.schedule if scheduled.phase == "try"
        ]
        if not tried_on:
            return 0.0
        d, dreaming = self.config.dreaming, read(self.config).dreaming
        each = min(d.keep_top + d.keep_random, len(dreaming.writing.templates) * d.num_generations)
        each += dreaming.reward.baseline == "passage"  # each page alone
        adapter = _size(collections_of(self.config, self.cfg)["lora"])
        return max(tried_on) * each * d.trial.seeds * adapter

    def _bytes(self) -> float:
        """Of the checkpoints that are kept: each holds the memory as it is, and what differs from
        it in that of the evening and in that before the last dreams: wake weights, a slot of each
        level, and all slots of a level that has handed over its own.
        """
        run = collections_of(self.config, self.cfg)
        each = _size(run["memory"]) + 3 * _size(run["slots"]) + _size(run.get("wake", ()))
        for level in run["memory"]["layers"].values():
            bank = level.get("experts", {})
            slots = max((x.shape[1] for x in jax.tree.leaves(bank)), default=1)
            each += 2 * (_size(level) - _size(bank)) + 2 * _size(bank) / slots
        senders = {f"level_{x.sender}" for x in self.schedule if x.phase == "consolidate"}
        each += sum(_size(x) for n, x in run["memory"]["layers"].items() if n in senders)
        keep = self.config.checkpoint.max_to_keep
        mid_phases = 2 * _size(run.get("learner", ()))
        return each * min(keep or len(self.schedule), len(self.schedule)) + mid_phases

    def _disk(self) -> str:
        count = min(self.config.checkpoint.max_to_keep or len(self.schedule), len(self.schedule))
        return f"about {_gib(self._bytes())} of {_count(count, 'checkpoint')}"


def about_tokens(text: str) -> Sequence[int]:
    """Stands in for the tokens of a text where there is no tokenizer: one for four bytes."""
    return range(-(-len(text.encode("utf-8", "replace")) // 4))


def _size(tree) -> float:
    """Bytes of all arrays of a pytree."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{1024 * size / GIB:.1f} MiB"


def _count(n: int, thing: str) -> str:
    return f"{n:,} {thing}{'' if n == 1 else 's'}"
