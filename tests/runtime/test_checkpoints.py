import importlib.util
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.runtime.checkpoints import (
    PhaseCheckpoints,
    check_same_config,
    check_writable,
    config_difference,
)


def state(value=1.0):
    return {
        "memory": {"up": jnp.full((2, 3), value, jnp.bfloat16), "mask": jnp.array([True, False])},
        "step": np.int32(7),
        "key": jax.random.key_data(jax.random.key(3)),
        "moments": (jnp.arange(4.0), None),
    }


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.map(lambda x: x.dtype, a) == jax.tree.map(lambda x: x.dtype, b)


@pytest.fixture
def two_phases(tmp_path):
    """A directory with the checkpoints of phases 0 and 1, closed."""
    with PhaseCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(0, "wake", state=state(1.0), record={"config": {"layers": (1, 2)}})
        checkpoints.save(1, "consolidate", state=state(2.0), record={"kl": 0.5})
    return tmp_path


def biggest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_another_process_reads_back_bit_by_bit_what_was_saved(two_phases):
    with PhaseCheckpoints(two_phases) as checkpoints:
        assert checkpoints.latest() == (1, "consolidate")
        abstract = jax.eval_shape(lambda: state())
        for index, value in ((0, 1.0), (1, 2.0)):
            restored, record = checkpoints.restore(index, abstract)
            assert_same(restored, state(value))
        assert record == {"kl": 0.5}
        assert checkpoints.record(0) == {"config": {"layers": [1, 2]}}


def test_without_checkpoints_there_is_no_latest(tmp_path):
    with PhaseCheckpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(FileNotFoundError, match="no checkpoint 0"):
            checkpoints.restore(0, state())


def _truncate(folder):
    path = biggest_file(folder)
    os.truncate(path, path.stat().st_size // 2)


def _flip_one_bit(folder):
    path = biggest_file(folder / "state")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _lose_a_file(folder):
    biggest_file(folder / "state").unlink()


def _never_finish(folder):
    (folder / "digests.json").unlink()


def _empty(folder):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


@pytest.mark.parametrize("damage", [_truncate, _flip_one_bit, _lose_a_file, _never_finish, _empty])
def test_a_damaged_checkpoint_is_passed_over_and_can_be_made_again(two_phases, damage):
    damage(two_phases / "1")
    with PhaseCheckpoints(two_phases) as checkpoints:
        with pytest.warns(UserWarning, match="passed over"):
            assert checkpoints.latest() == (0, "wake")
        restored, _ = checkpoints.restore(0, state())
        assert_same(restored, state(1.0))
        checkpoints.save(1, "consolidate", state=state(3.0), record={})
        assert checkpoints.latest() == (1, "consolidate")
        assert_same(checkpoints.restore(1, state())[0], state(3.0))


def test_a_phase_done_over_takes_the_later_checkpoints_with_it(two_phases):
    with PhaseCheckpoints(two_phases) as checkpoints:
        checkpoints.save(0, "wake", state=state(5.0), record={})
        assert checkpoints.latest() == (0, "wake")
        assert_same(checkpoints.restore(0, state())[0], state(5.0))


def test_a_state_of_another_structure_is_named_leaf_by_leaf(two_phases):
    other = state() | {"extra": jnp.zeros(2)}
    other["memory"] = {"up": jnp.zeros((2, 4), jnp.bfloat16), "mask": jnp.array([True, False])}
    with PhaseCheckpoints(two_phases) as checkpoints, pytest.raises(ValueError) as error:
        checkpoints.restore(1, other)
    message = str(error.value)
    assert "extra: absent -> float32[2]" in message
    assert "memory.up: bfloat16[2, 3] -> bfloat16[2, 4]" in message
    assert "--workdir" in message and "mask" not in message


def test_a_record_that_json_cannot_hold_leaves_the_old_checkpoint_alone(two_phases):
    with PhaseCheckpoints(two_phases) as checkpoints:
        with pytest.raises(TypeError):
            checkpoints.save(1, "consolidate", state=state(), record={"bad": object()})
        assert checkpoints.latest() == (1, "consolidate")


def test_config_difference_names_changed_added_and_removed_fields():
    old = {"seed": 0, "seeding": {"steps": 3, "layers": [1, 2]}, "gone": "x"}
    new = {"seed": 0, "seeding": {"steps": 4, "layers": (1, 2), "alpha": 0.5}}
    assert config_difference(old, new) == [
        'gone: "x" -> absent',
        "seeding.alpha: absent -> 0.5",
        "seeding.steps: 3 -> 4",
    ]
    assert config_difference(old, old) == []


def test_resuming_under_another_config_is_refused_with_the_remedy(tmp_path):
    check_same_config({"seed": 0}, {"seed": 0}, tmp_path)
    with pytest.raises(ValueError, match=r"seed: 0 -> 1.*another --workdir") as error:
        check_same_config({"seed": 0}, {"seed": 1}, tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_run_may_go_on_on_another_mesh(tmp_path):
    old, new = ({"seed": 0, "mesh": {"fsdp": n}} for n in (1, 8))
    check_same_config(old, new, tmp_path)
    with pytest.raises(ValueError, match="seed") as error:
        check_same_config(old, new | {"seed": 1}, tmp_path)
    assert "mesh" not in str(error.value)


def test_check_writable_makes_the_directory_and_leaves_nothing_in_it(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_check_writable_names_the_directory_and_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"file/run.*--workdir="):
        check_writable(tmp_path / "file" / "run")

    def refuse(*args, **kwargs):  # Tests may run as root, whom no permission stops.
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(PermissionError, match=r"locked.*Permission denied.*--workdir="):
        check_writable(tmp_path / "locked")


def test_an_address_without_what_reaches_it_is_refused_with_the_remedy():
    if importlib.util.find_spec("gcsfs"):
        pytest.skip("gcsfs is installed")
    before = "tensorflow" in sys.modules
    with pytest.raises(ValueError, match=r"gs://bucket/run.*sleep_jax\[gs\]"):
        check_writable("gs://bucket/run")
    assert ("tensorflow" in sys.modules) == before
