"""A day and a night: wake -> consolidate -> dream -> evaluate.

    wake         documents are read into the context, level 0; the model that holds them is the
    night's teacher consolidate  a slot of level 1 unlocks and is seeded by the self that has read
    (Knowledge Seeding) dream        the model writes, keeps what its gradients favour, tries it,
    and learns what made it better evaluate     what it knows now without the documents, and what
    that cost elsewhere

Each phase is a function from what the phases before it left (`Night`) to what it leaves. A
checkpoint follows each one, so a run that stops goes on after the last finished phase.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sleep_jax import config as settings
from sleep_jax.data.batches import bucket, pad
from sleep_jax.dreaming.reinforce import about, examples, lessons, rewards
from sleep_jax.dreaming.select import importance, select
from sleep_jax.dreaming.trial import init_lora
from sleep_jax.dreaming.write import Dream, write
from sleep_jax.evals.metrics import perplexity
from sleep_jax.evals.recall import negative_log_likelihood, reply, share_right
from sleep_jax.memory.slots import init_memory, unlock
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.runtime.metrics import MetricWriter
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.seeding import prompts as requests
from sleep_jax.seeding import self_study
from sleep_jax.seeding.consolidate import divergence, seed_slot
from sleep_jax.seeding.self_study import Question
from sleep_jax.seeding.sequences import Exchange, teacher_hidden
from sleep_jax.sleeper import Sleeper
from sleep_jax.wake.context import read

LEVEL = 1
STAGES = ("before sleep", "after consolidation", "after dreaming", "with the document in context")


@dataclasses.dataclass(frozen=True)
class Night:
    """What a phase leaves to the next; a checkpoint holds just this.

    Attributes:
      memory: the collection of that name.
      consolidated: the same right after consolidation, before dreaming.
      slots: which slots are active now.
      awake_slots: which were active when the documents were read: the teacher's.
      record: JSON-able facts: `scores`, `replies`, `phases`, the model's own `questions`,
        `rehearsals`.
    """

    memory: Any
    consolidated: Any
    slots: Any
    awake_slots: Any
    record: dict[str, Any]

    @property
    def state(self) -> dict[str, Any]:
        """The arrays."""
        return {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "record"
        }

    def note(self, **facts: dict[str, Any]) -> "Night":
        """The night with entries added to dicts of its record."""
        grown = {name: self.record.get(name, {}) | new for name, new in facts.items()}
        return dataclasses.replace(self, record=self.record | grown)


@dataclasses.dataclass(frozen=True)
class Desk:
    """Where a phase reports to: figures go to the writer and onto the progress bar."""

    writer: MetricWriter
    quiet: bool | None = None

    def bar(self, phase: str, total: int, unit: str):
        """A progress bar of a phase."""
        return phase_progress(phase, total, unit, quiet=self.quiet)


def birth(sleeper: Sleeper) -> Night:
    """Before the first phase: memory at birth, which changes nothing."""
    cfg = sleeper.cfg
    memory, slots = init_memory(
        jax.random.key(sleeper.config.seed),
        layers=cfg.layers,
        width=cfg.width,
        levels=cfg.memory.levels,
        slots=cfg.memory.slots,
        rank=cfg.memory.rank,
    )
    return Night(memory, memory, slots, slots, {})


def collections(sleeper: Sleeper, memory, slots):
    """The model with a memory and its active slots."""
    return {"params": sleeper.params, "memory": memory, "slots": slots}


def awake(sleeper: Sleeper, night: Night):
    """The self that reads: (collections as by day, context with one row a document and a last,
    empty one)."""
    variables = collections(sleeper, night.memory, night.awake_slots)
    contexts = [*map(sleeper.prompts.context, sleeper.documents), ()]
    return variables, read(sleeper.cfg, variables, contexts)[0]


def wake(sleeper: Sleeper, night: Night, desk: Desk) -> Night:
    """Reads the documents and notes how surprising each was.

    The context itself is not kept: it is wiped with the day, and read again from the documents, in
    a moment, whenever the night needs its teacher (`awake`).
    """
    variables = collections(sleeper, night.memory, night.slots)
    pages = [sleeper.prompts.context(document) for document in sleeper.documents]
    tokens, mask = pad(pages, bucket(max(map(len, pages))))
    read_tokens = 0
    with desk.bar("wake", len(pages), "document") as bar:
        for i, page in enumerate(pages):
            nats, scored = negative_log_likelihood(
                sleeper.cfg, variables, tokens[i : i + 1], mask[i : i + 1]
            )
            surprise = nats / scored
            read_tokens += len(page)
            figures = {"tokens": len(page), "nats_per_token": surprise}
            desk.writer.scalars("wake", i, figures)
            bar.advance(1, tokens=read_tokens, surprise=surprise)
    return night.note(phases={"wake": {"tokens": read_tokens, "documents": len(pages)}})


def consolidate(sleeper: Sleeper, night: Night, desk: Desk) -> Night:
    """Unlocks a slot and seeds it with what the self that has read knows."""
    cfg, tokenizer, c = sleeper.cfg, sleeper.tokenizer, sleeper.config
    seeding, study = settings.seeding_config(c, sleeper.prompts.opening), settings.study_config(c)
    key = jax.random.fold_in(jax.random.key(c.seed), 1)
    slots, index = unlock(night.slots, LEVEL)
    teacher, context = awake(sleeper, night)
    with desk.bar("consolidate", seeding.steps + 3, "step") as bar:
        questions, drawn = self_study.ask(
            cfg,
            teacher,
            tokenizer,
            sleeper.documents,
            context,
            study,
            {q.text for q in sleeper.questions},
            jax.random.fold_in(key, 0),
        )
        bar.advance(1, questions=len(questions))
        rehearsed = self_study.rehearse(
            cfg, teacher, tokenizer, sleeper.topics, study, jax.random.fold_in(key, 1)
        )
        held_out, learnt = hold_out(questions, c.dreaming.held_out)
        night = dataclasses.replace(night, slots=slots).note(
            study={
                "held_out": [dataclasses.asdict(q) for q in held_out],
                "learnt": [dataclasses.asdict(q) for q in learnt],
                "rehearsed": [dataclasses.asdict(e) for e in rehearsed],
                "index": index,
            }
        )
        bar.advance(1, rehearsed=len(rehearsed))
        probe = self_study.answer(held_out, sleeper.prompts) or self_study.recite(
            sleeper.documents, sleeper.prompts, 1
        )
        probe_hidden = teacher_hidden(cfg, teacher, context, probe)

        def distance(variables):
            return divergence(cfg, variables, probe, probe_hidden, seeding.shape)

        student = collections(sleeper, night.memory, night.slots)
        before = distance(student)
        if before < 1e-6:
            raise RuntimeError(
                f"teacher and student agree before the night (KL = {before:.1e}): there is nothing "
                "to learn; check that data.documents holds something the model does not know"
            )
        bar.advance(1, kl_before=before)

        def log(step, metrics):
            desk.writer.scalars("consolidate", step, metrics)
            bar.advance(1, kl=metrics["kl_off"], reward=metrics.get("reward", 0.0))

        exchanges = studied(sleeper, night)
        student = seed_slot(
            cfg,
            tokenizer,
            sleeper.judge,
            seeding,
            student=student,
            teacher=teacher,
            context=context,
            level=LEVEL,
            index=index,
            exchanges=exchanges,
            rng=jax.random.fold_in(key, 2),
            log=log,
        )
        after = distance(student)
    figures = {
        "questions_drawn": drawn,
        "questions_kept": len(questions),
        "sequences": len(exchanges),
        "tokens": sum(len(e.completion) for e in exchanges),
        "kl_before": before,
        "kl_after": after,
    }
    held_out_kl = {"held_out_kl_before": before, "held_out_kl_after": after}
    desk.writer.scalars("consolidate", seeding.steps, held_out_kl)
    return dataclasses.replace(
        night, memory=student["memory"], consolidated=student["memory"]
    ).note(phases={"consolidate": figures})


def hold_out(questions: list[Question], per_document: int) -> tuple[list[Question], list[Question]]:
    """Splits the model's own questions: those that only measure and reward, and those it learns
    from."""
    held, counts = [], {}
    for q in questions:
        if q.answer and counts.get(q.document, 0) < per_document:
            counts[q.document] = counts.get(q.document, 0) + 1
            held.append(q)
    asked = {(q.document, q.question) for q in held}
    return held, [q for q in questions if (q.document, q.question) not in asked]


def studied(sleeper: Sleeper, night: Night) -> list[Exchange]:
    """All teacher-written sequences of the night, from its record."""
    c, prompts, study = sleeper.config, sleeper.prompts, night.record["study"]
    rng = np.random.default_rng(c.seed)
    return [
        *self_study.recite(sleeper.documents, prompts, c.study.recitations),
        *self_study.complete(sleeper.documents, prompts, c.study.completions, rng),
        *self_study.answer([Question(**q) for q in study["learnt"]], prompts),
        *(
            Exchange(None, *(tuple(e[k]) for k in ("student", "teacher", "completion")), "rehearse")
            for e in study["rehearsed"]
        ),
    ]


def dream(sleeper: Sleeper, night: Night, desk: Desk) -> Night:
    """Writes dreams, selects, tries and rewards them, and learns the rewarded ones into the night's
    slot."""
    cfg, c, prompts = sleeper.cfg, sleeper.config, sleeper.prompts
    d, study = c.dreaming, night.record["study"]
    key = jax.random.fold_in(jax.random.key(c.seed), 2)
    questions = [Question(**q) for q in study["held_out"]]
    if leaked := {q.text for q in sleeper.questions} & {q.question for q in questions}:
        raise AssertionError(f"a question that rewards dreams is a test question: {leaked.pop()!r}")
    teacher, context = awake(sleeper, night)
    model = collections(sleeper, night.memory, night.slots)
    reinforcing = settings.reinforcing_config(c, prompts.opening)
    with desk.bar("dream", 2 + reinforcing.steps, "step") as bar:
        dreams, written = write(
            cfg,
            teacher,
            sleeper.tokenizer,
            sleeper.documents,
            context,
            instructions=d.instructions,
            count=d.count,
            temperature=d.temperature,
            max_new_tokens=d.max_new_tokens,
            rng=jax.random.fold_in(key, 0),
        )
        bar.advance(1, written=written)
        # A dream about a document that no question of the model's own asks about has no tau.
        asked = {q.document for q in questions}
        dreams = [x for x in dreams if x.document in asked]
        kept, rewarded = try_out(
            sleeper, model, dreams, questions, jax.random.fold_in(key, 1), desk
        )
        bar.advance(1, kept=len(kept), rewarded=len(rewarded))

        def log(step, metrics):
            desk.writer.scalars("reinforce", step, metrics)
            bar.advance(1, loss=metrics["loss"])

        if rewarded:
            model = seed_slot(
                cfg,
                sleeper.tokenizer,
                sleeper.judge,
                reinforcing,
                student=model,
                teacher=teacher,
                context=context,
                level=LEVEL,
                index=study["index"],
                exchanges=lessons(rewarded, sleeper.documents, prompts) + studied(sleeper, night),
                rng=jax.random.fold_in(key, 2),
                log=log,
            )
    figures = {
        "written": written,
        "kept": len(kept),
        "rewarded": len(rewarded),
        "tokens": sum(len(x.tokens) for x in dreams),
    }
    return dataclasses.replace(night, memory=model["memory"]).note(phases={"dream": figures})


def try_out(
    sleeper: Sleeper, model, dreams: list[Dream], questions: list[Question], rng, desk: Desk
) -> tuple[list[Dream], list[Dream]]:
    """Selects dreams by gradient and tries each on its own.

    Returns:
      (kept, rewarded): the selected dreams, and those of them that raised tau.
    """
    if not dreams:
        return [], []
    cfg, c, prompts = sleeper.cfg, sleeper.config, sleeper.prompts
    trial = settings.trial_config(c)
    lora = init_lora(cfg, sleeper.params, rng)
    pages = [sleeper.documents[x.document] for x in dreams]
    alone = examples([[(about(p, prompts), x.tokens)] for x, p in zip(dreams, pages)])
    passages = examples([[(about(p, prompts), prompts.reply(p.text))] for p in pages])
    scores = np.asarray(importance(cfg, trial, model, lora, alone, passages))
    of = [x.document for x in dreams]
    chosen = select(scores, of, c.dreaming.top, c.dreaming.random, int(c.seed))
    kept = [dreams[i] for i in chosen]
    reward, gain = rewards(cfg, trial, model, lora, kept, sleeper.documents, questions, prompts)
    for i, x in enumerate(kept):
        figures = {"importance": scores[chosen[i]], "reward": reward[i], "gain": gain[i]}
        desk.writer.scalars("dream", i, {name: float(value) for name, value in figures.items()})
        desk.writer.text("dream", i, x.instruction, x.text)
    return kept, [x for x, r in zip(kept, reward) if r]


def evaluate(sleeper: Sleeper, night: Night, desk: Desk) -> Night:
    """Asks every question at every stage of the night and measures the anchor set.

    Documents that came without questions are asked about in the model's own words; replies are
    kept, there is no score.
    """
    asked = [(q.document, q.text) for q in sleeper.questions] or [
        (q["document"], q["question"]) for q in night.record["study"]["held_out"]
    ]
    selves = {
        STAGES[0]: (night.memory, night.awake_slots),
        STAGES[1]: (night.consolidated, night.slots),
        STAGES[2]: (night.memory, night.slots),
    }
    with desk.bar("evaluate", len(STAGES), "stage") as bar:
        for number, stage in enumerate(STAGES):
            if stage in selves:
                variables = collections(sleeper, *selves[stage])
                replies = ask(sleeper, variables, asked)
            else:
                variables, context = awake(sleeper, night)
                replies = ask(sleeper, variables, asked, context)
            score = {
                name: share_right(*zip(*mine))
                for name, is_paraphrase in (("questions", False), ("paraphrases", True))
                if (
                    mine := [
                        (r, q.answers)
                        for r, q in zip(replies, sleeper.questions)
                        if q.is_paraphrase == is_paraphrase
                    ]
                )
            }
            if stage in selves:
                score |= {
                    name: perplexity(
                        *negative_log_likelihood(
                            sleeper.cfg, variables, anchors.tokens, anchors.mask
                        )
                    )
                    for name, anchors in sleeper.anchors.items()
                }
            night = night.note(scores={stage: score}, replies={stage: replies})
            desk.writer.scalars("evaluate", number, score)
            bar.advance(1, **score)
    return night.note(phases={"evaluate": {"tokens": 0, "questions": len(asked)}})


def ask(sleeper: Sleeper, variables, asked: list[tuple[int, str]], context=None) -> list[str]:
    """Greedy replies to (document, question) pairs, from the weights alone or with the context."""
    prompts = sleeper.prompts
    return reply(
        sleeper.cfg,
        variables,
        sleeper.tokenizer,
        [
            prompts.alone(text) if context is None else prompts.beside(requests.answer(text))
            for _, text in asked
        ],
        max_new_tokens=sleeper.config.evaluation.max_new_tokens,
        context=context,
        documents=None if context is None else [document for document, _ in asked],
    )


PHASES: dict[str, Callable[[Sleeper, Night, Desk], Night]] = {
    "wake": wake,
    "consolidate": consolidate,
    "dream": dream,
    "evaluate": evaluate,
}


def live(sleeper: Sleeper, workdir: str, quiet: bool | None = None) -> Night:
    """Lives a day and a night, from the last finished phase in `workdir` on.

    Args:
      sleeper: who.
      workdir: where checkpoints and metrics go.
      quiet: no progress bars.

    Returns:
      What the last phase left.

    Raises:
      ValueError: `workdir` holds a run of another config.
    """
    config = sleeper.config.to_dict()
    with MetricWriter(workdir) as writer, PhaseCheckpoints(f"{workdir}/checkpoints") as saved:
        desk, night, done = Desk(writer, quiet), birth(sleeper), -1
        if (latest := saved.latest()) is not None:
            done = latest[0]
            state, record = saved.restore(done, night.state)
            night = Night(**state, record=record["night"])
        for index, (name, phase) in enumerate(PHASES.items()):
            if index <= done:
                continue
            writer.restart(name)
            start = time.monotonic()
            night = phase(sleeper, night, desk)
            seconds = time.monotonic() - start
            figures = night.record["phases"][name] | {"seconds": seconds}
            night = night.note(phases={name: figures})
            saved.save(
                index, name, state=night.state, record={"config": config, "night": night.record}
            )
    return night
