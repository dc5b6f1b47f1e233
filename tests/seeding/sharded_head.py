"""The fused head on 8 devices, tokens cut in four and the vocabulary in two: a JSON line for every
divergence says how far loss and gradient are from those of one device, and how large the largest
array of the program and the largest that passes between devices are."""

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
PASSES = r"(?:all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


def largest(lines) -> int:
    """Elements of the largest array that lines of HLO have as their result, or in it."""
    results = [found[1] for line in lines if (found := re.search(r" = (.*?) [a-z][\w-]*\(", line))]
    shapes = [s for result in results for s in re.findall(r"\w\[([\d,]+)\]", result)]
    return max(math.prod(map(int, s.split(","))) for s in shapes)


def scored(name, student, teacher, targets, mask, table):
    """What is summed up to a loss."""
    if name == "log_probs":
        return token_log_probs(student, targets, mask, table.T, CHUNK)
    scores = token_scores(
        student, teacher, targets, mask, table.T, CHUNK, divergence=Divergence(name, top_k=50)
    )
    return scores.kl + 0.3 * scores.log_prob


def main(names):
    """Compares the two programs of every name."""
    rng = np.random.default_rng(0)
    student, teacher = (rng.normal(size=(TOKENS, WIDTH)).astype(np.float32) for _ in range(2))
    table = rng.normal(size=(VOCAB, WIDTH)).astype(np.float32)
    targets = rng.integers(0, VOCAB, TOKENS).astype(np.int32)
    mask, weights = rng.random(TOKENS) < 0.8, rng.normal(size=TOKENS).astype(np.float32)
    given = student, teacher, targets, mask, table
    mesh = jax.make_mesh((2, 2, 2), ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3)
    tokens = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    shardings = (*(tokens,) * 4, NamedSharding(mesh, PartitionSpec("tensor")))
    for name in names:

        def loss(*given, name=name):
            return jnp.sum(jnp.where(given[3], weights * scored(name, *given), 0.0))

        want, slope = jax.jit(jax.value_and_grad(loss))(*given)
        with jax.set_mesh(mesh):
            run = jax.jit(jax.value_and_grad(loss), in_shardings=shardings)
            lines = run.lower(*given).compile().as_text().splitlines()
            got, gradient = run(*jax.device_put(given, shardings))
        line = {
            "name": name,
            "loss": abs(float(got - want)) / abs(float(want)),
            "gradient": float(np.linalg.norm(gradient - slope) / np.linalg.norm(slope)),
            "largest": largest(lines),
            "passed": largest([line for line in lines if re.search(PASSES, line)]),
        }
        print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
