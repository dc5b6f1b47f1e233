"""Fine-tuning on a mesh of 8 CPU devices equals that on one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = "tests/baselines/sharded_finetune.py"


@pytest.mark.slow
def test_finetune_on_a_mesh_equals_one_device():
    result = subprocess.run(
        [sys.executable, SCRIPT, "none", "2,2,2"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    one, mesh = json.loads(result.stdout.splitlines()[-1]).values()
    assert (one.pop("shards of a moment"), mesh.pop("shards of a moment")) == (1, 4)
    for name in ("lora", "params", "slot"):
        assert one[name]["programs"] == mesh[name]["programs"] == 1, name
        assert one[name]["losses"][0] > one[name]["losses"][-1]
        for figure in ("losses", "sums"):
            np.testing.assert_allclose(mesh[name][figure], one[name][figure], rtol=1e-4)
