"""Replay: the share of old examples, and a memory that forgets evenly."""

import jax
import numpy as np
import pytest

from sleep_jax.baselines.replay import ReplayConfig, ReplayMemory, with_replay


def pairs(*numbers):
    return [((n,), (n + 1,)) for n in numbers]


def test_with_replay_has_all_new_examples_and_a_tenth_of_old_ones():
    new, old = pairs(*range(45)), pairs(*range(100, 120))
    mixed = with_replay(new, ReplayMemory().add(old, 0, jax.random.key(0)), ReplayConfig(),
                        jax.random.key(1))  # fmt: skip
    assert mixed[:45] == new and len(mixed) == 50
    assert len(set(mixed[45:])) == 5 and set(mixed[45:]) < set(old)
    assert with_replay(new, ReplayMemory(), ReplayConfig(), jax.random.key(1)) == new


def test_replay_memory_draws_again_where_there_are_fewer():
    memory = ReplayMemory().add(pairs(1, 2, 3), 0, jax.random.key(0))
    drawn = memory.draw(7, jax.random.key(0))
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == pairs(1, 2, 3) and len(drawn) == 7
    assert drawn == memory.draw(7, jax.random.key(0)) != memory.draw(7, jax.random.key(1))


def test_replay_memory_within_its_capacity_keeps_all_examples_alike():
    counts, runs = np.zeros(12), 600
    for seed in range(runs):
        memory = ReplayMemory()
        for part, first in enumerate((0, 5, 9)):
            key = jax.random.fold_in(jax.random.key(seed), part)
            memory = memory.add(pairs(*range(first, (5, 9, 12)[part])), 4, key)
        assert len(memory.pairs) == 4 and memory.seen == 12
        for [number], _ in memory.pairs:
            counts[number] += 1
    # A third of the runs each, a standard error of 11.5.
    assert np.all(np.abs(counts - runs / 3) < 4 * 11.6)


def test_replay_config_refuses_a_share_of_all():
    with pytest.raises(ValueError, match=r"replay\.share=1\.0; give a number at least 0 and below"):
        ReplayConfig(share=1.0)
