"""Safetensors files written in chunks: the library and transformers read what was given."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from sleep_jax.interop.safetensors_writer import DTYPES, Tensor, write_shards

RNG = np.random.default_rng(0)
ARRAYS = {
    "a": RNG.normal(size=(7, 3)).astype(np.float32),
    "b": RNG.normal(size=(5,)).astype(np.float32),
    "c": RNG.normal(size=(2, 4)).astype(np.float32),
}


def tensors(arrays):
    """Tensors whose rows come two at a time."""
    return [
        Tensor(name, x.shape, lambda x=x: (x[i : i + 2] for i in range(0, len(x), 2)))
        for name, x in arrays.items()
    ]


@pytest.mark.parametrize("dtype", DTYPES)
def test_write_shards_of_one_file_is_read_by_the_library(dtype, tmp_path):
    assert write_shards(tmp_path, tensors(ARRAYS), dtype, 10**6) == ["model.safetensors"]
    read = load_file(tmp_path / "model.safetensors")
    assert [*read] == [*ARRAYS]
    for name, x in ARRAYS.items():
        assert read[name].dtype == DTYPES[dtype][0]
        np.testing.assert_array_equal(read[name], x.astype(DTYPES[dtype][0]))


def test_write_shards_begins_a_file_where_the_next_tensor_does_not_fit(tmp_path):
    # In bfloat16: 42, 10 and 16 bytes; 42 + 10 fit 52, 16 more do not.
    names = write_shards(tmp_path, tensors(ARRAYS), "bfloat16", 52)
    assert names == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 42 + 10 + 16
    assert index["weight_map"] == {"a": names[0], "b": names[0], "c": names[1]}
    for name, file in index["weight_map"].items():
        np.testing.assert_array_equal(
            load_file(tmp_path / file)[name], ARRAYS[name].astype(ml_dtypes.bfloat16)
        )


def test_write_shards_gives_a_large_tensor_a_file_of_its_own(tmp_path):
    assert len(write_shards(tmp_path, tensors(ARRAYS), "float32", 1)) == 3


@pytest.mark.parametrize("value", [1e5, np.nan, np.inf])
def test_write_shards_refuses_what_a_dtype_cannot_hold(value, tmp_path):
    arrays = {"w": np.array([[1.0, value]], np.float32)}
    with pytest.raises(ValueError, match="w has a value that is not finite, or too large for"):
        write_shards(tmp_path, tensors(arrays), "float16", 10**6)
