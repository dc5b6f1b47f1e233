import os
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils

from sleep_jax.runtime import checkpoints as module
from sleep_jax.runtime.checkpoints import PhaseCheckpoints, last_record


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


def test_restore_in_another_process_is_bitwise_what_was_saved(two_phases):
    with PhaseCheckpoints(two_phases) as checkpoints:
        assert checkpoints.latest() == (1, "consolidate")
        abstract = jax.eval_shape(lambda: state())
        for index, value in ((0, 1.0), (1, 2.0)):
            restored, record = checkpoints.restore(index, abstract)
            assert_same(restored, state(value))
        assert record == {"kl": 0.5}
        assert checkpoints.record(0) == {"config": {"layers": [1, 2]}}


def test_last_record_is_of_the_last_finished_checkpoint(two_phases, tmp_path):
    assert last_record(two_phases) == {"kl": 0.5}
    (two_phases / "1" / "digests.json").unlink()
    assert last_record(two_phases) == {"config": {"layers": [1, 2]}}
    assert last_record(tmp_path / "nowhere") is None


def test_latest_is_none_without_checkpoints(tmp_path):
    with PhaseCheckpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(FileNotFoundError, match="no checkpoint 0"):
            checkpoints.restore(0, state())


def test_save_does_not_poll_for_preemption(tmp_path, monkeypatch):
    """JAX answers at one poll count, which has to be one of `Watch`, not a checkpoint step."""
    asked = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", asked.append)
    with PhaseCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(2, "consolidate", state=state(), record={})
    assert not asked


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


def _seal_with(content):
    return lambda folder: (folder / "digests.json").write_text(content)


DAMAGES = [_truncate, _flip_one_bit, _lose_a_file, _never_finish, _empty]
# Seals that say nothing, or what no seal says.
SEALS = ["[]", "{}", "null", '{"record/metadata": 3}', '{"../../x": ""}', "[" * 9999]


@pytest.mark.parametrize("damage", [*DAMAGES, *map(_seal_with, SEALS)])
def test_latest_skips_a_damaged_checkpoint_which_can_be_saved_again(two_phases, damage):
    damage(two_phases / "1")
    with PhaseCheckpoints(two_phases) as checkpoints:
        with pytest.warns(UserWarning, match="is skipped"):
            assert checkpoints.latest() == (0, "wake")
        restored, _ = checkpoints.restore(0, state())
        assert_same(restored, state(1.0))
        checkpoints.save(1, "consolidate", state=state(3.0), record={})
        assert checkpoints.latest() == (1, "consolidate")
        assert_same(checkpoints.restore(1, state())[0], state(3.0))


def test_latest_refuses_if_all_are_damaged_unless_they_may_be_lost(two_phases):
    for folder in two_phases.iterdir():
        (folder / "digests.json").write_text("garbage")
    with PhaseCheckpoints(two_phases) as checkpoints, pytest.warns(UserWarning, match="is skipped"):
        with pytest.raises(ValueError, match="no checkpoint is valid; restore one"):
            checkpoints.latest()
        assert checkpoints.latest(may_lose=True) is None
        for folder in two_phases.iterdir():
            _never_finish(folder)
        assert checkpoints.latest() is None


def test_save_removes_later_checkpoints(two_phases):
    with PhaseCheckpoints(two_phases) as checkpoints:
        checkpoints.save(0, "wake", state=state(5.0), record={})
        assert checkpoints.latest() == (0, "wake")
        assert_same(checkpoints.restore(0, state())[0], state(5.0))


def test_restore_names_the_leaves_of_another_structure(two_phases):
    other = state() | {"extra": jnp.zeros(2)}
    other["memory"] = {"up": jnp.zeros((2, 4), jnp.bfloat16), "mask": jnp.array([True, False])}
    with PhaseCheckpoints(two_phases) as checkpoints, pytest.raises(ValueError) as error:
        checkpoints.restore(1, other)
    message = str(error.value)
    assert "extra: absent -> float32[2]" in message
    assert "memory.up: bfloat16[2, 3] -> bfloat16[2, 4]" in message
    assert "--workdir" in message and "mask" not in message


def test_save_of_a_record_that_is_not_json_keeps_the_old_checkpoint(two_phases):
    with PhaseCheckpoints(two_phases) as checkpoints:
        with pytest.raises(TypeError):
            checkpoints.save(1, "consolidate", state=state(), record={"bad": object()})
        assert checkpoints.latest() == (1, "consolidate")


@pytest.fixture
def slow_seal(monkeypatch):
    """Checkpoints are sealed once this event is set."""
    event, seal = threading.Event(), module._seal
    monkeypatch.setattr(module, "_seal", lambda folder: event.wait(60) and seal(folder))
    yield event
    event.set()


def test_save_returns_before_the_checkpoint_is_written(two_phases, slow_seal):
    with PhaseCheckpoints(two_phases) as checkpoints:
        checkpoints.save(2, "learn", state=state(3.0), record={})
        with PhaseCheckpoints(two_phases) as others:
            assert others.latest() == (1, "consolidate")  # what a kill would leave
        slow_seal.set()
        assert checkpoints.latest() == (2, "learn")


def test_old_checkpoint_is_removed_after_the_next_one_is_written(tmp_path, slow_seal):
    with PhaseCheckpoints(tmp_path, keep=1) as checkpoints:
        slow_seal.set()
        checkpoints.save(0, "wake", state=state(), record={})
        checkpoints.wait()
        slow_seal.clear()
        checkpoints.save(1, "learn", state=state(), record={})
        assert (tmp_path / "0" / "digests.json").exists()
        slow_seal.set()
        checkpoints.wait()
        assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_saved_arrays_may_be_overwritten_at_once(tmp_path):
    overwrite = jax.jit(lambda x: x - 1, donate_argnums=0)
    overwrite(other := jnp.zeros(2**23))
    assert other.is_deleted()  # its memory holds the result
    saved, want = jnp.arange(2.0**23), np.arange(2**23, dtype=np.float32)
    with PhaseCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(0, "wake", state={"x": saved}, record={})
        assert overwrite(saved)[5] == 4
        restored, _ = checkpoints.restore(0, {"x": jax.ShapeDtypeStruct(want.shape, want.dtype)})
    np.testing.assert_array_equal(restored["x"], want)


def test_failed_write_raises_at_the_next_call(two_phases, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_seal", full)
    with PhaseCheckpoints(two_phases) as checkpoints:
        checkpoints.save(2, "learn", state=state(), record={})
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(3, "evaluate", state=state(), record={})
    with pytest.raises(OSError, match="No space left"), PhaseCheckpoints(two_phases) as checkpoints:
        checkpoints.save(2, "learn", state=state(), record={})
    with (
        PhaseCheckpoints(two_phases) as checkpoints,
        pytest.warns(UserWarning, match="is skipped"),
    ):
        assert checkpoints.latest() == (1, "consolidate")
