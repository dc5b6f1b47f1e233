"""The first-order bound of a night of a real model, by rank: what a rate can do before it is tried.

python experiments/rate_and_width/bound.py --config=configs/sleep_smollm2.py

The first sample document is read; its recitation is what the divergence is measured on.
"""

import argparse
import dataclasses

import jax
import optax

from sleep_jax import lifecycle
from sleep_jax.cli.config_files import load
from sleep_jax.experiment import load_experiment
from sleep_jax.memory.slots import init_memory, unlock
from sleep_jax.phases.run_state import open_book
from sleep_jax.seeding.consolidate import mean_divergence
from sleep_jax.seeding.first_order import FirstOrderBound, first_gradient
from sleep_jax.seeding.seeding_config import automatic_rate
from sleep_jax.seeding.trunk import precompute
from sleep_jax.study.self_study import recite


def main() -> None:
    """A line for each rank."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/sleep_smollm2.py")
    parser.add_argument("--ranks", type=int, nargs="+", default=(16, 64))
    arguments = parser.parse_args()
    for rank in arguments.ranks:
        config = load(arguments.config)
        config.data.documents, config.seeding.batch_size = "samples:1", 1
        config.memory.ranks = (rank,)
        experiment = load_experiment(config)
        cfg, seeding = experiment.cfg, experiment.settings.seeding
        seeding = seeding.with_shared_prefix(experiment.prompts.shared_prefix)
        shape = {"layers": cfg.layers, "width": cfg.width}
        memory, slots = init_memory(jax.random.key(0), cfg.memory, **shape)
        student = {"params": experiment.params, "memory": memory, "slots": unlock(slots, 1)[0]}
        documents = experiment.days[0].documents
        teachers = open_book(experiment, lifecycle.init_run_state(experiment), documents)
        exchanges = recite(documents, experiment.prompts, 1)
        states = precompute(cfg, student, teachers, exchanges, seeding.shape)
        before = mean_divergence(cfg, student, exchanges, states, teachers, seeding.shape)
        gradient = first_gradient(cfg, student, 1, 0, exchanges, states, teachers, seeding)
        rate, norm = automatic_rate(cfg, 1), float(optax.tree.norm(gradient, ord=1))
        night = dataclasses.replace(seeding, learning_rate=rate)
        bound = FirstOrderBound(before, norm, night.distance)
        print(
            f"{config.model.name}, {cfg.layers} layers, width {cfg.width}, rank {rank}: divergence "
            f"{before:.3f} nats, |g|_1 {norm:.3f}; over {seeding.steps} updates the automatic rate "
            f"{rate:.2g} can remove {bound.share:.1f} of it, 5e-6 {bound.share * 5e-6 / rate:.2%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
