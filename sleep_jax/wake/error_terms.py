"""The error term f of Eq. 2, which may be that of any optimizer, and its learning rate.

    sgd     f = g, the clipped mean gradient over a window
    adam    f = m / (sqrt(v) + eps), bias-corrected moments of g over the windows
    muon    f = orthogonalised momentum of g, layer by layer (Newton-Schulz)

The last two do not depend on the size of the gradient, which for new wake weights is about 1e-3 on
SmolLM2-135M: both move an entry by about the learning rate at every update.
"""

import math

import jax
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from sleep_jax.memory.memory_config import LevelConfig
from sleep_jax.setting import AUTO

RATES = {"sgd": 10.0, "adam": 1e-2, "muon": 1e-2}  # on SmolLM2-135M with rank 16
EPSILON = 1e-12  # far below the entries of a mean gradient, about 1e-6


def error_term(level: LevelConfig) -> optax.GradientTransformation:
    """f of a level, as a transformation of its mean gradient; of `sgd`, the identity."""
    if level.optimizer == "adam":
        return optax.scale_by_adam(b1=0.9, b2=0.99, eps=EPSILON)
    if level.optimizer == "muon":
        momentum = scale_by_muon(beta=0.9, eps=EPSILON, weight_dimension_numbers=_per_layer)
        return optax.chain(momentum, optax.stateless(_with_unit_entries))
    return optax.identity()


def learning_rate(level: LevelConfig, weights) -> float:
    """eta of a level: that of its config or, where it is `auto`, a rate that fits its optimizer.

    With the entries of a step all of one size, the output moves with the root of rank * width, so
    adam and muon have rates that fall with it.

    Args:
      level: of the memory.
      weights: its wake weights, or their shapes.
    """
    if level.learning_rate != AUTO:
        return level.learning_rate
    rate = RATES[level.optimizer]
    if level.optimizer == "sgd":
        return rate
    width, rank = weights["gate"].shape[-2:]
    return rate * math.sqrt(16 * 576 / (rank * width))


def _per_layer(weights):
    """The last two axes are a matrix; those before are layers."""
    return jax.tree.map(lambda _: MuonDimensionNumbers(-2, -1), weights)


def _with_unit_entries(steps, _):
    """Orthogonal matrices times sqrt(longer side): their entries then have a mean square of 1."""
    return jax.tree.map(lambda x: math.sqrt(max(x.shape[-2:])) * x, steps)
