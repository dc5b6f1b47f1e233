"""Learning while awake (Eq. 2): every level's wake weights learn from the stream, window by window.

    theta_l <- theta_l - eta_l * f(g)       at i = 0 mod C
    g = clip(mean gradient over the window (i - C, i])
    C = C^(l), or a part of it (`memory.updates_per_period`)

The stream is cut into strides. Each gives one gradient of the next-token loss, through the tokens
of that stride alone: what earlier strides left in the context is a constant, written by the weights
of that time. An update that is due is applied when the next stride begins, so a night in between
finds it pending. Only wake weights change; nothing else has a gradient. f is the error term of the
level's optimizer (`error_terms`), whose moments are over windows.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sleep_jax.data.batches import bucket
from sleep_jax.errors import UnrecoverableError
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import level_of, put_wake, take_wake
from sleep_jax.models.cache import init_cache
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.head import masked_sum, token_log_probs
from sleep_jax.models.mixer import get_mixer
from sleep_jax.models.sharding import constrain_tree, to_host
from sleep_jax.settings import Settings, setting
from sleep_jax.wake.error_terms import error_term, learning_rate

MAX_STRIDES = 32  # that one program reads; a longer stream takes several calls


@dataclasses.dataclass(frozen=True)
class WakeConfig(Settings, section="wake"):
    """How a stream is read where a level learns by day.

    The context is reset when the next stride does not fit, and where a stride begins with a new
    episode. An episode that begins within a stride does not see the one before, but shares the
    room of the context with it.
    """

    context: int = setting(1024, "most tokens of the stream that are in its context", least=1)
    max_grad_norm: float = setting(
        1.0, "largest global norm of a level's mean gradient; inf: any", above=0, most=math.inf
    )


@flax.struct.dataclass
class WakeState:
    """The state of the stream: everything that reading changes.

    Attributes:
      wake: the wake weights, {level_l: {gate, up, down}}, float32.
      gradient: their gradient summed over the window.
      moments: the state of each level's optimizer, {level_l: ...}; levels with `sgd` have none.
      scored: per level the tokens in the loss of the window, int32.
      is_due: per level, whether its window is over and the update pending, bool.
      updates: per level the updates so far, int32.
      clock: units of the memory since the start, int32.
      episode: number of the current episode, from 1, int32.
      context: the `cache` collection of one row.
      last: the token read last and its episode, int32 [2]; 0, 0 at the start.
      waiting: tokens that do not yet fill a stride and their episodes, int32 [2, stride].
      num_waiting: how many there are, int32.
    """

    wake: dict
    gradient: dict
    moments: dict
    scored: dict
    is_due: dict
    updates: dict
    clock: jax.Array
    episode: jax.Array
    context: dict
    last: jax.Array
    waiting: jax.Array
    num_waiting: jax.Array


def init_wake(cfg: DecoderConfig, wake: WakeConfig, memory) -> WakeState:
    """The state before the first token.

    Args:
      cfg, wake: static.
      memory: the collection whose wake weights will learn.

    Raises:
      ValueError: a stride does not fit the context.
    """
    stride = cfg.memory.stride
    if stride > wake.context:
        raise ValueError(
            f"wake.context={wake.context} holds less than memory.stride={stride} tokens; raise "
            "wake.context or lower memory.stride"
        )
    weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), take_wake(memory))

    def per_level(value, dtype):
        return {name: jnp.full((), value, dtype) for name in weights}

    return WakeState(
        wake=weights,
        gradient=jax.tree.map(jnp.zeros_like, weights),
        moments=_init_moments(cfg.memory, weights),
        scored=per_level(0, jnp.int32),
        is_due=per_level(False, bool),
        updates=per_level(0, jnp.int32),
        clock=jnp.zeros((), jnp.int32),
        episode=jnp.ones((), jnp.int32),
        context=init_cache(cfg, 1, wake.context),
        last=jnp.zeros((2,), jnp.int32),
        waiting=jnp.zeros((2, stride), jnp.int32),
        num_waiting=jnp.zeros((), jnp.int32),
    )


def _init_moments(memory: MemoryConfig, weights) -> dict:
    """The moments of levels with these wake weights before their first update."""
    terms = {name: error_term(memory.level(level_of(name))) for name in weights}
    moments = {name: term.init(weights[name]) for name, term in terms.items()}
    return {name: state for name, state in moments.items() if jax.tree.leaves(state)}


def forget_moments(memory: MemoryConfig, state: WakeState, level: int) -> WakeState:
    """The state with a level's moments as at the start.

    For a level whose wake weights were drawn anew: its moments are of hidden units that are gone.
    """
    name = f"level_{level}"
    initial = _init_moments(memory, {name: state.wake[name]})
    return state.replace(moments=state.moments | initial)


def apply_due(memory: MemoryConfig, wake: WakeConfig, state: WakeState) -> WakeState:
    """Applies every update that is due (Eq. 2) and begins the next window of its level."""

    def update(name, weights):
        """(weights, moments) of a level after an update."""
        level, moments, scored = memory.level(level_of(name)), state.moments, state.scored[name]
        mean = jax.tree.map(lambda g: g / jnp.maximum(scored, 1), state.gradient[name])
        clip = jnp.minimum(1.0, wake.max_grad_norm / jnp.maximum(optax.tree.norm(mean), 1e-30))
        rate = learning_rate(level, weights)
        if name not in moments:
            step = rate * clip
            return jax.tree.map(lambda w, g: w - step * g, weights, mean), None
        clipped = jax.tree.map(lambda g: clip * g, mean)
        error, moments = error_term(level).update(clipped, moments[name])
        return jax.tree.map(lambda w, f: w - rate * f, weights, error), moments

    def where_due(new, old):
        """The new where a level's update is due, else the old; both {level_l: tree}."""
        due = {name: functools.partial(jnp.where, state.is_due[name]) for name in old}
        return {name: jax.tree.map(due[name], new[name], tree) for name, tree in old.items()}

    updated = {name: update(name, weights) for name, weights in state.wake.items()}
    weights, moments = ({name: pair[i] for name, pair in updated.items()} for i in range(2))
    window = {"gradient": state.gradient, "scored": state.scored}
    new_window = jax.tree.map(jnp.zeros_like, window)
    return state.replace(
        wake=where_due(weights, state.wake),
        moments=where_due(moments, state.moments),
        **{field: where_due(new_window[field], old) for field, old in window.items()},
        is_due={name: jnp.zeros((), bool) for name in state.wake},
        updates={name: state.updates[name] + state.is_due[name] for name in state.wake},
    )


