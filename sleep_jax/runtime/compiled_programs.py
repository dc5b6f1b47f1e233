"""Compiled programs are kept on disk, so that a command that is called again compiles nothing."""

import os

import jax
from etils import epath

from sleep_jax.interop.packaged import cache_folder


def keep_compiled_programs(workdir: str | os.PathLike[str] | None = None) -> None:
    """From here on programs are kept, unless a folder for them is set already
    (JAX_COMPILATION_CACHE_DIR): on accelerators in the work directory, where every process of a run
    finds them, else in the folder of downloaded models, since a CPU's are for its like alone.

    Args:
      workdir: of the run, a folder or an address in a bucket; None: there is none.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    is_shared = workdir is not None and jax.default_backend() != "cpu"
    folder = epath.Path(workdir) if is_shared else cache_folder()
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
