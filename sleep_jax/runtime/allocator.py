"""On a CPU, memory that arrays leave is kept for the next ones: the page faults of getting it anew
would cost about a third of a night."""

import os
import platform
import sys

import jax

MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=40000000000"


def keep_freed_memory() -> None:
    """Starts this process again, once, with an allocator that keeps what is freed.

    glibc reads its settings when a process starts. Nothing happens on an accelerator, without
    glibc, or where GLIBC_TUNABLES is set already.
    """
    is_glibc = platform.libc_ver()[0] == "glibc"
    if not is_glibc or "GLIBC_TUNABLES" in os.environ or jax.default_backend() != "cpu":
        return
    sys.stdout.flush()
    sys.stderr.flush()
    arguments = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, arguments, os.environ | {"GLIBC_TUNABLES": MALLOC})
