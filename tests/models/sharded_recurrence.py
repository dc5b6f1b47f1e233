"""A recurrent decoder on 8 CPU devices: prints, as JSON, how far a packed pass and completions of a
context are from those of one device, and how the state of the cache is split.
"""

import json

import jax
import numpy as np
from jax.sharding import AxisType
from recurrence import Recurrence

from sleep_jax.data.batches import pad
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.models import sharding
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.mixer import SHARED_PREFIX, get_mixer
from sleep_jax.sampling.sampler import SamplingConfig, prefill, sample


def results(cfg, params):
    """(hidden states of packed rows, the cache of a context, log-probabilities of completions)."""
    rng = np.random.default_rng(0)
    variables = {"params": sharding.place(params, "params")}
    tokens = rng.integers(0, 200, (4, 12)).astype(np.int32)
    segments = np.repeat([[SHARED_PREFIX, 1, 2, 0]], (3, 4, 3, 2), axis=1).repeat(4, axis=0)
    hidden = jax.jit(Decoder(cfg).apply)(variables, tokens, segments)
    cache, _ = prefill(cfg, variables, tokens, np.ones_like(tokens))
    config = SamplingConfig(4, (), temperature=0.0, num_generations=2)
    prompts = pad([[1, 2, 3]] * 4, 4, side="left")
    samples = sample(cfg, config, variables, *prompts, jax.random.key(0), cache)
    return hidden, cache, samples.log_probs


def main():
    """Compares the two."""
    cfg, params, _ = tiny_model(dtype="float32", mixer="recurrence")
    assert get_mixer(cfg.mixer) is Recurrence
    want = results(cfg, params)
    mesh = jax.make_mesh((2, 2, 2), sharding.AXES, (AxisType.Auto,) * 3)
    with jax.set_mesh(mesh):
        got = results(cfg, params)
    spec = got[1]["layers"]["recurrence"]["matrix"].sharding.spec
    difference = [float(np.abs(a - b).max()) for a, b in zip(want[::2], got[::2])]
    print(json.dumps({"difference": difference, "spec": str(spec)}))


if __name__ == "__main__":
    main()
