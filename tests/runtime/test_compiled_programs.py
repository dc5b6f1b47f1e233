import jax
import pytest

from sleep_jax.runtime import compiled_programs
from sleep_jax.runtime.compiled_programs import keep_compiled_programs


@pytest.fixture
def changed(monkeypatch, tmp_path):
    """What is set of the config of jax; nothing is, really."""
    changed = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)
    monkeypatch.setenv("SLEEP_JAX_CACHE", str(tmp_path))
    return changed


def no_folder(monkeypatch):
    none = property(lambda _: None)
    monkeypatch.setattr(type(jax.config), "jax_compilation_cache_dir", none, raising=False)


def test_programs_are_kept_beside_downloaded_models_unless_a_folder_is_set(
    monkeypatch, changed, tmp_path
):
    before = jax.config.jax_compilation_cache_dir
    keep_compiled_programs()
    if before is not None:  # set by the tests themselves
        assert not changed
    no_folder(monkeypatch)
    keep_compiled_programs()
    assert changed["jax_compilation_cache_dir"] == str(tmp_path / "programs")


@pytest.mark.parametrize("workdir", ["/runs/a", "gs://bucket/runs/a"])
def test_programs_of_an_accelerator_are_kept_in_the_workdir(monkeypatch, changed, workdir):
    no_folder(monkeypatch)
    monkeypatch.setattr(compiled_programs.jax, "default_backend", lambda: "tpu")
    keep_compiled_programs(workdir)
    assert changed["jax_compilation_cache_dir"] == f"{workdir}/programs"


def test_programs_of_a_cpu_are_kept_on_its_machine(monkeypatch, changed, tmp_path):
    no_folder(monkeypatch)
    keep_compiled_programs("/runs/a")
    assert changed["jax_compilation_cache_dir"] == str(tmp_path / "programs")
