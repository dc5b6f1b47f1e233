"""What a mixer must satisfy (`models/mixer.py`), of attention and of a recurrence."""

import functools
import json
import os
import subprocess
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sharded_recurrence
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from recurrence import Recurrence

from sleep_jax.data.batches import pad
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory
from sleep_jax.models import sharding
from sleep_jax.models.attention import Attention
from sleep_jax.models.cache import grow, init_cache, take_rows
from sleep_jax.models.decoder import Decoder, lm_logits, run_trunk, unstack_layers
from sleep_jax.models.mixer import MIXERS, SHARED_PREFIX, Axes, get_mixer, register_mixer
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig, prefill, sample
from sleep_jax.wake.context import read
from sleep_jax.wake.stream import WakeConfig, init_wake, read_episode

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 97, (2, 12)).astype(np.int32)
LEVELS = (LevelConfig(16, slots=0, rank=4, learning_rate=0.1), LevelConfig(slots=2, rank=2))
KEY = jax.random.key(0)


@pytest.fixture(scope="module", params=["attention", "recurrence"])
def mixed(request, cfg):
    """(cfg, variables) with random weights; the second of three layers is the first with memory."""
    memory = MemoryConfig(LEVELS, unit="tokens", stride=8, layers=(1, 2), from_context=False)
    cfg = cfg.replace(mixer=request.param, layers=3, memory=memory)
    rngs = {"params": KEY, "memory": KEY}
    params = jax.jit(Decoder(cfg).init)(rngs, TOKENS)["params"]
    params = jax.tree.map(lambda x: x + 0.2 * RNG.normal(size=x.shape).astype(x.dtype), params)
    weights, slots = init_memory(KEY, cfg.memory, layers=cfg.layers, width=cfg.width)
    return cfg, {"params": params, "memory": weights, "slots": slots}


@functools.partial(jax.jit, static_argnames="cfg")
def hidden_of(cfg, variables, tokens, segment_ids=None):
    return Decoder(cfg).apply(variables, tokens, segment_ids)


@functools.partial(jax.jit, static_argnames="cfg")
def go_on(cfg, variables, cache, tokens, segment_ids):
    hidden, grown = Decoder(cfg).apply(
        {**variables, "cache": cache}, tokens, segment_ids, mutable=["cache"]
    )
    return hidden, grown["cache"]


def close(got, want, atol=3e-5):
    np.testing.assert_allclose(got, want, rtol=0, atol=atol)


def test_packed_segments_equal_separate_sequences(mixed):
    segments = np.repeat([[1, 2, -2, 0]], (5, 3, 3, 1), axis=1)
    packed = hidden_of(*mixed, TOKENS[:1], segments)
    for segment in (1, 2, -2):
        of_segment = segments[0] == segment
        close(packed[:, of_segment], hidden_of(*mixed, TOKENS[:1, of_segment]))


def test_segments_above_0_continue_the_shared_prefix(mixed):
    segments = np.repeat([[SHARED_PREFIX, 1, -2, 0, 2, 3]], (3, 2, 2, 1, 2, 2), axis=1)
    packed = hidden_of(*mixed, TOKENS[:1], segments)
    prefix = TOKENS[:1, segments[0] == SHARED_PREFIX]
    for segment in (1, 2, 3, -2):
        of_segment = segments[0] == segment
        sequence = TOKENS[:1, of_segment]
        if segment > 0:
            sequence = np.concatenate([prefix, sequence], axis=1)
        close(packed[:, of_segment], hidden_of(*mixed, sequence)[:, -of_segment.sum() :])


def test_output_depends_on_earlier_tokens_of_its_segment_only(mixed):
    segments = np.repeat([[1, 2, 0]], (5, 5, 2), axis=1)
    other = TOKENS[:1].copy()
    other[:, [4, 7, 10]] += 1
    a, b = (np.asarray(hidden_of(*mixed, t % 97, segments))[0] for t in (TOKENS[:1], other))
    is_same = (a == b).all(axis=-1)
    assert is_same.tolist()[:10] == [True] * 4 + [False] + [True] * 2 + [False] * 3
    assert np.isfinite(a).all()


@pytest.mark.parametrize("pieces", [(5, 4, 3), (1,) * 12])
def test_reading_in_pieces_equals_reading_at_once(mixed, pieces):
    """With padding in between, and segments that go on in the next piece."""
    segments = np.array(
        [[1] * 6 + [0] + [1] * 5, [SHARED_PREFIX] * 3 + [0, 2, 2, 0, 0, -2, 3, 3, 3]]
    )
    cache = init_cache(mixed[0], 2, 12)
    out, ends = [], np.cumsum(pieces)
    for start, end in zip(ends - pieces, ends):
        hidden, cache = go_on(*mixed, cache, TOKENS[:, start:end], segments[:, start:end])
        out.append(hidden)
    got, want = np.concatenate(out, axis=1), hidden_of(*mixed, TOKENS, segments)
    close(got[segments != 0], np.asarray(want)[segments != 0])


