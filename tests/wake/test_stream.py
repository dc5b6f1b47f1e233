"""Eq. 2: what learns, when, by which gradient, and what it must not see."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import close, differ, gradient_by_hand, same, surprise, updated_by_hand

from sleep_jax.errors import UnrecoverableError
from sleep_jax.memory.memory_config import OPTIMIZERS, LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory, put_slot, put_wake, take_slot, take_wake, unlock
from sleep_jax.wake import stream
from sleep_jax.wake.stream import (
    WakeConfig,
    apply_due,
    check_updates,
    init_wake,
    read_episode,
    read_sessions,
    read_strides,
)

STRIDE = 8
PERIODS = {"tokens": (16, 32), "updates": (2, 4), "episodes": (2, 4)}
TOKENS = np.random.default_rng(0).integers(0, 97, 400).astype(np.int32)
WAKE = WakeConfig(context=32)


@pytest.fixture(autouse=True, scope="module")
def one_program():
    """Strides are read by fours, so a config has one program to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "MAX_STRIDES", 4)
        yield


def three_levels(unit="tokens", periods=None, rate=0.02, layers="all", optimizer="sgd"):
    """Two levels that learn and one that is the base."""
    fast, slow = periods or PERIODS[unit]
    levels = (
        LevelConfig(fast, slots=0, rank=4, learning_rate=rate, optimizer=optimizer),
        LevelConfig(slow, slots=4, rank=3, learning_rate=rate / 2, optimizer=optimizer),
        LevelConfig(slots=2, rank=2),
    )
    return MemoryConfig(levels, unit=unit, stride=STRIDE, layers=layers, from_context=False)


def noise(tree, seed, scale=0.3):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), tree)


@pytest.fixture(scope="module")
def setting(cfg, variables):
    """memory config -> (cfg, base): nonzero wake weights and a sealed slot of level 2."""

    def make(memory):
        changed = cfg.replace(memory=memory, remat="none")
        weights, slots = init_memory(jax.random.key(1), memory, layers=cfg.layers, width=cfg.width)
        weights = put_wake(weights, noise(take_wake(weights), 2))
        if memory.depth > 1:
            slots, index = unlock(slots, 2)
            weights = put_slot(weights, 2, index, noise(take_slot(weights, 2, index), 3))
        params = dict(variables["params"])
        stacked = params.pop("layers")
        for name, layers in changed.stacks.items():
            part = slice(layers.start, layers.stop)
            params[name] = jax.tree.map(lambda x, part=part: x[part], stacked)
        return changed, {"params": params, "memory": weights, "slots": slots}

    return functools.cache(make)


def strides_of(tokens, ticks=STRIDE):
    """Whole strides of episode 1 and their ticks, as `read_strides` takes them."""
    rows = np.reshape(tokens, (-1, STRIDE))
    strides = np.stack([rows, np.ones_like(rows)], axis=1)
    return strides, np.full(len(rows), ticks, np.int32)


@pytest.mark.parametrize("unit", PERIODS)
def test_levels_update_at_their_period_and_never_between(setting, unit):
    cfg, base = setting(three_levels(unit))
    state = init_wake(cfg, WAKE, base["memory"])
    seen = {"level_1": [], "level_2": []}
    for j in range(9):  # one stride at a time; where episodes count, each is one
        before = state
        piece = TOKENS[STRIDE * j : STRIDE * (j + 1)]
        state, _ = read_episode(cfg, WAKE, base, state, piece, is_end=unit == "episodes")
        for name, when in seen.items():
            if differ(state.wake[name], before.wake[name]):
                when.append(j)
            else:
                same(state.wake[name], before.wake[name])
            assert state.updates[name] == len(when)
            period = {"level_1": 2, "level_2": 4}[name]
            assert state.is_due[name] == ((j + 1) % period == 0)
        if unit != "episodes":  # the context is wiped when its 32 tokens are full
            assert state.context["index"] == STRIDE * (j % 4 + 1)
    # An update that is due after stride j is applied when the next one begins.
    assert seen == {"level_1": [2, 4, 6, 8], "level_2": [4, 8]}
    assert state.clock == 9 * (STRIDE if unit == "tokens" else 1)
    assert check_updates(cfg.memory, state) == {"level_1": 4, "level_2": 2}