@functools.partial(jax.jit, static_argnames=("cfg", "wake"))
def read_strides(cfg: DecoderConfig, wake: WakeConfig, base, state: WakeState, strides, ticks):
    """Reads whole strides, one after the other, in one program.

    Args:
      cfg, wake: static.
      base: collections params, memory and slots; its wake weights are not read.
      state: of the stream; `waiting` is passed through.
      strides: int32 [n, 2, stride], tokens and their episodes; 0 is padding. A stride of padding
        alone changes nothing.
      ticks: int32 [n], units of the clock that end with each stride.

    Returns:
      (state, (nats, scored)): float32 [n] each: the loss of every stride, summed over its scored
      tokens, and their number.
    """
    mixer = get_mixer(cfg.mixer)

    def loss(weights, context, inputs, targets, mask):
        memory = put_wake(base["memory"], weights)
        hidden, grown = Decoder(cfg).apply(
            {**base, "memory": memory, "cache": context}, inputs[:1], inputs[1:], mutable=["cache"]
        )
        head = lm_head(cfg, base["params"])
        log_probs = token_log_probs(hidden[0], targets, mask, head)
        nats, scored = masked_sum(-log_probs, mask)
        return nats, (scored, grown["cache"])

    def read(state, tick, stride):
        state = apply_due(cfg.memory, wake, state)
        inputs = jnp.concatenate([state.last[:, None], stride[:, :-1]], axis=1)
        targets, episodes = stride
        mask = (inputs[1] == episodes) & (episodes > 0)
        progress = {name: state.context[name] for name in mixer.progress_axes}
        is_new = (episodes[0] != state.last[1]) | mixer.is_full(progress, stride.shape[1])
        context = state.context | mixer.reset(progress, is_new)
        (nats, (scored, context)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.wake, context, inputs, targets, mask
        )
        clock = state.clock + tick
        ends = {
            name: (tick > 0) & (clock % cfg.memory.level(level_of(name)).window == 0)
            for name in state.wake
        }
        state = state.replace(
            gradient=jax.tree.map(jnp.add, state.gradient, gradient),
            scored={name: n + scored.astype(jnp.int32) for name, n in state.scored.items()},
            is_due=ends,
            clock=clock,
            context=context,
            last=stride[:, -1],
        )
        return state, (nats, scored)

    # Strides with tokens come first, and the loop ends with them. A branch around each stride would
    # instead repeat what is the same for all, such as weights in another layout.
    is_filled = jnp.any(strides[:, 1] > 0, axis=-1)
    order = jnp.argsort(~is_filled, stable=True)

    def step(i, carry):
        state, out = carry
        state, new = read(state, ticks[order[i]], strides[order[i]])
        return state, jax.tree.map(lambda a, x: a.at[order[i]].set(x), out, new)

    zeros = (jnp.zeros(len(strides), jnp.float32),) * 2
    state, losses = jax.lax.fori_loop(0, is_filled.sum(), step, (state, zeros))
    return constrain_tree(state, "wake"), losses


