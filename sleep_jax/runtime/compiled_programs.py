"""Compiled programs are kept on disk, so that a command that is called again compiles nothing."""

import jax

from sleep_jax.interop.packaged import cache_folder

MIN_SECONDS = 0.3  # of compilation, from which a program is kept


def keep_compiled_programs() -> None:
    """From here on programs are kept in the folder of downloaded models, unless a folder is set
    already (JAX_COMPILATION_CACHE_DIR)."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