@pytest.mark.parametrize(
    ("clip", "is_active", "layers"), [(0.7, True, "all"), (np.inf, False, (1,))]
)
@pytest.mark.slow
def test_first_update_is_a_clipped_step_along_the_mean_gradient(setting, clip, is_active, layers):
    cfg, base = setting(three_levels(periods=(8, 32), layers=layers))
    wake = WakeConfig(context=STRIDE, max_grad_norm=clip)
    initial = init_wake(cfg, wake, base["memory"])
    # Layers below the first that carries memory have no weights here.
    depth = {"all": 2, (1,): 1}[layers]
    assert {x.shape[0] for x in jax.tree.leaves((initial.wake, initial.gradient))} == {depth}
    state, _ = read_episode(cfg, wake, base, initial, TOKENS[:16])
    gradient = gradient_by_hand(cfg, base, take_wake(base["memory"]), TOKENS[:8])
    want, is_clipped = updated_by_hand(
        initial.wake["level_1"], gradient["level_1"], scored=7, rate=0.02, clip=clip
    )
    assert is_clipped == is_active
    step, moved = (
        jax.tree.map(lambda a, b: a - b, after, initial.wake["level_1"])
        for after in (want, state.wake["level_1"])
    )
    close(moved, step, rtol=1e-2, atol=1e-6)
    assert state.updates == {"level_1": 1, "level_2": 0}
    same(state.wake["level_2"], initial.wake["level_2"])


def test_window_sums_the_gradients_of_its_strides(setting):
    cfg, base = setting(three_levels(periods=(8, 32)))
    wake = WakeConfig(context=STRIDE, max_grad_norm=0.7)  # every stride is its own context
    initial = init_wake(cfg, wake, base["memory"])
    first, _ = read_episode(cfg, wake, base, initial, TOKENS[:8], is_end=False)
    state, losses = read_episode(cfg, wake, base, first, TOKENS[8:16])
    # Of the second stride every token is scored: the last of the first is its first input.
    weights = apply_due(cfg.memory, wake, first).wake  # level 1 has learnt in between
    one = gradient_by_hand(cfg, base, initial.wake, TOKENS[:8])
    other = gradient_by_hand(cfg, base, weights, TOKENS[7:16])
    total = jax.tree.map(jnp.add, one, other)
    close(state.gradient["level_2"], total["level_2"], rtol=1e-3, atol=1e-3)
    close(state.gradient["level_1"], other["level_1"], rtol=1e-3, atol=1e-3)
    assert state.scored == {"level_1": 8, "level_2": 15}
    want = surprise(cfg, base, weights, TOKENS[7:16]).mean()
    np.testing.assert_allclose(losses, [want], rtol=1e-4)


def test_nine_strides_by_hand(setting):
    """Both levels over nine strides: eight updates of the fast one, two of the slow one."""
    cfg, base = setting(three_levels(periods=(8, 32)))
    wake = WakeConfig(context=STRIDE, max_grad_norm=0.7)
    state, losses = read_episode(cfg, wake, base, init_wake(cfg, wake, base["memory"]), TOKENS[:72])
    weights = jax.tree.map(np.asarray, take_wake(base["memory"]))
    zeros = jax.tree.map(np.zeros_like, weights)
    windows, scored, want = dict(zeros), dict.fromkeys(weights, 0), []
    for j in range(9):
        for name, period, rate in (("level_1", 1, 0.02), ("level_2", 4, 0.01)):
            if j and j % period == 0:
                weights[name], _ = updated_by_hand(
                    weights[name], windows[name], scored[name], rate, clip=0.7
                )
                windows[name], scored[name] = zeros[name], 0
        piece = TOKENS[max(STRIDE * j - 1, 0) : STRIDE * (j + 1)]
        want.append(surprise(cfg, base, weights, piece).mean())
        windows = jax.tree.map(np.add, windows, gradient_by_hand(cfg, base, weights, piece))
        scored = {name: n + len(piece) - 1 for name, n in scored.items()}
    np.testing.assert_allclose(losses, want, rtol=1e-4)
    close(state.wake, weights, atol=1e-5)
    close(state.gradient, windows, rtol=1e-2, atol=1e-2)
    assert state.scored == scored == {"level_1": 8, "level_2": 8}
    assert state.updates == {"level_1": 8, "level_2": 2}


