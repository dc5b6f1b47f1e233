"""The memory beside an FFN: per level a bank of preallocated low-rank SwiGLU experts (paper 3.2;
design, memory levels)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sleep_jax.models.config import DecoderConfig
from sleep_jax.models.linear import matmul


class Level(nn.Module):
    """M(h) = scale * sum over active slots s of (silu(h G_s) * (h U_s)) D_s.

    Variables, for S slots of rank r: `memory` gate and up [S, d, r] and down [S, r, d]; `slots`
    active, bool [S]. With D = 0 at birth, unlocking a slot changes no output. Inactive slots are
    masked by `where`, so nothing in them can leak, not even NaN.
    """

    cfg: DecoderConfig

    @nn.compact
    def __call__(self, h):
        """Maps normalised hidden states [batch, time, d] to float32 [batch, time, d]."""
        cfg, m = self.cfg, self.cfg.memory
        d = cfg.width

        def bank(name, init, shape):
            return self.variable("memory", name, lambda: init(self.make_rng("memory"), shape)).value

        projection = nn.initializers.normal(d**-0.5)
        gate = bank("gate", projection, (m.slots, d, m.rank))
        up = bank("up", projection, (m.slots, d, m.rank))
        down = bank("down", lambda _, shape: jnp.zeros(shape), (m.slots, m.rank, d))
        active = self.variable("slots", "active", jnp.zeros, (m.slots,), bool).value

        # All slots side by side are one SwiGLU of width S * r.
        on = active[:, None, None]
        gate, up, down = (jnp.where(on, w, 0).astype(cfg.dtype) for w in (gate, up, down))
        gate, up = (w.transpose(1, 0, 2).reshape(d, -1) for w in (gate, up))
        y = jax.nn.silu(matmul(h, gate)) * matmul(h, up)
        return m.scale * matmul(y, down.reshape(-1, d))
