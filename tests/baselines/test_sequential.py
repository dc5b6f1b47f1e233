"""Task after task: what is kept between them, and going on from what was saved."""

import dataclasses

import jax
import numpy as np
import pytest

from sleep_jax.baselines.ewc import EWCConfig
from sleep_jax.baselines.lwf import LwFConfig
from sleep_jax.baselines.model import Leaves
from sleep_jax.baselines.replay import ReplayConfig
from sleep_jax.baselines.sequential import SequentialLearner
from sleep_jax.baselines.sft import SFTConfig, with_lora
from sleep_jax.models.decoder_config import LoraConfig

TASKS = [[((i, j), (i + j, 7)) for j in range(3)] for i in range(1, 4)]
CONFIG = SFTConfig(epochs=2, batch_size=4, learning_rate=1e-2)


@pytest.fixture(scope="module")
def learner(tiny):
    lora = LoraConfig(rank=2, alpha=4.0, targets=("q", "down"))
    model = with_lora(tiny, lora, jax.random.key(0))
    return SequentialLearner(model, Leaves("lora/.*"), jax.random.key(1), CONFIG)


def with_both(learner):
    replay, ewc = ReplayConfig(share=0.5, capacity=4), EWCConfig(strength=1e3, samples=2)
    return SequentialLearner(
        learner.model, learner.trainable, learner.rng, learner.sft, replay, ewc
    )


def test_sequential_learner_keeps_what_its_methods_need(learner):
    plain = learner.learn(TASKS[0]).learn(TASKS[1])
    assert plain.tasks == 2 and not plain.kept.pairs and plain.consolidated is None
    logged = []
    first = with_both(learner).learn(TASKS[0], log=lambda _, x: logged.append(x))
    assert "penalty" not in logged[0] and first.kept.pairs == tuple(TASKS[0])
    second = first.learn(TASKS[1], log=lambda _, x: logged.append(x))
    # Three new pairs and as many old ones, in batches of four, twice.
    assert len(logged) == 2 + 4 and logged[-1]["penalty"] > 0
    assert second.kept.seen == 6 and len(second.kept.pairs) == 4
    np.testing.assert_array_equal(
        second.consolidated.anchor["lora"]["layers"]["mlp"]["down"]["b"],
        second.model.variables["lora"]["layers"]["mlp"]["down"]["b"],
    )


def test_sequential_learner_stays_near_the_model_before_a_task(learner):
    begun, logged = dataclasses.replace(learner, lwf=LwFConfig()), []
    for pairs in TASKS[:2]:
        begun = begun.learn(pairs, log=lambda _, x: logged.append(x))
    assert ["kl" in x for x in logged] == [False, False, True, True]
    with pytest.raises(ValueError, match=r"ewc=.* with lwf=.*; a task has one loss: give one"):
        dataclasses.replace(begun, ewc=EWCConfig())


def test_sequential_learner_goes_on_with_the_same_bits(learner, tmp_path):
    begun = with_both(learner)
    assert begun.restore(tmp_path) is begun
    through = begun.learn(TASKS[0])
    through.save(tmp_path / "first")
    again = begun.restore(tmp_path / "first")
    assert again.kept == through.kept
    through, again = through.learn(TASKS[1]), again.learn(TASKS[1])
    for x, y in zip(
        jax.tree.leaves((through.model.variables, through.consolidated)),
        jax.tree.leaves((again.model.variables, again.consolidated)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)
    assert (again.kept, again.tasks) == (through.kept, 2)
