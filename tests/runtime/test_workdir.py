"""Whether a run can be written or resumed in a directory."""

import importlib.util
import os
import sys

import fsspec
import numpy as np
import pytest

from sleep_jax.runtime.workdir import (
    check_same_base,
    check_same_config,
    check_writable,
    claim,
    config_difference,
)


def test_config_difference_names_changed_added_and_removed_fields():
    old = {"seed": 0, "seeding": {"steps": 3, "layers": [1, 2]}, "removed": "x"}
    new = {"seed": 0, "seeding": {"steps": 4, "layers": (1, 2), "alpha": 0.5}}
    assert config_difference(old, new) == [
        'removed: "x" -> absent',
        "seeding.alpha: absent -> 0.5",
        "seeding.steps: 3 -> 4",
    ]
    assert config_difference(old, old) == []


def test_check_same_config_refuses_another_config(tmp_path):
    check_same_config({"seed": 0}, {"seed": 0}, tmp_path)
    with pytest.raises(ValueError, match=r"seed: 0 -> 1.*another --workdir") as error:
        check_same_config({"seed": 0}, {"seed": 1}, tmp_path)
    assert str(tmp_path) in str(error.value)


def test_check_same_config_allows_another_mesh_and_folder(tmp_path):
    old, new = (
        {
            "seed": 0,
            "mesh": {"fsdp": n},
            "seeding": {"teacher_memory": n},
            "model": {"name": f"/disk{n}/m", "dtype": "float32"},
        }
        for n in (1, 8)
    )
    check_same_config(old, new, tmp_path)
    new["model"]["dtype"] = "bfloat16"
    with pytest.raises(ValueError, match=r"model\.dtype") as error:
        check_same_config(old, new, tmp_path)
    assert "mesh" not in str(error.value) and "model.name" not in str(error.value)


def test_check_same_config_allows_on_full_to_change_during_a_run(tmp_path):
    old, new = ({"memory": {"on_full": x, "slots": (5,)}} for x in ("error", "skip"))
    change = 'memory.on_full: "error" -> "skip"'
    assert check_same_config(old, new, tmp_path, is_under_way=True) == [change]
    with pytest.raises(ValueError, match=change):  # of what is finished it is another result
        check_same_config(old, new, tmp_path)
    new["memory"]["slots"] = (6,)
    with pytest.raises(ValueError, match=r"\(memory\.slots: \[5\] -> \[6\]\)"):
        check_same_config(old, new, tmp_path, is_under_way=True)


def test_check_same_base_refuses_other_weights_at_any_path(tmp_path):
    old = {"model.name": {"name": "/disk1/m", "weights": "91bc"}}
    check_same_base(old, {"model.name": {"name": "/disk8/m", "weights": "91bc"}}, tmp_path)
    check_same_base({}, old, tmp_path)
    with pytest.raises(ValueError) as error:
        check_same_base(old, {"model.name": {"name": "/disk8/m", "weights": "3fa2"}}, tmp_path)
    message = str(error.value)
    assert message.startswith("model.name='/disk8/m' has the weights 3fa2")
    assert "was started with 91bc ('/disk1/m')" in message and "--workdir" in message


def test_check_same_base_lets_later_nights_have_other_teachers(tmp_path):
    old = {"seeding.teachers[0]": {"name": "a", "weights": "1"}}
    check_same_base(old, {}, tmp_path)
    check_same_base(old, {"seeding.teachers[0]": {"name": "b", "weights": "2"}}, tmp_path)
    with pytest.raises(ValueError, match="'a' has the weights 2"):
        check_same_base(old, {"seeding.teachers[0]": {"name": "a", "weights": "2"}}, tmp_path)


def test_check_writable_creates_an_empty_directory(tmp_path):
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


def test_check_writable_of_an_address_without_gcsfs_names_the_extra(monkeypatch):
    before = "tensorflow" in sys.modules
    if importlib.util.find_spec("gcsfs"):

        def lacking(*_, **__):
            raise ImportError("Please install gcsfs to access Google Storage")

        monkeypatch.setattr(fsspec, "filesystem", lacking)
    with pytest.raises(ValueError, match=r"gs://bucket/run.*-e '\.\[gs\]'"):
        check_writable("gs://bucket/run")
    assert ("tensorflow" in sys.modules) == before


def test_claim_refuses_other_settings(tmp_path):
    settings = {"passages": ["a", "b"], "night": {"steps": 4}, "dtype": np.dtype("float32")}
    for _ in range(2):
        claim(tmp_path / "runs", settings)
    with pytest.raises(ValueError, match=r'passages: \["a", "b"\] -> \["a"\]\); use another'):
        claim(tmp_path / "runs", settings | {"passages": ["a"]})
    claim(tmp_path / "runs", settings)
