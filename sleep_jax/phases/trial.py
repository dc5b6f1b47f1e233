"""Try: the model learns each selected dream alone, to see whether that makes it better."""

from collections.abc import Sequence

import numpy as np

from sleep_jax.data.examples import Examples, PromptCompletion, make_examples
from sleep_jax.dreaming.adapters import init_adapters
from sleep_jax.dreaming.reinforce import passage_sequences, trial_sequences
from sleep_jax.dreaming.reward import Gains, compute_rewards, measure_gains
from sleep_jax.dreaming.trial import TrialConfig, train_adapters
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import Experiment
from sleep_jax.models.sharding import place
from sleep_jax.phases.dream_contexts import model_under_eval, pages, reward_items, tau
from sleep_jax.phases.phase import Phase
from sleep_jax.phases.rng_streams import key_of
from sleep_jax.phases.run_state import PhaseLogger, RunState
from sleep_jax.programs.abstract import AbstractRun
from sleep_jax.programs.dreams import over_examples, rubric, scored, shape_of
from sleep_jax.programs.program import Program
from sleep_jax.run_schedule import ScheduledPhase


def try_out(
    experiment: Experiment, run: RunState, logger: PhaseLogger, scheduled: ScheduledPhase
) -> RunState:
    """Puts on record what each dream that was selected earned, and its gains over the model as it
    is and over the passage alone."""
    kept = kept_dreams(run, scheduled.day)
    with logger.bar(1, "step") as bar:
        if not kept:
            bar.advance(1, tried=0)
            return run.note(scheduled.label, tokens=0, skipped="no dream was selected")
        config = experiment.settings.dreaming.reward
        gain = _gains(experiment, run, scheduled, kept)
        reward = compute_rewards(config, gain.over(config.baseline), [x.document for x in kept])
        means = {f"gain_over_{name}": values for name, values in gain.seed_means.items()}
        run = run.note_day(
            scheduled.day,
            rewards=[float(r) for r in reward],
            gains=[
                {name: _or_none(values[i]) for name, values in gain.seed_means.items()}
                for i in range(len(kept))
            ],
        )
        importance = [k["importance"] for k in run.day(scheduled.day)["kept"]]
        for i, x in enumerate(kept):
            figures = {"importance": importance[i], "reward": reward[i]}
            figures |= {name: values[i] for name, values in means.items()}
            logger.scalars(i, {name: float(value) for name, value in figures.items()})
            logger.writer.text(logger.label, i, x.template, x.text)
        counts = {"tried": len(kept), "rewarded": int(np.count_nonzero(reward))}
        counts |= {name: _or_none(np.mean(values)) for name, values in means.items()}
        bar.advance(1, tried=counts["tried"], rewarded=counts["rewarded"])
    return run.note(scheduled.label, tokens=sum(len(x.tokens) for x in kept), **counts)


def _or_none(x: float) -> float | None:
    """A figure as JSON has it, which knows no NaN."""
    return float(x) if np.isfinite(x) else None


def kept_dreams(run: RunState, day: int) -> list[Dream]:
    """The dreams of a day that were selected."""
    record = run.day(day)
    return [Dream.from_record(record["dreams"][k["dream"]]) for k in record.get("kept", [])]


def trials(
    experiment: Experiment, run: RunState, day: int, kept: Sequence[Dream]
) -> tuple[list[list[PromptCompletion]], dict[int, list[PromptCompletion]]]:
    """What the trial of each dream learns, and that of each passage alone, by its page; of passages
    there are none unless dreams are compared with them."""
    trial, documents = experiment.settings.dreaming.trial, pages(experiment, run, day)
    learnt = [
        trial_sequences(x, documents[x.document], experiment.prompts, trial.split_lines)
        for x in kept
    ]
    if experiment.settings.dreaming.reward.baseline != "passage":
        return learnt, {}
    return learnt, passage_sequences(kept, learnt, documents, experiment.prompts, trial)


def _lay_out(trial: TrialConfig, sequences: Sequence[Sequence[PromptCompletion]]) -> Examples:
    """What trials learn from, [trials, rows, time]."""
    return make_examples(sequences, is_packed=not trial.batch_size)


def _gains(
    experiment: Experiment, run: RunState, scheduled: ScheduledPhase, kept: list[Dream]
) -> Gains:
    """By how much tau rises with each dream."""
    cfg, trial = experiment.cfg, experiment.settings.dreaming.trial
    rng = key_of(experiment, scheduled, "adapters")
    adapters = [place(x, "lora") for x in init_adapters(cfg, experiment.params, rng, trial.seeds)]
    learnt, passages = trials(experiment, run, scheduled.day, kept)
    return measure_gains(
        model_under_eval(experiment, run),
        trial,
        tau(experiment),
        adapters,
        _lay_out(trial, [*learnt, *passages.values()]),
        [x.document for x in kept],
        reward_items(experiment, run, scheduled.day),
        passages=list(passages),
        rng=key_of(experiment, scheduled, "row_order"),
    )


def programs(run: AbstractRun) -> list[Program]:
    """The trials, and what measures by how much each of them made the model better."""
    if not run.has_dreams or not run.sizes.kept:
        return []
    trial, sizes = run.settings.dreaming.trial, run.sizes
    learnt = run.examples(*shape_of(lambda x: _lay_out(trial, x), sizes.trials))
    adapters = [run.collections["lora"]] * trial.seeds
    args = (run.cfg, trial, run.variables, adapters, learnt, None, run.key)
    epochs = trial.epochs * trial.seeds
    untrained = [sizes.items[page] for page in sorted(set(sizes.kept))]
    trained = [sizes.items[i] for i in (*sizes.kept, *sizes.passages) for _ in adapters]
    return [
        over_examples("try: train", train_adapters, args, (learnt,), 2, epochs),
        *scored(run, "try: score untrained", untrained, has_adapters=False),
        *scored(run, "try: score", trained, has_adapters=True),
        *rubric(run, "try: judge", [*untrained, *trained]),
    ]


TRY = Phase("try", try_out, programs)
