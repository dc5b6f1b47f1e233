"""Memory on a CPU. What arrays leave is kept for the next ones: the page faults of getting it anew
would cost about a third of a night. Programs go when a process has hardly room for more."""

import os
import pathlib
import platform
import sys

import jax

MAPS, MOST_MAPS = pathlib.Path("/proc/self/maps"), pathlib.Path("/proc/sys/vm/max_map_count")
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


def make_room_for_programs() -> None:
    """Lets compiled programs go where they take more than half of what Linux has for a process.

    On a CPU each is mapped into memory in a few pieces, of which a process has 65,530 by default;
    one more, and it ends with a segmentation fault. What is needed again is compiled again.
    """
    if jax.default_backend() != "cpu" or not MOST_MAPS.exists():
        return
    with MAPS.open() as maps:
        count = sum(1 for _ in maps)
    if count > int(MOST_MAPS.read_text()) // 2:
        jax.clear_caches()
