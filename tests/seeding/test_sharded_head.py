"""The LM head sharded along the vocabulary: the same numbers, and no device holds all of it."""

import json
import os
import subprocess
import sys

import pytest
import sharded_head
from sharded_head import CHUNK, TOKENS, VOCAB, WIDTH

DEVICES = {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": os.pathsep.join(sys.path),
}


@pytest.mark.parametrize(
    "names",
    [
        ("forward", "top_k", "log_probs"),
        pytest.param(("reverse", "jsd", "sampled"), marks=pytest.mark.slow),
    ],
)
def test_sharded_head_equals_the_whole_head_and_stays_sharded(names):
    done = subprocess.run(
        [sys.executable, sharded_head.__file__, *names],
        env=os.environ | DEVICES,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = list(map(json.loads, done.stdout.splitlines()))
    assert tuple(line["name"] for line in lines) == names
    for line in lines:
        assert line["loss"] < 1e-5 and line["gradient"] < 1e-5, line
        # Half a head and a device's share of a chunk's logits are as large, and nothing is larger;
        # what devices exchange is less than the hidden states of all tokens.
        assert line["largest"] == WIDTH * VOCAB // 2 == CHUNK * VOCAB // 2, line
        assert line["exchanged"] < TOKENS * WIDTH, line
