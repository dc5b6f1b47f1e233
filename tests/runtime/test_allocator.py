import subprocess
import sys

import pytest

from sleep_jax.runtime import allocator

PROGRAM = """
import os, sys
from sleep_jax.runtime.allocator import keep_freed_memory
print("starts", flush=True)
keep_freed_memory()
print(os.environ["GLIBC_TUNABLES"], sys.argv[1:], flush=True)
"""


@pytest.fixture
def restarted(monkeypatch):
    """The environments that the process would have been started again with."""
    seen = []
    monkeypatch.setattr(allocator.os, "execve", lambda *given: seen.append(given[2]))
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(allocator.jax, "default_backend", lambda: "cpu")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return seen


def test_keep_freed_memory_restarts_a_process_on_a_cpu(restarted, monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    allocator.keep_freed_memory()
    assert restarted[0]["GLIBC_TUNABLES"] == allocator.MALLOC and restarted[0]["KEPT"] == "1"


@pytest.mark.parametrize("why", ["set", "accelerator", "musl"])
def test_keep_freed_memory_restarts_no_other_process(restarted, monkeypatch, why):
    if why == "set":
        monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    elif why == "accelerator":
        monkeypatch.setattr(allocator.jax, "default_backend", lambda: "tpu")
    else:
        monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    allocator.keep_freed_memory()
    assert not restarted


@pytest.mark.skipif(allocator.platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_keep_freed_memory_restarts_once_with_the_same_arguments(monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--a", "b c"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:3] == [
        "starts",
        "starts",
        f"{allocator.MALLOC} ['--a', 'b c']",
    ]


def test_make_room_for_programs_clears_them_at_half_of_the_maps(monkeypatch, tmp_path):
    cleared = []
    monkeypatch.setattr(allocator.jax, "clear_caches", lambda: cleared.append(True))
    monkeypatch.setattr(allocator, "MAPS", tmp_path / "maps")
    monkeypatch.setattr(allocator, "MAX_MAPS", tmp_path / "most")
    (tmp_path / "maps").write_text("a piece\n" * 50)
    allocator.make_room_for_programs()  # no Linux: nobody says how many there may be
    for most, count in ((100, 0), (99, 1)):
        (tmp_path / "most").write_text(f"{most}\n")
        allocator.make_room_for_programs()
        assert len(cleared) == count
