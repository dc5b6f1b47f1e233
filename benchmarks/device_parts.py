"""What `device.py` measures in the process that holds the device."""

import argparse
import functools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from seeding_step import step_flags, steps_of
from shapes import compiled_bytes, random_params

from sleep_jax.data.examples import make_examples
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.trial import TrialConfig, train_adapters
from sleep_jax.interop.known_models import describe_model
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig
from sleep_jax.runtime.hardware import GIB, model_flops, peak_bandwidth, peak_flops
from sleep_jax.sampling.generate import decoding_config
from sleep_jax.sampling.sampler import SamplingConfig, sample

PROMPT, ROWS, TIME, SCORED, RANK = 64, 8, 1024, 512, 16
DREAM, EPOCHS, AT_A_TIME = 256, 2, 32  # tokens of a dream, updates on it, adapters at a time


class Device:
    """Peaks of the device, of its data sheet or, where that is not known, measured."""

    def __init__(self):
        kind = jax.devices()[0].device_kind
        self.kind = kind if peak_flops(kind) else f"{kind} (peaks measured here)"
        self.flops = peak_flops(kind) or _measured_flops()
        self.bandwidth = peak_bandwidth(kind) or _measured_bandwidth()


def measure(args: argparse.Namespace, end: float) -> Iterator[dict]:
    """All figures as they come, until `end`, of `time.monotonic`."""
    changes = {name: getattr(args, name) for name in ("layers", "vocab") if getattr(args, name)}
    cfg = describe_model(args.model, dtype=args.dtype, remat="full").replace(
        lora=LoraConfig(RANK, 2.0 * RANK), **changes
    )
    device = Device()
    yield _line("device", "kind", device.kind, "")
    yield _line("device", "peak", round(device.flops / 1e12, 2), "TFLOP/s")
    yield _line("device", "bandwidth", round(device.bandwidth / 1e9), "GB/s")
    parts = [
        *(functools.partial(_rollouts, args, cfg, device, batch) for batch in args.batches),
        functools.partial(_updates, cfg, device),
        *(functools.partial(_trials, cfg, count) for count in args.trials),
        _memory,
    ]
    for part in parts:
        if time.monotonic() < end:
            yield from part()
        else:
            name = part.func.__name__ if isinstance(part, functools.partial) else part.__name__
            yield _line(name.strip("_"), "left out", "no time was left", "")


def _rollouts(args, cfg: DecoderConfig, device: Device, batch: int) -> Iterator[dict]:
    """Tokens a second after the prompt is read: a long call less one of a single token."""
    decoder = decoding_config(cfg, jax.default_backend())
    params = random_params(cfg)
    prompts = np.ones((batch, PROMPT), np.int32)

    def draw(new: int):
        sampling = SamplingConfig(new, (-1,))
        arguments = (decoder, sampling, {"params": params}, prompts, prompts, jax.random.key(0))
        return lambda: sample(*arguments).tokens

    first, long = _timed(draw(1 + args.new))
    _, short = _timed(draw(1))
    each = max(long - short, 1e-9) / args.new
    least = _bytes_a_token(cfg, params, batch, PROMPT + args.new / 2) / device.bandwidth
    yield _line(
        *("rollouts", f"batch {batch}", round(batch / each), "tokens/s"),
        share=round(least / each, 3), bound="bandwidth", first=first,
    )  # fmt: skip


def _bytes_a_token(cfg: DecoderConfig, params, batch: int, context: float) -> float:
    """What has to be read for a token of every row: all weights but an embedding that is looked up
    only, and the keys and values of a context of this length."""
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    if not cfg.tie_embeddings:
        weights -= params["embed"]["embedding"].nbytes
    cached = 2 * cfg.layers * cfg.kv_heads * cfg.head_dim * jnp.dtype(cfg.dtype).itemsize
    return weights + batch * context * cached


def _updates(cfg: DecoderConfig, device: Device) -> Iterator[dict]:
    """An update of a slot, and beside it one of an adapter on the same rows."""
    parser = argparse.ArgumentParser()
    step_flags(parser, rows=ROWS, time=TIME, scored=SCORED, rank=RANK, remat="full")
    contestants, programs = steps_of(parser.parse_args([]), cfg)
    first, seeding = _timed(contestants["seeding"])
    # As a forecast counts them: forward, and backward to the activations; the head four times.
    needed = model_flops(cfg, tokens=ROWS * TIME, keys=TIME / 2, scored=4 * ROWS * SCORED, passes=2)
    yield _line(
        *("update", f"{ROWS} rows of {TIME} tokens", round(seeding, 4), "s"),
        share=round(needed / seeding / device.flops, 3), bound="peak", first=first,
    )  # fmt: skip
    first, sft = _timed(contestants["lora sft"])
    yield _line("update", "the same over LoRA SFT", round(seeding / sft, 3), "x", first=first)
    jitted, given = programs["seeding"]
    held = compiled_bytes(jitted, *given)
    yield _line("update", "held, by its compiler", round(held / GIB, 2), "GiB")


def _trials(cfg: DecoderConfig, count: int) -> Iterator[dict]:
    """Dreams that train an adapter each in one program, beside one alone."""
    rng, params = np.random.default_rng(0), random_params(cfg)
    lora = init_lora(cfg, params, jax.random.key(1))

    def train(dreams: int):
        rows = [[((), tuple(rng.integers(0, cfg.vocab, DREAM).tolist()))] for _ in range(dreams)]
        examples = make_examples(rows)
        examples.mask[..., 0] = False  # no row's first token is scored
        trial = TrialConfig(epochs=EPOCHS, microbatch=min(dreams, AT_A_TIME))
        return lambda: train_adapters(cfg, trial, {"params": params}, [lora], examples)[0]

    _, alone = _timed(train(1))
    first, together = _timed(train(count))
    each = round(together / count, 4)
    yield _line("trials", f"m = {count}, a dream", each, "s", first=first)
    yield _line("trials", f"m = {count}, one alone over it", round(alone / each, 2), "x")


def _memory() -> Iterator[dict]:
    stats = jax.devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    value = "not known here" if peak is None else round(peak / GIB, 2)
    yield _line("memory", "held on the device at most", value, "" if peak is None else "GiB")


def _timed(run: Callable[[], object], calls: int = 3) -> tuple[float, float]:
    """Seconds of the first call, which compiles, and of the fastest of the others."""
    seconds = []
    for _ in range(1 + calls):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds[0], min(seconds[1:])


def _measured_flops(size: int = 2048) -> float:
    """Of a product of bfloat16 matrices."""
    x = jnp.ones((size, size), jnp.bfloat16)
    product = jax.jit(lambda x: jnp.matmul(x, x, preferred_element_type=jnp.float32))
    return 2 * size**3 / _timed(lambda: product(x))[1]


def _measured_bandwidth(size: int = 2**28) -> float:
    """Of a pass that reads and writes bytes."""
    x = jnp.zeros(size // 4, jnp.float32)
    step = jax.jit(lambda x: x + 1)
    return 2 * size / _timed(lambda: step(x))[1]


def _line(part: str, what: str, value, unit: str, **more) -> dict:
    if "first" in more:
        more["first"] = round(more["first"], 1)
    return {"part": part, "what": what, "value": value, "unit": unit, **more}
