"""Flax modules and the pure functions beside them; importing the package registers attention."""

from sleep_jax.models.attention import Attention
from sleep_jax.models.mixer import register_mixer

register_mixer("attention", Attention)
