"""The shape of a decoder and of its memory: of a Hugging Face `config.json` and a run's config."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.models.mixer import get_mixer
from sleep_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3 frequency scaling (Hugging Face `rope_scaling` with `rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


DTYPES = ("bfloat16", "float32")  # that a model can compute in
REMATS = ("full", "none")
# Linears of a layer that may have an adapter, and the part of the layer that each belongs to.
TARGETS = {
    **dict.fromkeys(("q", "k", "v", "o"), "mixer"),
    **dict.fromkeys(("gate", "up", "down"), "mlp"),
}


@dataclasses.dataclass(frozen=True)
class LoraConfig(Settings, section="dreaming.trial"):
    """A trial adapter.

    Raises:
      ValueError: a field is out of range.
    """

    rank: int = setting(32, "rank of a trial adapter", least=1)
    alpha: float = setting(64.0, "alpha of a trial adapter, whose scale is alpha / rank", above=0)
    targets: tuple[str, ...] = setting(
        ("gate", "up", "down"), "linears that carry a trial adapter", choices=TARGETS
    )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A Llama-shaped decoder; Llama 3, Qwen 2.5, Qwen 3 and SmolLM2 differ only in these fields.

    Attributes:
      vocab, width, hidden, layers: v, d, FFN width f and depth.
      heads, kv_heads, head_dim: query heads, key/value heads (GQA), width h of a head.
      rope_theta, rope_scaling: rotary base and the optional Llama 3 scaling.
      norm_eps: RMSNorm epsilon.
      tie_embeddings: the LM head is the embedding, transposed.
      attention_bias: q, k, v carry a bias (Qwen 2.5).
      qk_norm: RMSNorm over each head of q and k (Qwen 3).
      max_position: longest sequence the base was trained on.
      dtype: operand dtype of every matmul; products are accumulated and kept in float32.
      mixer: name of what mixes tokens in every layer (`models/mixer.py`).
      remat: `full` recomputes each layer in the backward pass, all but what the mixer saves; `none`
        keeps everything.
      scan_layers: one stacked, scanned layer (training) or unrolled layers (CPU decode).
      memory: the memory beside each FFN.
      lora: the trial adapter, used where there is a `lora` collection.

    Raises:
      ValueError: fields do not fit together, or no mixer of that name is registered.
    """

    vocab: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    attention_bias: bool = False
    qk_norm: bool = False
    max_position: int = 2048
    dtype: Any = jnp.float32
    mixer: str = "attention"
    remat: str = "full"
    scan_layers: bool = True
    memory: MemoryConfig = dataclasses.field(default_factory=MemoryConfig)
    lora: LoraConfig = LoraConfig()

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads={self.kv_heads} does not divide heads={self.heads}; "
                "grouped-query attention needs whole groups"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd; rotary embedding needs pairs")
        if self.remat not in REMATS:
            raise ValueError(f"remat={self.remat!r}; choose from {', '.join(REMATS)}")
        get_mixer(self.mixer)
        self.memory.carriers(self.layers)

    @property
    def stacks(self) -> dict[str, range]:
        """The layers by the name of their stack in every collection.

        Layers below the first one that carries memory are the `trunk`: no gradient of the memory
        reaches them, and two models that differ in memory alone share what they compute.
        """
        first = self.memory.carriers(self.layers)[0] if self.memory.levels else 0
        stacks = {"trunk": range(first), "layers": range(first, self.layers)}
        return {name: layers for name, layers in stacks.items() if layers}

    def replace(self, **changes) -> "DecoderConfig":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)
