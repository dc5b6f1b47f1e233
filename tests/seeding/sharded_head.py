"""The fused head on 8 devices, with tokens sharded four ways and the vocabulary two ways.

Prints a JSON line for every divergence: the relative errors of loss and gradient against one
device, and the elements of the largest array of the program and of the largest that devices
exchange.
"""

import json
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sleep_jax.models.head import token_log_probs
from sleep_jax.seeding.divergence import Divergence, token_scores

TOKENS, WIDTH, VOCAB, CHUNK = 256, 16, 4096, 16
EXCHANGES = r"(?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


def largest(lines) -> int:
    """Elements of the largest array that lines of HLO have as their result, or in it."""
    results = [match[1] for line in lines if (match := re.search(r" = (.*?) [a-z][\w-]*\(", line))]
    shapes = [s for result in results for s in re.findall(r"\w\[([\d,]+)\]", result)]
    return max(math.prod(map(int, s.split(","))) for s in shapes)


def scored(name, student, teacher, targets, mask, table):
    """The scores of which the loss is a weighted sum."""
    if name == "log_probs":
        return token_log_probs(student, targets, mask, table.T, CHUNK)
    scores = token_scores(
        student, teacher, targets, mask, table.T, CHUNK, divergence=Divergence(name, top_k=50)
    )
    return scores.kl + 0.3 * scores.log_prob


def main(names):
    """Compares the sharded program of every name with that of one device."""
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(TOKENS, WIDTH)).astype(np.float32) for _ in range(2))
    table = rng.normal(size=(VOCAB, WIDTH)).astype(np.float32)
    targets = rng.integers(0, VOCAB, TOKENS).astype(np.int32)
    mask, weights = rng.random(TOKENS) < 0.8, rng.normal(size=TOKENS).astype(np.float32)
    args = student, teacher, targets, mask, table
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    tokens = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    shardings = (*(tokens,) * 4, NamedSharding(mesh, PartitionSpec("tensor")))
    for name in names:

        def loss(*args, name=name):
            return jnp.sum(jnp.where(args[3], weights * scored(name, *args), 0.0))

        want, want_grad = jax.jit(jax.value_and_grad(loss))(*args)
        with jax.set_mesh(mesh):
            run = jax.jit(jax.value_and_grad(loss), in_shardings=shardings)
            lines = run.lower(*args).compile().as_text().splitlines()
            got, grad = run(*jax.device_put(args, shardings))
        line = {
            "name": name,
            "loss": abs(float(got - want)) / abs(float(want)),
            "gradient": float(np.linalg.norm(grad - want_grad) / np.linalg.norm(want_grad)),
            "largest": largest(lines),
            "exchanged": largest([line for line in lines if re.search(EXCHANGES, line)]),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
