import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.inspect import Checkpoint, Run
from sleep_jax.runtime.checkpoints import PhaseCheckpoints

BANK = "current.memory.layers.level_2.experts"


def leaves_of(state):
    named = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(p, simple=True, separator="."): np.asarray(x) for p, x in named}


def test_read_gives_every_leaf_as_saved(finished, states):
    checkpoint = Run(finished)["learn"]
    saved = leaves_of(states[2])
    leaves = checkpoint.leaves("current")
    assert set(leaves) == {f"current.{name}" for name in saved}
    for name, array in saved.items():
        read = checkpoint.read(f"current.{name}")
        assert read.dtype == array.dtype == leaves[f"current.{name}"].dtype
        assert read.shape == leaves[f"current.{name}"].shape
        np.testing.assert_array_equal(read, array)


def test_read_gives_other_types_and_shapes_as_saved(tmp_path):
    state = {
        "half": jnp.asarray([[1.5, -0.0]], jnp.bfloat16),
        "count": 7,
        "key": jax.random.key_data(jax.random.key(3)),
        "absent": None,
    }
    with PhaseCheckpoints(tmp_path) as saved:
        saved.save(0, "wake", state=state, record={})
    checkpoint = Checkpoint(tmp_path / "0")
    for name, array in leaves_of(state).items():
        np.testing.assert_array_equal(checkpoint.read(name), array)
    assert checkpoint.read("half").dtype == jnp.bfloat16
    assert set(checkpoint.leaves()) == {"half", "count", "key"}


def test_restore_of_a_slot_reads_its_chunk_alone(finished, states):
    checkpoint = Run(finished)["learn"]
    slot = checkpoint.restore(BANK, slot=1)
    bank = states[2].memory["layers"]["level_2"]["experts"]
    assert set(slot) == set(bank)
    for name, array in bank.items():
        np.testing.assert_array_equal(slot[name], array[:, 1])
        layers, slots, *rest = array.shape
        chunk = checkpoint._open(f"{BANK}.{name}").chunk_layout.read_chunk.shape
        assert (slots, chunk) == (3, (layers, 1, *rest))


def test_restore_gives_the_tree_below_a_name(finished, states):
    checkpoint = Run(finished)["evaluate"]
    levels = checkpoint.restore("before_dreams.memory.layers")
    assert {n: set(x) for n, x in levels.items()} == {
        "level_1": {"experts", "wake"},
        "level_2": {"experts"},
    }
    one = checkpoint.restore("current.slots.layers.level_1.active")
    np.testing.assert_array_equal(one["active"], states[3].slots["layers"]["level_1"]["active"])


def test_unknown_names_are_answered_with_the_existing_ones(finished):
    checkpoint = Run(finished)["learn"]
    with pytest.raises(
        KeyError, match=r"no 'current.memry'; there is .*current.memory, current.slots"
    ):
        checkpoint.restore("current.memry")
    with pytest.raises(IndexError, match=r"slot=3: .* has 3, counted from 0"):
        checkpoint.read(f"{BANK}.up", slot=3)
    with pytest.raises(KeyError, match="no 'nap'; there is before_dreams, before_sleep, current"):
        checkpoint.read("nap")
    with pytest.raises(KeyError, match="is no leaf; `restore` reads all below it"):
        checkpoint.read(BANK)
    with pytest.raises(IndexError, match="has 0"):
        checkpoint.read("current.slots.layers.level_2.carries", slot=0)


def test_incomplete_file_is_reported_in_words(unfinished):
    checkpoint = Run(unfinished)["consolidate"]
    for path in pathlib.Path(checkpoint.folder, "state").rglob("d/*"):
        os.truncate(path, path.stat().st_size // 3)
    with pytest.raises(OSError, match=r"checkpoints/1 cannot be read .*`verify`"):
        checkpoint.restore("current")
    assert "damaged" in checkpoint.problem(is_thorough=True)
    (checkpoint.folder / "record" / "metadata").write_text('{"phase": "cons')
    with pytest.raises(OSError, match="checkpoints/1 cannot be read"):
        _ = Checkpoint(checkpoint.folder).phase


def test_inspect_needs_no_device_and_no_heavy_import(finished):
    """JAX_PLATFORMS names a platform that is not there: whoever started a backend would fail."""
    program = (
        "import sys\n"
        "from sleep_jax.verbs.main import main\n"
        f"status = main(['inspect', {str(finished)!r}, '--json'])\n"
        "heavy = {'tensorflow', 'torch', 'transformers', 'flax', 'optax', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "sys.exit(status)\n"
    )
    environment = os.environ | {"JAX_PLATFORMS": "rocm"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["samples"]


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("phase",), 3, "phase=3; give a string"),
        (("record",), [], r"record=\[\]; give an object"),
        (("record", "run", "phases"), None, "run.phases=None"),
        (
            ("record", "run", "phases", "wake", "seconds"),
            "2",
            "phases.wake.seconds='2'; give a num",
        ),
        (("record", "run", "phases", "wake", "kl"), [1], r"phases.wake.kl=\[1\]"),
        (("record", "run", "days"), {}, "run.days={}; give a list"),
        (
            ("record", "run", "days", 0, "scores", "before sleep", "paraphrases"),
            "half",
            "paraphrases='half'; give a number",
        ),
        (("record", "run", "days", 0, "asked", 0, "answers"), [], r"answers=\[\]; give at least"),
        (
            ("record", "run", "days", 0, "replies", "before sleep"),
            [],
            "a reply to each of 2 quest",
        ),
    ],
)
def test_record_of_other_types_is_refused(finished, tmp_path, path, value, words):
    run = shutil.copytree(finished, tmp_path / "run")
    file = run / "checkpoints" / "3" / "record" / "metadata"
    facts = json.loads(file.read_text())
    place = facts
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file.write_text(json.dumps(facts))
    with pytest.raises(OSError, match=words) as error:
        _ = Run(run).record
    assert str(file.parent.parent) in str(error.value) and "\n" not in str(error.value)
