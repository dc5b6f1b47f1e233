"""Memory on CPUs: freed memory is kept for the next arrays, since page faults would cost about a
third of a night; compiled programs are dropped when a process can hardly map more of them.
"""

import os
import pathlib
import platform
import sys

import jax

MAPS, MAX_MAPS = pathlib.Path("/proc/self/maps"), pathlib.Path("/proc/sys/vm/max_map_count")
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=40000000000"


def keep_freed_memory() -> None:
    """Restarts this process, once, with an allocator that keeps freed memory.

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


def make_room_for_programs() -> None:
    """Drops compiled programs when this process uses more than half of its memory maps.

    On a CPU a program takes a few maps, of which Linux allows a process 65,530 by default; beyond
    that it ends with a segmentation fault. Programs that are needed again are compiled again.
    """
    if jax.default_backend() != "cpu" or not MAX_MAPS.exists():
        return
    with MAPS.open() as maps:
        count = sum(1 for _ in maps)
    if count > int(MAX_MAPS.read_text()) // 2:
        jax.clear_caches()