def test_gradient_flows_through_the_stride_and_not_its_context(setting):
    """Against differences of the loss, with the keys and values of the first stride fixed."""
    cfg, base = setting(three_levels())
    initial = init_wake(cfg, WAKE, base["memory"])
    read = functools.partial(read_episode, cfg, WAKE, base, is_end=False)
    first, _ = read(initial, TOKENS[:8])
    second, _ = read(first, TOKENS[8:16])
    gradient = jax.tree.map(jnp.subtract, second.gradient, first.gradient)
    for seed in range(3):
        along = noise(first.wake, seed, scale=1e-3)
        steps = (
            jax.tree.map(lambda w, v, sign=sign: w + sign * v, first.wake, along)
            for sign in (1, -1)
        )
        up, down = (read(first.replace(wake=wake), TOKENS[8:16])[1][0] for wake in steps)
        slope = sum(np.vdot(g, v) for g, v in zip(*map(jax.tree.leaves, (gradient, along))))
        np.testing.assert_allclose(STRIDE * (up - down) / 2, slope, rtol=0.02, atol=1e-4)


@pytest.mark.slow
def test_losses_without_learning_equal_a_plain_pass(setting):
    """A context of 44 tokens holds five strides and is wiped before the sixth."""
    cfg, base = setting(three_levels(rate=0.0))
    wake = WakeConfig(context=44)
    initial = init_wake(cfg, wake, base["memory"])
    state, losses = read_episode(cfg, wake, base, initial, TOKENS[:64])
    one = surprise(cfg, base, initial.wake, TOKENS[:40])
    other = surprise(cfg, base, initial.wake, TOKENS[39:64])  # the last token is read again
    want = [one[:7].mean(), *one[7:].reshape(4, 8).mean(1), *other.reshape(3, 8).mean(1)]
    np.testing.assert_allclose(losses, want, rtol=1e-4)
    assert state.context["index"] == 24
    # A rate of zero counts updates but changes nothing.
    same(state.wake, initial.wake)
    assert state.updates == {"level_1": 3, "level_2": 1}


def test_single_level_reads_and_learns_nothing(setting):
    memory = MemoryConfig((LevelConfig(slots=1, rank=2),), "tokens", STRIDE)
    cfg, base = setting(memory)
    initial = init_wake(cfg, WAKE, base["memory"])
    state, losses = read_episode(cfg, WAKE, base, initial, TOKENS[:35])
    want = surprise(cfg, base, {}, TOKENS[:32])
    want = [want[:7].mean(), *want[7:].reshape(3, 8).mean(1)]
    np.testing.assert_allclose(losses, want, rtol=1e-4)
    assert state.wake == state.gradient == state.updates == {} and state.clock == 32
    assert check_updates(cfg.memory, state) == {}


def test_read_uses_and_changes_the_weights_of_the_state_only(setting):
    """The wake weights of the base are not looked at; the base is as it was."""
    cfg, base = setting(three_levels())
    before = jax.tree.map(np.array, base)
    initial = init_wake(cfg, WAKE, base["memory"])
    want = read_episode(cfg, WAKE, base, initial, TOKENS[:40])
    same(base, before)
    unread = jax.tree.map(lambda x: x * jnp.nan, take_wake(base["memory"]))
    other = base | {"memory": put_wake(base["memory"], unread)}
    same(read_episode(cfg, WAKE, other, initial, TOKENS[:40]), want)
    without_slots = base | {"slots": jax.tree.map(jnp.zeros_like, base["slots"])}
    assert differ(
        read_episode(cfg, WAKE, without_slots, initial, TOKENS[:40])[0].wake, want[0].wake
    )


def test_accumulators_are_float32_for_a_bfloat16_base(setting):
    cfg, base = setting(three_levels())
    cfg = cfg.replace(dtype=jnp.bfloat16)
    weights = put_wake(base["memory"], jax.tree.map(jnp.bfloat16, take_wake(base["memory"])))
    initial = init_wake(cfg, WAKE, weights)
    state, _ = jax.eval_shape(
        functools.partial(read_strides, cfg, WAKE), base, initial, *strides_of(TOKENS[:16])
    )
    for tree in (initial, state):
        leaves = jax.tree.leaves((tree.wake, tree.gradient))
        assert all(x.dtype == jnp.float32 for x in leaves)
    assert initial.context["layers"]["attention"]["key"].dtype == jnp.bfloat16


