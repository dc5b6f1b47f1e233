"""Try: the model learns each dream that was selected on its own, and sees whether that made it
better."""

import jax
import numpy as np

from sleep_jax.data.examples import make_examples
from sleep_jax.dreaming.reinforce import passage_sequences, trial_sequences
from sleep_jax.dreaming.reward import Gains, compute_rewards, measure_gains
from sleep_jax.dreaming.trial import init_adapters
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import Experiment
from sleep_jax.models.sharding import place
from sleep_jax.phases.dream_contexts import model_under_eval, pages, reward_items, tau
from sleep_jax.phases.run_state import PhaseLogger, RunState, key_of
from sleep_jax.run_schedule import Step


def try_out(experiment: Experiment, run: RunState, logger: PhaseLogger, step: Step) -> RunState:
    """Puts on record what each dream that was selected earned, and its gains over the model as it
    is and over the passage alone."""
    kept = kept_dreams(run, step.day)
    with logger.bar(1, "step") as bar:
        if not kept:
            bar.advance(1, tried=0)
            return run.note(step.label, tokens=0, skipped="no dream was selected")
        config, gain = experiment.settings.dreaming.reward, _gains(experiment, run, step, kept)
        reward = compute_rewards(config, gain.over(config.baseline), [x.document for x in kept])
        means = {f"gain_over_{name}": values for name, values in gain.seed_means.items()}
        run = run.note_day(
            step.day,
            rewards=[float(r) for r in reward],
            gains=[
                {name: _or_none(values[i]) for name, values in gain.seed_means.items()}
                for i in range(len(kept))
            ],
        )
        importance = [k["importance"] for k in run.day(step.day)["kept"]]
        for i, x in enumerate(kept):
            figures = {"importance": importance[i], "reward": reward[i]}
            figures |= {name: values[i] for name, values in means.items()}
            logger.scalars(i, {name: float(value) for name, value in figures.items()})
            logger.writer.text(logger.label, i, x.template, x.text)
        counts = {"tried": len(kept), "rewarded": int(np.count_nonzero(reward))}
        counts |= {name: _or_none(np.mean(values)) for name, values in means.items()}
        bar.advance(1, tried=counts["tried"], rewarded=counts["rewarded"])
    return run.note(step.label, tokens=sum(len(x.tokens) for x in kept), **counts)


def _or_none(x: float) -> float | None:
    """What a record says of a figure: JSON has no NaN."""
    return float(x) if np.isfinite(x) else None


def kept_dreams(run: RunState, day: int) -> list[Dream]:
    """The dreams of a day that were selected."""
    record = run.day(day)
    return [Dream.from_record(record["dreams"][k["dream"]]) for k in record.get("kept", [])]


def _gains(experiment: Experiment, run: RunState, step: Step, kept: list[Dream]) -> Gains:
    """By how much tau rises with each of them."""
    cfg, documents = experiment.cfg, pages(experiment, run, step.day)
    trial, rng = experiment.settings.dreaming.trial, jax.random.fold_in(key_of(experiment, step), 1)
    adapters = [place(x, "lora") for x in init_adapters(cfg, experiment.params, rng, trial.seeds)]
    learnt = [
        trial_sequences(x, documents[x.document], experiment.prompts, trial.split) for x in kept
    ]
    passages: dict = {}
    if experiment.settings.dreaming.reward.baseline == "passage":
        passages = passage_sequences(kept, learnt, documents, experiment.prompts, trial)
    return measure_gains(
        model_under_eval(experiment, run),
        trial,
        tau(experiment),
        adapters,
        make_examples([*learnt, *passages.values()], is_packed=not trial.batch_size),
        [x.document for x in kept],
        reward_items(experiment, run, step.day),
        passages=list(passages),
        rng=jax.random.fold_in(key_of(experiment, step), 4),
    )