def test_unrolled_layers_leave_the_same_cache(mixed):
    cfg, variables = mixed
    unrolled = cfg.replace(scan_layers=False)
    ones = np.ones_like(TOKENS)
    want = go_on(cfg, variables, init_cache(cfg, 2, 12), TOKENS, ones)
    variables = unstack_layers(cfg, variables)
    got = go_on(unrolled, variables, init_cache(unrolled, 2, 12), TOKENS, ones)
    jax.tree.map(close, got, (want[0], unstack_layers(cfg, {"cache": want[1]})["cache"]))


@pytest.mark.slow
def test_rows_that_were_picked_repeated_and_grown_go_on_as_before(mixed):
    cfg, variables = mixed
    documents, ones = TOKENS[:, :8], np.ones((2, 8), np.int32)
    cache, _ = prefill(cfg, variables, documents, ones)
    cache = grow(cfg, take_rows(cfg, cache, [1, 0, -1]), 4, repeats=2)
    rows = [1, 1, 0, 0, 1, 1]
    more = RNG.integers(0, 97, (6, 4)).astype(np.int32)
    got, _ = go_on(cfg, variables, cache, more, np.ones_like(more))
    want = hidden_of(cfg, variables, np.concatenate([documents[rows], more], axis=1))
    close(got, want[:, 8:])


def test_going_on_from_the_trunk_equals_the_whole(mixed):
    segments = np.repeat([[SHARED_PREFIX, 1, 2, 0]], (3, 4, 3, 2), axis=1).repeat(2, axis=0)
    trunk = run_trunk(*mixed, TOKENS, segments)
    got = jax.jit(Decoder(mixed[0]).apply)(mixed[1], TOKENS, segments, trunk)
    close(got, hidden_of(*mixed, TOKENS, segments))


@pytest.mark.slow
def test_recomputed_layers_have_the_same_gradients(mixed):
    @functools.partial(jax.jit, static_argnames="cfg")
    def gradients(cfg, variables):
        def loss(params):
            return (Decoder(cfg).apply(variables | {"params": params}, TOKENS) ** 2).mean()

        return jax.grad(loss)(variables["params"])

    cfg, variables = mixed
    want = gradients(cfg.replace(remat="none"), variables)
    jax.tree.map(functools.partial(close, atol=1e-4), gradients(cfg, variables), want)
    assert min(np.abs(g).max() for g in jax.tree.leaves(want["layers"][cfg.mixer])) > 0


