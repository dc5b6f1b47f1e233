import jax

from sleep_jax.runtime.compiled_programs import keep_compiled_programs


def test_programs_are_kept_beside_downloaded_models_unless_a_folder_is_set(monkeypatch, tmp_path):
    changed = {}
    monkeypatch.setattr(jax.config, "update", changed.__setitem__)
    monkeypatch.setenv("SLEEP_JAX_CACHE", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    keep_compiled_programs()
    if before is not None:  # set by the tests themselves
        assert not changed
    monkeypatch.setattr(
        type(jax.config), "jax_compilation_cache_dir", property(lambda _: None), raising=False
    )
    keep_compiled_programs()
    assert changed["jax_compilation_cache_dir"] == str(tmp_path / "programs")