def read_sessions(cfg: DecoderConfig, wake: WakeConfig, base, states: WakeState, strides, ticks):
    """`read_strides` of several sessions over one base, each with its wake weights and context:
    states, strides, ticks and the result have a leading axis [sessions]."""
    return jax.vmap(functools.partial(read_strides, cfg, wake, base))(states, strides, ticks)


def padded_strides(count: int) -> int:
    """Strides of a call of `read_strides` that reads `count` of them: few programs."""
    return min(bucket(count, 4), MAX_STRIDES)


def read_episode(
    cfg: DecoderConfig,
    wake: WakeConfig,
    base,
    state: WakeState,
    tokens: Sequence[int],
    *,
    is_end: bool = True,
) -> tuple[WakeState, np.ndarray]:
    """Reads the next tokens of the current episode; how they are cut into calls changes nothing.

    Tokens that do not fill a stride wait in the state for those that follow. Where periods count
    episodes, the end of an episode fills its last stride with padding instead.

    Args:
      cfg, wake, base, state: as for `read_strides`.
      tokens: what comes next.
      is_end: the episode ends with it.

    Returns:
      (state, losses): the loss of every stride read, nats a token, float32 [strides].
    """
    memory, number = cfg.memory, int(state.episode)
    new = np.stack([np.asarray(tokens, np.int32), np.full(len(tokens), number, np.int32)])
    waiting = np.concatenate([np.asarray(state.waiting)[:, : int(state.num_waiting)], new], axis=1)
    n = waiting.shape[1] // memory.stride
    if memory.unit == "episodes":
        if is_end and not waiting.size:
            raise ValueError(f"episode {number} ends without a token; it needs at least one")
        if is_end:
            waiting = np.pad(waiting, ((0, 0), (0, -waiting.shape[1] % memory.stride)))
        # The end may still come without a token, so the stride that ticks waits for it.
        n = -(-waiting.shape[1] // memory.stride) - (not is_end)
        n = max(n, 0)
    whole, rest = np.split(waiting, [n * memory.stride], axis=1)
    strides = whole.reshape(2, n, memory.stride).swapaxes(0, 1)
    ticks = np.full(n, {"tokens": memory.stride, "updates": 1, "episodes": 0}[memory.unit])
    if is_end and memory.unit == "episodes":
        ticks[-1] = 1
    losses = []
    for start in range(0, n, MAX_STRIDES):
        part, tick = (a[start : start + MAX_STRIDES] for a in (strides, ticks))
        fill = padded_strides(len(part)) - len(part)
        part = np.pad(part, ((0, fill), (0, 0), (0, 0)))
        tick = np.pad(tick, (0, fill)).astype(np.int32)
        state, (nats, scored) = read_strides(cfg, wake, base, state, part, tick)
        losses.append(to_host(nats / jnp.maximum(scored, 1))[: len(part) - fill])
    state = state.replace(
        waiting=jnp.asarray(np.pad(rest, ((0, 0), (0, memory.stride - rest.shape[1])))),
        num_waiting=jnp.asarray(rest.shape[1], jnp.int32),
        episode=jnp.asarray(number + is_end, jnp.int32),
    )
    return state, np.concatenate([*losses, np.zeros(0, np.float32)])


def check_updates(memory: MemoryConfig, state: WakeState) -> dict[str, int]:
    """The number of updates of each level so far, pending ones included.

    Raises:
      UnrecoverableError: a level with a learning rate has had none.
    """
    counts = {name: int(n) + int(state.is_due[name]) for name, n in state.updates.items()}
    for name, count in counts.items():
        level = memory.level(level_of(name))
        if level.learning_rate and not count:
            raise UnrecoverableError(
                f"memory {name} has never learnt: its period is {level.period} {memory.unit}, the "
                f"stream so far is {int(state.clock)} {memory.unit} long; shorten the period"
            )
    return counts
