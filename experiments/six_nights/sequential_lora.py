"""The baseline: one adapter, fine-tuned night after night on what the sleeping model wrote."""

import dataclasses
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from sleep_jax.baselines.finetune import finetune
from sleep_jax.baselines.model import Leaves, Model, base_model
from sleep_jax.baselines.sft import cross_entropy, with_lora
from sleep_jax.data.examples import Examples, make_examples
from sleep_jax.experiment import Experiment
from sleep_jax.fields import read_json
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.phases.consolidate import GATED
from sleep_jax.phases.evaluate import anchor_perplexity, ask, shares_right
from sleep_jax.phases.rng_streams import key_of
from sleep_jax.phases.run_state import RunState
from sleep_jax.phases.study import studied
from sleep_jax.runtime.progress import phase_progress
from sleep_jax.seeding.consolidate import data_seed
from sleep_jax.seeding.mixture import fill_batch, shuffled
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import Exchange

# The rank of a slot, on every linear layer.
LORA = LoraConfig(rank=16, alpha=32.0, targets=("q", "k", "v", "o", "gate", "up", "down"))


def fine_tuned(
    experiment: Experiment, slept: RunState, rate: float, seed: int, workdir: pathlib.Path
) -> dict:
    """What an adapter knows after each night, as `figures.of_sleep` has it.

    A night has the sleeping model's updates, with its warm-up, cosine and clipping: each learns, by
    cross-entropy, the very sequences that the sleeping model's did.

    Args:
      experiment: the model and its days.
      slept: the end of the sleeping model's run.
      rate: Adam's peak rate.
      seed: of the adapter's first weights and of the order of rows.
      workdir: keeps finished nights.
    """
    seeding, nights = experiment.settings.seeding, []
    model = with_lora(base_model(experiment), LORA, jax.random.key(seed))
    tuned = dataclasses.replace(experiment, cfg=model.cfg)
    optimizer = _optimizer(rate, seeding)
    workdir.mkdir(parents=True, exist_ok=True)
    with phase_progress(f"{workdir.name}", len(experiment.days), "night") as bar:
        for night in range(len(experiment.days)):
            figures, adapter = workdir / f"{night}.json", workdir / f"{night}.npz"
            if figures.exists():
                model = model.replace(variables=model.variables | {"lora": _load(adapter)})
            else:
                began, batches = time.perf_counter(), batches_of_night(experiment, slept, night)
                model = finetune(
                    model, Leaves("lora/.*"), cross_entropy, batches, optimizer, steps=seeding.steps
                )
                np.savez(adapter, **flatten_dict(model.variables["lora"], sep="/"))
                tokens = sum(int(batch.mask.sum()) for batch in batches)
                known = _known(tuned, model.variables, night)
                known |= {"tokens": tokens, "seconds": time.perf_counter() - began}
                draft = figures.with_suffix(".new")
                draft.write_text(json.dumps(known))
                draft.replace(figures)
            nights.append(read_json(figures))
            right = [share["questions"] for share in nights[-1]["recall"]]
            bar.advance(1, recall=float(np.mean(right)), anchors=nights[-1]["anchors"])
    return {"seed": seed, "rate": rate} | {
        name: [night[name] for night in nights] for name in nights[0]
    }


def last_model(experiment: Experiment, workdir: pathlib.Path) -> Model:
    """The model with the adapter after its last night, as `fine_tuned` has saved it."""
    model = with_lora(base_model(experiment), LORA, jax.random.key(0))
    adapter = _load(workdir / f"{len(experiment.days) - 1}.npz")
    return model.replace(variables=model.variables | {"lora": adapter})


def batches_of_night(experiment: Experiment, slept: RunState, night: int) -> list[Examples]:
    """What each update of the sleeping model's night learnt from, [rows, time] of one shape."""
    drawn = [
        [(e.student, e.completion) for e in update]
        for update in drawn_by_night(experiment, slept, night)
    ]
    rows = make_examples(drawn)
    return [jax.tree.map(lambda x, i=i: x[i], rows) for i in range(len(drawn))]


def drawn_by_night(experiment: Experiment, slept: RunState, night: int) -> list[list[Exchange]]:
    """The sequences of each update of a night without rollouts, as `seed_slot` draws them."""
    [scheduled] = [x for x in experiment.schedule if x.phase == "consolidate" and x.day == night]
    seeding = experiment.settings.seeding.with_shared_prefix(experiment.prompts.shared_prefix)
    seed = data_seed(key_of(experiment, scheduled, "updates"))
    exchanges = studied(experiment, slept, night)
    stream, updates = shuffled(exchanges, seed, known_share=seeding.known_share), []
    for _ in range(seeding.steps):
        chosen, stream = fill_batch([], stream, seeding.shape)
        updates.append(chosen)
    return updates


def _known(tuned: Experiment, variables, night: int) -> dict:
    """Shares of right replies about each day so far, and the perplexity of the anchor texts."""
    recall = []
    for day in tuned.days[: night + 1]:
        asked = [(question.document, question.text) for question in day.questions]
        recall.append(shares_right(day.questions, ask(tuned, variables, asked)))
    return {"recall": recall, "anchors": anchor_perplexity(tuned, variables, GATED)}


def _optimizer(rate: float, seeding: SeedingConfig) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        rate / (seeding.warmup + 1), rate, seeding.warmup, seeding.steps, rate / 10
    )
    return optax.chain(optax.clip_by_global_norm(seeding.max_grad_norm), optax.adam(schedule))


def _load(path: pathlib.Path):
    with np.load(path) as leaves:
        return unflatten_dict({name: jnp.asarray(leaves[name]) for name in leaves}, sep="/")