EPISODES = (19, 37, 8, 30, 5)  # tokens each
CUTS = {
    "halves": lambda n: (n // 2,),
    "at strides": lambda n: tuple(range(STRIDE, n, STRIDE)),
    "here and there": lambda n: (1, 2, max(2, n - 9), n - 1),
    "an empty piece": lambda n: (3, 3),
}


def read_in_pieces(cfg, base, cuts, wake=WAKE):
    """All EPISODES, each cut at the tokens that `cuts` says: (state, losses of each episode)."""
    state, losses, start = init_wake(cfg, wake, base["memory"]), [], 0
    for n in EPISODES:
        tokens = TOKENS[start : start + n]
        edges, of_episode = [0, *cuts(n), n], []
        for i, (left, right) in enumerate(itertools.pairwise(edges)):
            is_end = i == len(edges) - 2
            state, new = read_episode(cfg, wake, base, state, tokens[left:right], is_end=is_end)
            of_episode.append(new)
        losses.append(np.concatenate(of_episode))
        start += n
    return state, losses


@pytest.fixture(params=[*PERIODS, "adam", "muon"], scope="module")
def at_once(request, setting):
    """(cfg, base, what reading EPISODES in one piece each gives)."""
    unit = request.param
    memory = three_levels(unit) if unit in PERIODS else three_levels(optimizer=unit)
    cfg, base = setting(memory)
    return cfg, base, read_in_pieces(cfg, base, lambda n: ())


@pytest.mark.parametrize("cuts", CUTS)
def test_segmentation_does_not_change_updates_bitwise(at_once, cuts):
    cfg, base, want = at_once
    assert all(n > 0 for n in want[0].updates.values())
    same(read_in_pieces(cfg, base, CUTS[cuts]), want)


def test_end_of_an_episode_may_come_without_a_token(at_once):
    """The last tokens are read before it is known that they are the last."""
    cfg, base, want = at_once
    same(read_in_pieces(cfg, base, lambda n: (n,)), want)


@pytest.mark.slow
def test_number_of_strides_a_program_does_not_change_the_result(setting, monkeypatch):
    cfg, base = setting(three_levels())
    want = read_in_pieces(cfg, base, lambda n: ())
    monkeypatch.setattr(stream, "MAX_STRIDES", 32)  # the longest episode is five strides
    same(read_in_pieces(cfg, base, lambda n: ()), want)


@pytest.mark.parametrize("token", [3, 16, 31])
def test_token_changes_later_losses_only(setting, token):
    cfg, base = setting(three_levels())
    initial = init_wake(cfg, WAKE, base["memory"])
    other = TOKENS[:72].copy()
    other[token] = (other[token] + 1) % 97
    want_state, want = read_episode(cfg, WAKE, base, initial, TOKENS[:72])
    got_state, got = read_episode(cfg, WAKE, base, initial, other)
    first = token // STRIDE
    np.testing.assert_array_equal(got[:first], want[:first])
    # Strides beyond the context (four strides) see it through the weights alone.
    assert np.all(got[first:] != want[first:])
    assert differ(got_state.wake, want_state.wake)


@pytest.mark.parametrize("unit", ["tokens", "episodes"])
@pytest.mark.slow
def test_episodes_do_not_see_each_other(setting, unit):
    """With weights that stay, an episode is the same whatever was read before."""
    # No update comes due in the first two episodes; where tokens count, none changes anything.
    memory, context = (three_levels(unit), 32) if unit == "episodes" else (three_levels(rate=0), 44)
    cfg, base = setting(memory)
    wake = WakeConfig(context=context)
    first, other, episode = TOKENS[:12], TOKENS[100:112], TOKENS[200:220]
    initial = init_wake(cfg, wake, base["memory"])
    read = functools.partial(read_episode, cfg, wake, base)
    (_, one), (_, two) = (read(read(initial, before)[0], episode) for before in (first, other))
    alone = surprise(cfg, base, initial.wake, episode)
    if unit == "episodes":
        want = [alone[:7], alone[7:15], alone[15:]]
    else:  # the first stride also holds what was left of the episode before
        want, one, two = [alone[3:11], alone[11:]], one[1:], two[1:]
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, [nats.mean() for nats in want], rtol=1e-4)


