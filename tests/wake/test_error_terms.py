"""The error terms of Eq. 2: by hand, over windows, and what they leave alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import close, differ, same

from sleep_jax.memory.memory_config import OPTIMIZERS, LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory
from sleep_jax.runtime.checkpoints import PhaseCheckpoints
from sleep_jax.setting import AUTO
from sleep_jax.wake.error_terms import RATES, learning_rate
from sleep_jax.wake.stream import WakeConfig, apply_due, forget_moments, init_wake

RATE, CLIP = 0.05, 0.5
WAKE = WakeConfig(context=8, max_grad_norm=CLIP)


def noise(tree, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), tree)


def memory_of(fast, slow="sgd", rate=RATE):
    levels = (
        LevelConfig(8, slots=0, rank=4, learning_rate=rate, optimizer=fast),
        LevelConfig(16, slots=2, rank=3, learning_rate=rate, optimizer=slow),
        LevelConfig(slots=2, rank=2),
    )
    return MemoryConfig(levels, unit="tokens", stride=8, from_context=False)


def initial(cfg, memory):
    """The state before the first token, with nonzero wake weights."""
    weights, _ = init_memory(jax.random.key(1), memory, layers=cfg.layers, width=cfg.width)
    state = init_wake(cfg.replace(memory=memory), WAKE, weights)
    return state.replace(wake=noise(state.wake, 2, 0.3))


def after_windows(memory, state, gradients, scored=7, due=("level_1", "level_2")):
    """The states after each window with one of these summed gradients."""
    states = []
    for gradient in gradients:
        window = {
            "gradient": gradient,
            "scored": dict.fromkeys(state.scored, jnp.int32(scored)),
            "is_due": {name: jnp.bool_(name in due) for name in state.is_due},
        }
        state = apply_due(memory, WAKE, state.replace(**window))
        states.append(state)
    return states


def clipped_mean(gradient, scored=7):
    mean = {name: np.asarray(g, np.float64) / scored for name, g in gradient.items()}
    norm = np.sqrt(sum((g**2).sum() for g in mean.values()))
    return {name: g * min(1, CLIP / norm) for name, g in mean.items()}


def adam_by_hand(gradients):
    """Kingma and Ba 2015, algorithm 1: the step of every update."""
    m, v, steps = 0.0, 0.0, []
    for t, g in enumerate(gradients, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        steps.append(m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.99**t)) + 1e-12))
    return steps


def muon_by_hand(gradients):
    """Jordan 2024: Nesterov momentum, each layer's matrix orthogonalised by five Newton-Schulz
    iterations, here through the singular values that they act on."""
    m, steps = 0.0, []
    for t, g in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * g
        ahead = 0.9 * m / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
        u, s, vt = np.linalg.svd(ahead, full_matrices=False)
        s = s / np.linalg.norm(s, axis=-1, keepdims=True)
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        steps.append(np.sqrt(max(g.shape[-2:])) * (u * s[..., None, :]) @ vt)
    return steps


BY_HAND = {"sgd": lambda gradients: gradients, "adam": adam_by_hand, "muon": muon_by_hand}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_are_those_of_the_optimizer_over_windows(cfg, optimizer):
    """Three windows, the first of which is clipped."""
    memory = memory_of(optimizer)
    state = initial(cfg, memory)
    gradients = [noise(state.gradient, seed, scale) for seed, scale in ((3, 9.0), (4, 0.1), (5, 1))]
    states = after_windows(memory, state, gradients)
    means = [clipped_mean(gradient["level_1"]) for gradient in gradients]
    for leaf, weights in state.wake["level_1"].items():
        want = np.asarray(weights, np.float64)
        for after, step in zip(states, BY_HAND[optimizer]([mean[leaf] for mean in means])):
            want = want - RATE * step
            close(after.wake["level_1"][leaf], want, rtol=1e-3, atol=1e-4)
    assert states[-1].updates == {"level_1": 3, "level_2": 3}


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_step_does_not_depend_on_the_size_of_the_gradient(cfg, optimizer):
    memory = memory_of(optimizer)
    state = initial(cfg, memory)
    steps = []
    for scale in (0.1, 1e-5):
        [after] = after_windows(memory, state, [noise(state.gradient, 3, scale)])
        steps.append(jax.tree.map(jnp.subtract, after.wake["level_1"], state.wake["level_1"]))
    close(*steps, rtol=1e-2, atol=1e-4)
    for step in steps[0].values():  # every entry by about the rate
        assert 0.5 * RATE < np.sqrt(np.mean(np.square(step))) < 1.5 * RATE


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_level_that_is_not_due_and_zero_gradients_stay_bitwise(cfg, optimizer):
    """The gradient of `gate` and `up` is zero while `down` is, and where a layer has no memory."""
    memory = memory_of(optimizer, optimizer)
    state = initial(cfg, memory)
    gradient = noise(state.gradient, 3)
    gradient["level_1"]["gate"] *= 0
    [after] = after_windows(memory, state, [gradient], due=("level_1",))
    same(after.wake["level_2"], state.wake["level_2"])
    same(after.wake["level_1"]["gate"], state.wake["level_1"]["gate"])
    assert differ(after.wake["level_1"]["up"], state.wake["level_1"]["up"])
    if optimizer != "sgd":
        same(after.moments["level_2"], state.moments["level_2"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rate_of_zero_changes_no_weight(cfg, optimizer):
    memory = memory_of(optimizer, optimizer, rate=0.0)
    state = initial(cfg, memory)
    [after] = after_windows(memory, state, [noise(state.gradient, 3)])
    same(after.wake, state.wake)


def test_levels_have_the_moments_of_their_own_optimizer(cfg):
    state = initial(cfg, memory_of("adam", "muon"))
    assert state.moments.keys() == {"level_1", "level_2"}
    assert state.moments["level_1"].nu.keys() == state.wake["level_1"].keys()
    assert initial(cfg, memory_of("sgd")).moments == {}
    assert initial(cfg, memory_of("sgd", "adam")).moments.keys() == {"level_2"}


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_forgotten_moments_make_the_next_update_a_first_one(cfg, optimizer):
    memory = memory_of(optimizer, "adam")
    state = initial(cfg, memory)
    gradients = [noise(state.gradient, seed) for seed in (3, 4)]
    [read, _] = after_windows(memory, state, gradients)
    cleared = forget_moments(memory, read.replace(wake=state.wake), 1)
    same(cleared.moments["level_1"], state.moments["level_1"])
    same(cleared.moments["level_2"], read.moments["level_2"])
    [want] = after_windows(memory, state, gradients[1:])
    [got] = after_windows(memory, cleared, gradients[1:])
    same(got.wake["level_1"], want.wake["level_1"])
    plain = initial(cfg, memory_of("sgd"))
    same(forget_moments(memory_of("sgd"), plain, 1), plain)


def test_moments_are_restored_bitwise(cfg, tmp_path):
    memory = memory_of("adam", "muon")
    state = initial(cfg, memory)
    [state] = after_windows(memory, state, [noise(state.gradient, 3)])
    with PhaseCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(0, "wake", state=state, record={})
        restored, _ = checkpoints.restore(0, jax.eval_shape(lambda: state))
    same(restored, state)
    more = [noise(state.gradient, 4)]
    same(after_windows(memory, restored, more)[0], after_windows(memory, state, more)[0])


def test_checkpoint_from_before_there_were_moments_is_restored(cfg, tmp_path):
    state = initial(cfg, memory_of("sgd"))
    old = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    del old["moments"]
    with PhaseCheckpoints(tmp_path) as checkpoints:
        checkpoints.save(0, "wake", state=old, record={})
        same(checkpoints.restore(0, state)[0], state)
        with pytest.raises(ValueError, match=r"moments\.level_1\.count: absent"):
            checkpoints.restore(0, initial(cfg, memory_of("adam")))


def test_auto_learning_rate_follows_rank_and_width():
    def rate(optimizer, rank, width, given=AUTO):
        level = LevelConfig(8, learning_rate=given, optimizer=optimizer)
        return learning_rate(level, {"gate": jnp.zeros((2, width, rank))})

    for optimizer in ("adam", "muon"):
        assert rate(optimizer, 16, 576) == RATES[optimizer]
        assert rate(optimizer, 64, 2304) == pytest.approx(RATES[optimizer] / 4)
        assert rate(optimizer, 64, 2304, given=0.5) == 0.5
    assert rate("sgd", 64, 2304) == RATES["sgd"]
