"""The one loop that every baseline trains with.

    finetune(model, trainable, loss, batches, optimizer, steps=...)

What a method adds is a loss and where its batches come from:

    SFT, replay    cross-entropy; batches of new (and of old) examples
    EWC            cross-entropy + a penalty on the parameters, whose anchor and Fisher information
                   are arrays of the loss (`jax.tree_util.Partial`)
    SDFT, OPSD     a divergence from a teacher: a frozen `Model` among the arrays of the loss, or
                   hidden states that `batches(step, model)` puts into the batch
    GRPO           a policy gradient; `batches(step, model)` samples and rewards rollouts
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from sleep_jax.baselines.model import Model, Trainable
from sleep_jax.services import MidPhaseCheckpoint

Batch = Any  # a pytree of arrays
Loss = Callable[[Model, Batch, jax.Array], tuple]
Log = Callable[[int, dict[str, float]], None]


@flax.struct.dataclass
class FinetuneState:
    """All that changes from update to update.

    Attributes:
      trained: the part of the variables that is trained.
      opt_state: of the optimizer.
      step: updates done, int32 scalar.
    """

    trained: Any
    opt_state: optax.OptState
    step: jax.Array


def finetune(
    model: Model,
    trainable: Trainable,
    loss: Loss,
    batches: Iterable[Batch] | Callable[[int, Model], Batch],
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    rng: jax.Array | None = None,
    accumulate: int = 1,
    updates_per_call: int = 1,
    log: Log = lambda step, figures: None,
    checkpoint: MidPhaseCheckpoint | None = None,
) -> Model:
    """Trains a part of a model.

    Under a mesh (`jax.set_mesh`) what is trained and its moments lie where the sharding rules have
    them; batches are given whole, the same in every process.

    Args:
      model: where training starts; it stays as it is.
      trainable: what is trained; every other leaf comes back as it was.
      loss: (model, batch, rng) -> (sum, denominator), the loss being sum / denominator; a third
        entry {name: (sum, denominator)} is logged. Only `sum` is differentiated. Arrays that are no
        part of the batch (a teacher, a penalty's anchor) come as leaves of the loss: give a
        `jax.tree_util.Partial`, or an object that is a pytree. Programs are compiled once for a
        function: define it at the top of a module, not in a loop.
      batches: one for each update, pytrees of arrays of the same shapes; from the same beginning
        where `checkpoint` may hold a state. Or a function of the number of the update and the model
        before it, for what the model itself writes; with `updates_per_call` above 1 that is the
        model before the first update of the call. It must not keep that model, whose arrays the
        update writes over.
      optimizer: give the same object for the same settings, or all is compiled anew.
      steps: updates.
      rng: PRNG key; the loss gets `fold_in(rng, step)`. None: key 0.
      accumulate: parts that a batch's rows (leading axes) are cut into, the activations of one
        existing at a time; the update is that of the whole batch.
      updates_per_call: updates in one call of the program. More of them cost less time on the host
        where an update is short.
      log: is given each update's number and figures: `loss`, `gradient_norm`, and the loss's own.
      checkpoint: keeps how far this has got; the end is the same, bit for bit.

    Returns:
      The model after training.

    Raises:
      ValueError: there are fewer batches than steps, nothing to train, or rows that `accumulate`
        does not divide.
      FloatingPointError: a loss or gradient is not finite.
    """
    if jax.tree_util.all_leaves([loss]):
        loss = jax.tree_util.Partial(loss)
    rng = jax.random.key(0) if rng is None else rng
    trained, variables = trainable.split(model.variables)
    frozen = Model(model.cfg, variables)
    # A copy, since the program writes over its argument.
    state = init_state(optimizer, trainable, jax.tree.map(jnp.array, trained))
    figures_log, done = _FiguresLog(log), 0
    if checkpoint is not None and (kept := checkpoint.find(state)):
        done, state, facts = kept
        for entry in facts["logged"]:
            figures_log.write(*entry)

    def current_model() -> Model:
        return model.replace(variables=trainable.merge(state.trained, variables))

    draw = _drawer(batches, done, steps, current_model)
    while done < steps:
        count = min(updates_per_call, steps - done)
        stacked = _stack([draw(step) for step in range(done, done + count)])
        state, metrics = finetune_steps(
            optimizer, accumulate, state, trainable, frozen, loss, stacked, rng
        )
        figures_log.add(done, metrics)
        done += count
        if checkpoint is not None and done < steps and checkpoint.is_due(done):
            figures_log.flush()
            checkpoint.keep(done, state, {"logged": figures_log.logged})
    figures_log.flush()
    return current_model()


@functools.cache  # one object a setting: for any other, all is compiled anew
def clipped_adam(rate: float, max_grad_norm: float) -> optax.GradientTransformation:
    """Adam at one rate, after clipping the gradient's norm; 0: any norm."""
    clipping = [optax.clip_by_global_norm(max_grad_norm)] if max_grad_norm else []
    return optax.chain(*clipping, optax.adam(rate))


@functools.partial(jax.jit, static_argnames=("optimizer",))
def init_state(
    optimizer: optax.GradientTransformation, trainable: Trainable, trained
) -> FinetuneState:
    """The state before the first update."""
    state = FinetuneState(trained, optimizer.init(trained), jnp.zeros((), jnp.int32))
    return _constrain(trainable, state)


@functools.partial(jax.jit, static_argnames=("optimizer", "accumulate"), donate_argnames=("state",))
def finetune_steps(
    optimizer: optax.GradientTransformation,
    accumulate: int,
    state: FinetuneState,
    trainable: Trainable,
    frozen: Model,
    loss: Loss,
    batches: Batch,
    rng: jax.Array,
) -> tuple[FinetuneState, dict[str, jax.Array]]:
    """As many updates as there are batches, one after the other.

    Args:
      optimizer, accumulate: static.
      state: before them; donated.
      trainable: what `state.trained` is of the model.
      frozen: the model, its variables as `trainable.split` left them.
      loss: as for `finetune`, a pytree.
      batches: stacked, leaves [updates, ...].
      rng: PRNG key.

    Returns:
      (state, metrics): metrics are float32 [updates], of the model before each update.
    """

    def update(state: FinetuneState, batch):
        key = jax.random.fold_in(rng, state.step)
        gradient, terms = _gradient(trainable, frozen, loss, state.trained, batch, key, accumulate)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trained)
        trained = optax.apply_updates(state.trained, updates)
        metrics = {name: total / _no_zero(count) for name, (total, count) in terms.items()}
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        new = FinetuneState(trained, opt_state, state.step + 1)
        return _constrain(trainable, new), metrics

    return jax.lax.scan(update, state, batches)


