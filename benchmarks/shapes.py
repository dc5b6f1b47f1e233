"""The shape that is measured: SmolLM2-135M with random weights, smaller or wider by flags."""

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
    """Adds what may differ from SmolLM2: --layers and --vocab."""
    for name in ("layers", "vocab"):
        default = defaults.get(name, getattr(SMOLLM2, name))
        parser.add_argument(f"--{name}", type=int, default=default)


def dtype_flag(parser: argparse.ArgumentParser) -> None:
    """Adds --dtype, of the operands."""
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")


def shape_spec(args: argparse.Namespace) -> dict:
    """The shape as what a runner in another environment is told."""
    fixed = ("width", "hidden", "heads", "kv_heads", "head_dim", "rope_theta")
    return {name: getattr(SMOLLM2, name) for name in fixed} | {
        "layers": args.layers,
        "vocab": args.vocab,
    }


def shaped(args: argparse.Namespace, **changes) -> DecoderConfig:
    """The decoder that the flags ask for."""
    dtype = jnp.dtype(args.dtype)
    return SMOLLM2.replace(layers=args.layers, vocab=args.vocab, dtype=dtype, **changes)


def random_params(cfg: DecoderConfig):
    """Weights as at birth, in scanned form; the same for all that differ in memory alone."""
    return Decoder(cfg).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def compiled_bytes(jitted, *args) -> int:
    """Bytes that a program holds at its peak: arguments, temporaries and results that share no
    buffer with an argument, as its compiler assigns them."""
    m = jitted.lower(*args).compile().memory_analysis()
    results = m.output_size_in_bytes - m.alias_size_in_bytes
    return m.argument_size_in_bytes + m.temp_size_in_bytes + results
