"""A small random decoder with a byte tokenizer, to try every phase of a run in a minute or two
without a download.
"""

import jax
import jax.numpy as jnp
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from sleep_jax.interop.chat_template import DATE
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(*, thinking: bool = False, date: str = DATE) -> Tokenizer:
    """A tokenizer of one token a byte and ChatML's two special tokens.

    Args:
      thinking, date: of its chat template, as for `ChatTemplate`.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return Tokenizer(
        backend,
        special_tokens={"eos_token": "<|im_end|>"},
        template=CHATML,
        template_name="the chat template of the tiny model",
        thinking=thinking,
        date=date,
    )


def tiny_config(*, dtype, **overrides) -> DecoderConfig:
    """The config of a decoder of 0.1M parameters.

    Args:
      dtype, **overrides: other fields of `DecoderConfig`.
    """
    return DecoderConfig(
        vocab=byte_tokenizer().vocab_size,
        width=64,
        hidden=128,
        layers=2,
        heads=4,
        kv_heads=2,
        head_dim=16,
        tie_embeddings=True,
        dtype=jnp.dtype(dtype).type,
        **overrides,
    )


def tiny_model(*, dtype, seed: int = 0, thinking: bool = False, date: str = DATE, **overrides):
    """The tiny model with random weights: (config, `params`, tokenizer), as of `load_model`.

    Args:
      dtype, **overrides: other fields of `DecoderConfig`.
      seed: of the weights.
      thinking, date: of its chat template, as for `ChatTemplate`.
    """
    cfg = tiny_config(dtype=dtype, **overrides)
    rngs = {"params": jax.random.key(seed), "memory": jax.random.key(seed + 1)}
    params = Decoder(cfg).init(rngs, jnp.zeros((1, 1), jnp.int32))["params"]
    return cfg, params, byte_tokenizer(thinking=thinking, date=date)