def test_first_token_of_an_episode_is_not_scored(setting):
    cfg, base = setting(three_levels(rate=0.0))
    wake = WakeConfig(context=44)
    initial = init_wake(cfg, wake, base["memory"])
    strides, ticks = strides_of(TOKENS[:32])
    strides[1, 1, 4:] = strides[2, 1] = 2  # the second episode begins inside a stride,
    strides[3, 1] = 3  # the third with one
    _, (nats, scored) = read_strides(cfg, wake, base, initial, strides, ticks)
    np.testing.assert_array_equal(scored, [7, 7, 8, 7])
    one, two, three = (
        surprise(cfg, base, initial.wake, TOKENS[left:right])
        for left, right in ((0, 12), (12, 24), (24, 32))
    )
    want = [one[:7].sum(), one[7:].sum() + two[:3].sum(), two[3:].sum(), three.sum()]
    np.testing.assert_allclose(nats, want, rtol=1e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pending_update_is_applied_with_the_next_stride(setting, optimizer):
    cfg, base = setting(three_levels(optimizer=optimizer))
    initial = init_wake(cfg, WAKE, base["memory"])
    read = functools.partial(read_episode, cfg, WAKE, base, is_end=False)
    pending, _ = read(initial, TOKENS[:16])
    pending, _ = read(pending, TOKENS[16:23])  # no stride yet
    assert pending.is_due == {"level_1": True, "level_2": False}
    assert pending.updates == {"level_1": 0, "level_2": 0}
    same((pending.wake, pending.moments), (initial.wake, initial.moments))
    after, _ = read(pending, TOKENS[23:24])
    assert after.is_due == {"level_1": False, "level_2": False}
    assert after.updates == {"level_1": 1, "level_2": 0}
    # What a night would apply is what the stride applied, and a window begins with it.
    night = apply_due(cfg.memory, WAKE, pending)
    close(night.wake, after.wake, rtol=1e-6, atol=1e-6)
    close(night.moments, after.moments, rtol=1e-6, atol=1e-6)
    assert not any(np.any(g) for g in jax.tree.leaves(night.gradient["level_1"]))
    assert night.scored == {"level_1": 0, "level_2": 15}
    same(night.gradient["level_2"], pending.gradient["level_2"])
    assert after.scored == {"level_1": 8, "level_2": 23}
    # Applied once: a second time changes nothing, and the day goes on as if there was no night.
    same(apply_due(cfg.memory, WAKE, night), night)
    later, _ = read(night, TOKENS[23:24])
    close(later.wake, after.wake, rtol=1e-6, atol=1e-6)
    close(later.gradient, after.gradient, rtol=1e-3, atol=1e-3)


def test_strides_of_padding_change_nothing(setting):
    cfg, base = setting(three_levels())
    initial = init_wake(cfg, WAKE, base["memory"])
    strides, ticks = strides_of(TOKENS[:32])
    want, (nats, scored) = read_strides(cfg, WAKE, base, initial, strides, ticks)
    for where in (0, 2, 4):  # at 2 an update is pending
        padded, late = (np.insert(x, where, 0, axis=0) for x in (strides, ticks))
        got, (more, count) = read_strides(cfg, WAKE, base, initial, padded, late)
        same(got, want)
        same((more, count), (np.insert(nats, where, 0), np.insert(scored, where, 0)))
    same(read_strides(cfg, WAKE, base, got, strides * 0, ticks * 0)[0], got)


@pytest.mark.slow
def test_sessions_learn_independently(setting):
    """Three sessions in one batch, each with its weights, clock and context."""
    cfg, base = setting(three_levels())
    sessions, strides, ticks = [], [], []
    for i in range(3):
        memory = put_wake(base["memory"], noise(take_wake(base["memory"]), 20 + i))
        state = init_wake(cfg, WAKE, memory)
        part, tick = strides_of(TOKENS[100 * i : 100 * i + 32])
        for j in range(4 - i, 4):  # a session that is done waits
            part[j], tick[j] = 0, 0
        sessions.append(state), strides.append(part), ticks.append(tick)

    def together(strides):
        state = jax.tree.map(lambda *x: jnp.stack(x), *sessions)
        return read_sessions(cfg, WAKE, base, state, np.stack(strides), np.stack(ticks))

    got = together(strides)
    for i in range(3):
        alone = read_strides(cfg, WAKE, base, sessions[i], strides[i], ticks[i])
        of_episode = jax.tree.map(lambda x, i=i: x[i], got)
        close(of_episode[0].wake, alone[0].wake, rtol=1e-5, atol=1e-6)
        close(of_episode[1], alone[1], rtol=1e-5)
        for count in ("scored", "is_due", "updates", "clock", "last"):
            same(getattr(of_episode[0], count), getattr(alone[0], count))
        assert of_episode[0].clock == STRIDE * (4 - i)
    other = [part.copy() for part in strides]
    other[1][0, 0] = (other[1][0, 0] + 1) % 97
    changed = together(other)
    before, after = (
        [jax.tree.map(lambda x, i=i: x[i], p) for i in range(3)] for p in (got, changed)
    )
    same((before[0], before[2]), (after[0], after[2]))
    assert differ(before[1][0].wake["level_1"], after[1][0].wake["level_1"])


def test_check_updates_raises_for_a_level_that_never_learnt(setting):
    cfg, base = setting(three_levels())
    state = init_wake(cfg, WAKE, base["memory"])
    state, _ = read_episode(cfg, WAKE, base, state, TOKENS[:26])
    says = "level_2 has never learnt: its period is 32 tokens, the stream so far is 24 tokens long"
    with pytest.raises(UnrecoverableError, match=says):
        check_updates(cfg.memory, state)
    still = dataclasses.replace(cfg.memory.levels[1], learning_rate=0.0)
    levels = (cfg.memory.levels[0], still, cfg.memory.levels[2])
    memory = dataclasses.replace(cfg.memory, levels=levels)
    assert check_updates(memory, state) == {"level_1": 1, "level_2": 0}
    # One that is pending counts.
    state, _ = read_episode(cfg, WAKE, base, state, TOKENS[26:32])
    assert state.is_due["level_2"] and not state.updates["level_2"]
    assert check_updates(cfg.memory, state) == {"level_1": 2, "level_2": 1}


@pytest.mark.parametrize("unit", ["tokens", "updates"])
def test_level_may_update_several_times_in_a_period(setting, unit):
    """As with the shorter periods, which are whole windows."""
    whole = three_levels(unit)
    parts = tuple(
        dataclasses.replace(level, period=4 * level.period, updates_per_period=4)
        for level in whole.levels[:2]
    )
    parts = dataclasses.replace(whole, levels=(*parts, whole.levels[2]))
    (cfg, base), (other, _) = setting(whole), setting(parts)
    initial = init_wake(cfg, WAKE, base["memory"])
    want, losses = read_episode(cfg, WAKE, base, initial, TOKENS[:72], is_end=False)
    same(read_episode(other, WAKE, base, initial, TOKENS[:72], is_end=False), (want, losses))
    assert want.updates == {"level_1": 4, "level_2": 2}


def test_empty_episode_raises_where_periods_count_episodes(setting):
    cfg, base = setting(three_levels("episodes"))
    initial = init_wake(cfg, WAKE, base["memory"])
    with pytest.raises(ValueError, match="episode 1 ends without a token"):
        read_episode(cfg, WAKE, base, initial, [])
    same(read_episode(cfg, WAKE, base, initial, [], is_end=False)[0], initial)


def test_init_wake_raises_for_a_stride_longer_than_the_context(setting):
    cfg, base = setting(three_levels())
    with pytest.raises(ValueError, match=r"wake\.context=7 holds less than memory\.stride=8"):
        init_wake(cfg, WakeConfig(context=7), base["memory"])


@pytest.mark.parametrize("unit", PERIODS)
def test_read_episode_compiles_once_for_one_length(setting, compilations, unit):
    cfg, base = setting(three_levels(unit))
    state = init_wake(cfg, WAKE, base["memory"])
    read = functools.partial(read_episode, cfg, WAKE, base)
    for i in range(2):
        state, _ = read(state, TOKENS[21 * i : 21 * (i + 1)])
    seen = len(compilations)
    for i in range(2, 8):  # through updates, full contexts and strides of two episodes
        state, _ = read(state, TOKENS[21 * i : 21 * (i + 1)])
    assert len(compilations) == seen
    assert all(n > 0 for n in state.updates.values())
