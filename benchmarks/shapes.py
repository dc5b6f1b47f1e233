"""The measured shape: SmolLM2-135M with random weights; flags change layers and vocabulary."""

import argparse

import jax
import jax.numpy as jnp

from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig

SMOLLM2 = DecoderConfig(
    vocab=49152,
    width=576,
    hidden=1536,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    rope_theta=1e5,
    tie_embeddings=True,
    dtype=jnp.bfloat16,
    remat="none",
)


def shape_flags(parser: argparse.ArgumentParser, **defaults) -> None:
    """Adds the flags --layers and --vocab; the rest is SmolLM2's."""
    for name in ("layers", "vocab"):
        default = defaults.get(name, getattr(SMOLLM2, name))
        parser.add_argument(f"--{name}", type=int, default=default)


def dtype_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --dtype, of the operands."""
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")


def shape_spec(args: argparse.Namespace) -> dict:
    """The shape as fields of a runner's spec."""
    fixed = ("width", "hidden", "heads", "kv_heads", "head_dim", "rope_theta")
    return {name: getattr(SMOLLM2, name) for name in fixed} | {
        "layers": args.layers,
        "vocab": args.vocab,
    }


def shaped(args: argparse.Namespace, **changes) -> DecoderConfig:
    """The decoder that the flags describe."""
    dtype = jnp.dtype(args.dtype)
    return SMOLLM2.replace(layers=args.layers, vocab=args.vocab, dtype=dtype, **changes)


def random_params(cfg: DecoderConfig):
    """Initial weights, in scanned form; memory does not change them."""
    return Decoder(cfg).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def compiled_bytes(jitted, *args) -> int:
    """Bytes that a program holds at its peak: arguments, temporaries and results that share no
    buffer with an argument, as its compiler assigns them.
    """
    m = jitted.lower(*args).compile().memory_analysis()
    results = m.output_size_in_bytes - m.alias_size_in_bytes
    return m.argument_size_in_bytes + m.temp_size_in_bytes + results
