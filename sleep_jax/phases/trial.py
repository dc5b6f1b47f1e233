"""Try: the model learns each dream that was selected on its own, and sees whether that made it
better."""

import jax
import numpy as np

from sleep_jax.data.examples import examples
from sleep_jax.dreaming.reinforce import alone, passage_lessons
from sleep_jax.dreaming.reward import Gains, earned, gains
from sleep_jax.dreaming.trial import births
from sleep_jax.dreaming.write import Dream
from sleep_jax.itinerary import Step
from sleep_jax.models.sharding import place
from sleep_jax.phases.agenda import examinee, pages, reward_items, tau
from sleep_jax.phases.night import Desk, Night, key_of
from sleep_jax.sleeper import Sleeper


def try_out(sleeper: Sleeper, night: Night, desk: Desk, step: Step) -> Night:
    """Puts on record what each dream that was selected earned, and its gains over the model as it
    is and over the passage alone."""
    kept = kept_dreams(night, step.day)
    with desk.bar(1, "step") as bar:
        if not kept:
            bar.advance(1, tried=0)
            return night.note(step.label, tokens=0, skipped="no dream was selected")
        config, gain = sleeper.settings.dreaming.reward, _gains(sleeper, night, step, kept)
        reward = earned(config, gain.over(config.baseline), [x.document for x in kept])
        means = {f"gain_over_{name}": values for name, values in gain.means.items()}
        night = night.note_day(
            step.day,
            rewards=[float(r) for r in reward],
            gains=[
                {name: _or_none(values[i]) for name, values in gain.means.items()}
                for i in range(len(kept))
            ],
        )
        importance = [k["importance"] for k in night.day(step.day)["kept"]]
        for i, x in enumerate(kept):
            figures = {"importance": importance[i], "reward": reward[i]}
            figures |= {name: values[i] for name, values in means.items()}
            desk.scalars(i, {name: float(value) for name, value in figures.items()})
            desk.writer.text(desk.label, i, x.template, x.text)
        counts = {"tried": len(kept), "rewarded": int(np.count_nonzero(reward))}
        counts |= {name: _or_none(np.mean(values)) for name, values in means.items()}
        bar.advance(1, tried=counts["tried"], rewarded=counts["rewarded"])
    return night.note(step.label, tokens=sum(len(x.tokens) for x in kept), **counts)


def _or_none(x: float) -> float | None:
    """What a record says of a figure: JSON has no NaN."""
    return float(x) if np.isfinite(x) else None


def kept_dreams(night: Night, day: int) -> list[Dream]:
    """The dreams of a day that were selected."""
    record = night.day(day)
    return [Dream.of(record["dreams"][k["dream"]]) for k in record.get("kept", [])]


def _gains(sleeper: Sleeper, night: Night, step: Step, kept: list[Dream]) -> Gains:
    """By how much tau rises with each of them."""
    cfg, documents = sleeper.cfg, pages(sleeper, night, step.day)
    trial, rng = sleeper.settings.dreaming.trial, jax.random.fold_in(key_of(sleeper, step), 1)
    adapters = [place(x, "lora") for x in births(cfg, sleeper.params, rng, trial.seeds)]
    learnt = [alone(x, documents[x.document], sleeper.prompts, trial.split) for x in kept]
    passages: dict = {}
    if sleeper.settings.dreaming.reward.baseline == "passage":
        passages = passage_lessons(kept, learnt, documents, sleeper.prompts, trial)
    return gains(
        examinee(sleeper, night),
        trial,
        tau(sleeper),
        adapters,
        examples([*learnt, *passages.values()], is_packed=not trial.batch),
        [x.document for x in kept],
        reward_items(sleeper, night, step.day),
        passages=list(passages),
        rng=jax.random.fold_in(key_of(sleeper, step), 4),
    )