def _gradient(trainable, frozen: Model, loss: Loss, trained, batch, rng, parts: int):
    """(gradient of the loss over the whole batch, its terms {name: (sum, denominator)})."""

    def share(trained, part, denominator):
        model = frozen.replace(variables=trainable.merge(trained, frozen.variables))
        total, count, *more = loss(model, part, rng)
        count = jax.lax.stop_gradient(count)
        terms = {"loss": (total, count), **(more[0] if more else {})}
        return total / _no_zero(count if denominator is None else denominator), terms

    grad = jax.grad(share, has_aux=True)
    if parts == 1:
        return grad(trained, batch, None)
    rows = {x.shape[0] for x in jax.tree.leaves(batch)}
    if any(count % parts for count in rows):
        raise ValueError(f"accumulate={parts} has to divide the rows of a batch, {sorted(rows)}")
    # A part has rows of every shard of a mesh.
    cut = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    # The denominators alone: the compiler leaves out the rest.
    counts = jax.lax.map(lambda part: share(trained, part, 1.0)[1]["loss"][1], cut)

    def add(added, part):
        return jax.tree.map(jnp.add, added, grad(trained, part, jnp.sum(counts))), None

    shapes = jax.eval_shape(grad, trained, jax.tree.map(lambda x: x[0], cut), jnp.sum(counts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, cut)[0]


def _no_zero(count):
    """A denominator that may be 0, where the sum is 0 as well."""
    return jnp.where(count == 0, 1.0, count)


def _constrain(trainable: Trainable, state: FinetuneState) -> FinetuneState:
    """Every part of a state that has the form of what is trained, moments too, where that lies."""
    form = jax.tree.structure(state.trained)

    def has_form(x):
        return jax.tree.structure(x) == form

    return jax.tree.map(
        lambda x: trainable.constrain(x) if has_form(x) else x, state, is_leaf=has_form
    )


def _drawer(batches, done: int, steps: int, current_model) -> Callable[[int], Batch]:
    """A function that gives the batch of an update; the first is update `done`."""
    if callable(batches):
        return lambda step: batches(step, current_model())
    stream = itertools.islice(batches, done, None)

    def draw(step: int):
        for batch in stream:
            return batch
        raise ValueError(f"batches end after {step} of steps={steps}; give more, or fewer steps")

    return draw


def _stack(batches: Sequence[Batch]) -> Batch:
    def stack(*leaves):
        if len(leaves) == 1:
            return leaves[0][None]
        numpy = jnp if isinstance(leaves[0], jax.Array) else np
        return numpy.stack(leaves)

    return jax.tree.map(stack, *batches)


class _FiguresLog:
    """Logs the figures of a call of the program while the next one is computed.

    Attributes:
      logged: what was logged, (step, figures) of every update.
    """

    def __init__(self, log: Log):
        self.logged: list[tuple[int, dict[str, float]]] = []
        self._log = log
        self._pending = None

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Logs an update."""
        self.logged.append((step, figures))
        self._log(step, figures)

    def add(self, first: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of a call that may still be running, whose first update is `first`."""
        self.flush()
        self._pending = first, metrics

    def flush(self) -> None:
        """Waits for the last call and logs its figures.

        Raises:
          FloatingPointError: a loss or gradient norm is not finite.
        """
        if self._pending is None:
            return
        (first, metrics), self._pending = self._pending, None
        columns = {name: np.asarray(values) for name, values in metrics.items()}
        for i in range(len(columns["loss"])):
            step, figures = first + i, {name: float(x[i]) for name, x in columns.items()}
            if not np.isfinite([figures["loss"], figures["gradient_norm"]]).all():
                raise FloatingPointError(
                    f"update {step}: loss {figures['loss']}, gradient norm "
                    f"{figures['gradient_norm']}; lower the learning rate, clip gradients, or use "
                    "float32"
                )
            self.write(step, figures)