@pytest.mark.parametrize("scan", [True, False])
def test_sampling_step_by_step_equals_the_whole_sequence(mixed, scan):
    cfg, variables = mixed
    prompts = [RNG.integers(0, 97, n).tolist() for n in (3, 5)]
    config = SamplingConfig(5, (), num_generations=2)
    out = sample(
        cfg.replace(scan_layers=scan), config, variables, *pad(prompts, 6, side="left"), KEY
    )
    for row, tokens in enumerate(np.asarray(out.tokens)):
        prompt = prompts[row // 2]
        hidden = hidden_of(cfg, variables, np.array([[*prompt, *tokens]]))[0]
        logits = lm_logits(cfg, variables["params"], hidden)[len(prompt) - 1 : -1]
        want = jax.nn.log_softmax(logits)[np.arange(5), tokens]
        close(out.log_probs[row], want, atol=1e-4)


@pytest.mark.slow
def test_completions_continue_the_context_that_was_read(mixed):
    cfg, variables = mixed
    documents = [RNG.integers(0, 97, n).tolist() for n in (9, 4)]
    prompts = [RNG.integers(0, 97, 3).tolist() for _ in range(3)]
    config = SamplingConfig(4, (), temperature=0.0)
    context, _, _ = read(cfg, variables, [*documents, ()])
    picked = [1, 0, 2]
    got = generate(cfg, config, variables, prompts, KEY, context=context, documents=picked)
    whole = [[*[*documents, []][i], *prompt] for i, prompt in zip(picked, prompts)]
    want = generate(cfg, config, variables, whole, KEY)
    for [a], [b] in zip(got, want):
        assert a.tokens == b.tokens
        close(a.log_probs, b.log_probs, atol=1e-4)


def test_reset_forgets_what_was_read_where_it_is_new(mixed):
    cfg, variables = mixed
    mixer = get_mixer(cfg.mixer)
    first = np.repeat([[SHARED_PREFIX, 1]], (3, 9), axis=1).repeat(2, axis=0)
    _, cache = go_on(cfg, variables, init_cache(cfg, 2, 24), TOKENS, first)
    progress = {name: cache[name] for name in mixer.progress_axes}
    ones = np.ones_like(TOKENS)
    again, _ = go_on(cfg, variables, cache | mixer.reset(progress, True), TOKENS, ones)
    close(again, hidden_of(cfg, variables, TOKENS))
    jax.tree.map(np.testing.assert_array_equal, mixer.reset(progress, False), progress)


@pytest.mark.slow
def test_stream_starts_anew_at_every_episode(mixed):
    """Two episodes, the second of which begins within a stride, as each by itself."""
    cfg, variables = mixed
    frozen = cfg.replace(memory=MemoryConfig(
        (LevelConfig(16, slots=0, rank=4), LEVELS[1]), unit="tokens", stride=8, layers=(1, 2),
        from_context=False,
    ))  # fmt: skip
    config = WakeConfig(context=64)
    state = init_wake(frozen, config, variables["memory"])
    episodes = [RNG.integers(0, 97, n).astype(np.int32) for n in (20, 28)]
    losses = []
    for tokens in episodes:
        state, new = read_episode(frozen, config, variables, state, tokens)
        losses.extend(new)
    sums = np.zeros(48)
    for start, tokens in zip((0, 20), episodes):
        logits = lm_logits(cfg, variables["params"], hidden_of(cfg, variables, tokens[None]))[0]
        table = np.asarray(jax.nn.log_softmax(logits))
        sums[start + 1 : start + len(tokens)] = -table[np.arange(len(tokens) - 1), tokens[1:]]
    counts = np.ones(48)
    counts[[0, 20]] = 0  # the first token of an episode is not predicted
    want = sums.reshape(6, 8).sum(1) / counts.reshape(6, 8).sum(1)
    close(losses, want, atol=1e-4)


@pytest.mark.slow
def test_stream_learns_by_day(mixed):
    cfg, variables = mixed
    state = init_wake(cfg, WakeConfig(context=64), variables["memory"])
    tokens = RNG.integers(0, 97, 40).astype(np.int32)
    state, losses = read_episode(cfg, WakeConfig(context=64), variables, state, tokens)
    assert int(state.updates["level_1"]) == 2 and np.isfinite(losses).all()
    assert np.abs(state.wake["level_1"]["down"]).max() > 0


def test_every_array_of_a_cache_has_one_sharding_rule(mixed):
    cfg, variables = mixed
    mesh = AbstractMesh((1, 2, 2), sharding.AXES, (AxisType.Auto,) * 3)
    for form in (cfg, cfg.replace(scan_layers=False)):
        for name in ("cache", "wake/context"):
            sharding.shardings(jax.eval_shape(lambda: init_cache(form, 2, 16)), name, mesh)  # noqa: B023
    specs = sharding.shardings(variables["params"], "params", mesh)
    if cfg.mixer == "recurrence":
        initial = specs["layers"]["recurrence"]["initial"].spec
        assert initial == PartitionSpec(None, "tensor")


def test_register_mixer_refuses_a_name_that_is_taken():
    register_mixer("attention", Attention)  # the same once more
    with pytest.raises(ValueError, match="mixer 'attention' is Attention already"):
        register_mixer("attention", Recurrence)
    with pytest.raises(ValueError, match="mixer 'my mixer': the name is that of a module"):
        register_mixer("my mixer", Recurrence)


def test_register_mixer_refuses_an_array_with_other_axes():
    class Other(Recurrence):
        progress_axes: ClassVar[Axes] = {"segment_ids": ()}

    with pytest.raises(ValueError, match="progress array 'segment_ids' has the axes"):
        register_mixer("other", Other)
    assert "other" not in MIXERS


def test_config_refuses_a_mixer_that_is_not_registered(cfg):
    with pytest.raises(ValueError, match=r"mixer='hope'; choose from attention, .*register"):
        cfg.replace(mixer="hope")


def test_recurrent_state_does_not_grow(cfg):
    cfg = cfg.replace(mixer="recurrence")
    shapes = jax.eval_shape(lambda: (init_cache(cfg, 2, 16), init_cache(cfg, 2, 1024)))
    assert jax.tree.leaves(shapes[0]) == jax.tree.leaves(shapes[1])
    assert jnp.asarray(Recurrence.is_full({}, 10**9)).item() is False


@pytest.mark.slow
def test_recurrence_on_8_devices_equals_one_device():
    devices = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, sharded_recurrence.__file__],
        env=os.environ | devices,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert max(out["difference"]) < 1e-4
    assert out["spec"] == str(PartitionSpec(None, ("data", "fsdp"), "tensor"))
