import errno
import os
import re

import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.seeding import host_arrays
from sleep_jax.seeding.host_arrays import HostArrays

SHAPES = [(3, 5), (1, 700), (0, 5), (40, 60), (7, 1)]


def filled(arrays, dtype):
    """Arrays of several shapes with random values, and copies of these."""
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).astype(dtype) for shape in SHAPES]
    kept = [arrays.empty(shape, dtype) for shape in SHAPES]
    for array, value in zip(kept, values):
        array[...] = value
        arrays.let_go()
    return kept, values


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("most", [0, 100, 3000, np.inf])
def test_arrays_beyond_the_bound_are_on_disk_and_keep_their_values(most, dtype, monkeypatch):
    monkeypatch.setattr(host_arrays, "SEGMENT", 4096)  # the largest is in one of its own
    arrays = HostArrays(most)
    kept, values = filled(arrays, dtype)
    for array, value in zip(kept, values):
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, value)
    assert arrays.in_memory <= most
    assert arrays.in_memory + arrays.on_disk == sum(x.nbytes for x in values)
    assert bool(arrays.on_disk) == (most < np.inf)
    kept[3][:] = 1  # the others lie elsewhere
    arrays.let_go()
    np.testing.assert_array_equal(kept[1], values[1])
    assert (kept[3] == 1).all()


def test_file_has_no_name_and_is_not_counted_as_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(host_arrays.tempfile, "tempdir", str(tmp_path))
    arrays, size = HostArrays(0), 2**26
    array = arrays.empty((size // 4,), np.float32)
    before = of_mapped_files()
    array[:] = 1
    assert of_mapped_files() - before >= size - 2**20
    arrays.let_go()
    assert abs(of_mapped_files() - before) < 2**20
    assert array.sum() == size // 4
    assert not list(tmp_path.iterdir())


def of_mapped_files() -> int:
    """Bytes of mapped files in the memory of this process."""
    with open("/proc/self/status") as status:
        sizes = dict(re.findall(r"(\w+):\s+(\d+) kB", status.read()))
    return 1024 * (int(sizes["RssFile"]) + int(sizes["RssShmem"]))


def test_full_disk_is_an_error_that_names_the_remedy(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        OSError, match=r"has no room .* raise seeding\.teacher_memory, or .* TMPDIR"
    ):
        HostArrays(8).empty((3,), np.float32)
