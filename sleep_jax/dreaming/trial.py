"""Trials: every dream trains its own LoRA adapters, all in one program (paper 4, step 3).

    W x + (alpha / r) B A x,   initially A ~ U(-1/sqrt(d), 1/sqrt(d)), B = 0 (Hu et al. 2021)

The adapters are stacked and the rows of their dreams form one batch: there is one product with each
base weight, and only the low-rank products are separate. The gradient of the summed losses with
respect to an adapter is that of its own loss. All dreams start from the same A, so that differences
between them are not due to the initialisation.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from sleep_jax.data.batches import equal_batches
from sleep_jax.data.examples import Examples
from sleep_jax.evals.likelihood import mean_nll
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig
from sleep_jax.models.sharding import constrain_tree, row_shards, spread_evenly
from sleep_jax.settings import Settings, setting

DATA = "data"  # the mesh axis that dreams are spread over
# Factors of the learning rate, by the progress of the trial in [0, 1].
SCHEDULES = {
    "constant": lambda progress: jnp.ones_like(progress),
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + jnp.cos(jnp.pi * progress)) / 2,
}


@dataclasses.dataclass(frozen=True)
class TrialConfig(Settings, section="dreaming.trial"):
    """A trial: Adam on the SFT loss of a dream and its passage.

    Raises:
      ValueError: a field has no such value.
    """

    epochs: int = setting(5, "passes over a dream and its passage", least=1)
    learning_rate: float = setting(1e-3, "Adam's learning rate in a trial", above=0)
    schedule: str = setting(
        "constant", "schedule of that rate; all but constant end at 0", choices=SCHEDULES
    )
    batch_size: int = setting(0, "sequences per update, in random order; 0: all, packed", least=0)
    max_grad_norm: float = setting(0.0, "largest norm of an adapter's gradient; 0: any", least=0)
    split_lines: bool = setting(False, "each line of a dream is its own sequence, as in SEAL")
    seeds: int = setting(1, "trials per dream; its reward is the mean", least=1)
    microbatch: int = setting(4, "adapters trained at a time, as memory allows", least=1)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of one adapter, without the learning rate, which may differ per dream."""
        clipping = [optax.clip_by_global_norm(self.max_grad_norm)] if self.max_grad_norm else []
        return optax.chain(*clipping, optax.scale_by_adam())


@flax.struct.dataclass
class Hyperparameters:
    """Hyperparameters of each dream, arrays [dreams].

    Attributes:
      epochs: int32, at most those of the `TrialConfig`.
      learning_rate: float32.
      rank: int32, at most that of the `LoraConfig`.
      alpha: float32; the scale is alpha / rank.
    """

    epochs: jax.Array
    learning_rate: jax.Array
    rank: jax.Array
    alpha: jax.Array

    @classmethod
    def from_dreams(
        cls, lora: LoraConfig, trial: TrialConfig, dreams: Sequence[Mapping]
    ) -> "Hyperparameters":
        """The hyperparameters that dreams set; the others are as configured.

        Args:
          lora, trial: defaults, and upper bounds of rank and epochs.
          dreams: per dream {field: value}.

        Raises:
          ValueError: a field is unknown or out of range.
        """
        defaults = {
            "epochs": trial.epochs,
            "learning_rate": trial.learning_rate,
            "rank": lora.rank,
            "alpha": lora.alpha,
        }
        maxima = {"epochs": trial.epochs, "rank": lora.rank}
        for i, dream in enumerate(dreams):
            for name, value in dream.items():
                if name not in defaults:
                    raise ValueError(f"dream {i} sets {name!r}; choose from {', '.join(defaults)}")
                if name in maxima and not 1 <= value <= maxima[name]:
                    raise ValueError(
                        f"dream {i} sets {name}={value}; give 1 to {maxima[name]}, or raise "
                        f"dreaming.trial.{name}"
                    )
        dtypes = {"epochs": np.int32, "rank": np.int32}
        return cls(
            **{
                name: np.array([d.get(name, value) for d in dreams], dtypes.get(name, np.float32))
                for name, value in defaults.items()
            }
        )


@functools.partial(jax.jit, static_argnames=("cfg", "trial"))
def train_adapters(
    cfg: DecoderConfig,
    trial: TrialConfig,
    variables,
    adapters: Sequence,
    examples: Examples,
    hyper: Hyperparameters | None = None,
    rng=None,
):
    """Trains an adapter for every dream and seed, independently, on the examples of the dream.

    Under a mesh (`jax.set_mesh`) the trials are sharded over `data` and `fsdp`; if only `data` is
    larger than 1, its devices do not communicate.

    Args:
      cfg, trial: static.
      variables: the current model, without `lora`; not changed.
      adapters: an initial one for each seed (`adapters.init_adapters`), the same for all dreams.
      examples: [dreams, rows, time]; dreams with fewer rows are padded with rows without a scored
        token.
      hyper: of each dream; None: as configured.
      rng: PRNG key of the order of the rows, which differs between seeds; needed if
        `trial.batch_size` is smaller than the number of rows.

    Returns:
      (adapters, losses): the `lora` collection of all trained adapters, the seeds of a dream next
      to each other, leaves [layers, dreams * seeds, ...]; and the loss before each update,
      [dreams * seeds, updates], 0 where there was no update.

    Raises:
      ValueError: `rng` is needed and missing.
    """
    if rng is None and 0 < trial.batch_size < examples.tokens.shape[1]:
        raise ValueError(
            f"dreaming.trial.batch_size={trial.batch_size} needs rng, the key of the order of rows"
        )
    seeds = len(adapters)
    initial = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *adapters)
    repeated = jax.tree.map(lambda x: jnp.repeat(x, seeds, axis=0), (examples, hyper))
    seed = jnp.tile(jnp.arange(seeds), len(examples.tokens))
    orders = None if rng is None else jax.vmap(lambda i: jax.random.fold_in(rng, i))(seed)
    trials = (seed, *repeated, orders)

    def train(variables, initial, trials):
        run = functools.partial(_train_side_by_side, cfg, trial, variables, initial)
        return _in_microbatches(run, trials, spread_evenly(trial.microbatch))

    count = len(trials[0])
    mesh = jax.sharding.get_abstract_mesh()
    if row_shards() > 1:
        trials = _take(trials, np.minimum(np.arange(spread_evenly(count)), count - 1))
    # With other axes larger than 1, the partitioner fails on gathers in a part of the mesh.
    if mesh.shape.get(DATA, 1) == mesh.size > 1:
        train = jax.shard_map(
            train,
            in_specs=(P(), P(), P(DATA)),
            out_specs=(P(None, DATA), P(DATA)),
            axis_names={DATA},
            check_vma=False,
        )
    adapters, losses = train(variables, initial, trials)
    return jax.tree.map(lambda x: x[:, :count], adapters), losses[:count]


def _take(trials, index):
    return jax.tree.map(lambda x: x[index], trials)


def _in_microbatches(run, trials, microbatch: int):
    """`run` of all trials, at most `microbatch` at a time."""
    count = len(trials[0])
    index = equal_batches(count, microbatch)
    if len(index) == 1:
        return run(trials)
    adapters, losses = jax.lax.map(lambda i: run(_take(trials, i)), index)

    def join(x, axis):
        return jax.lax.collapse(jnp.moveaxis(x, 0, axis), axis, axis + 2)

    adapters = jax.tree.map(lambda x: join(x, 1)[:, :count], adapters)
    return adapters, join(losses, 0)[:count]


def _train_side_by_side(cfg: DecoderConfig, trial: TrialConfig, variables, initial, trials):
    """Trains the adapters of some trials as one batch.

    Args:
      cfg, trial, variables: as for `train_adapters`.
      initial: adapters of all seeds, leaves [layers, seeds, ...].
      trials: (seed [n], examples [n, rows, time], hyper [n] or None, keys of the order of rows [n]
        or None).
    """
    seed, examples, hyper, orders = trials
    adapters = jax.tree.map(lambda x: x[:, seed], initial)
    epochs, rate = jnp.full(seed.shape, trial.epochs), jnp.full(seed.shape, trial.learning_rate)
    if hyper is not None:
        epochs, rate = hyper.epochs, hyper.learning_rate
        adapters = _with_rank(adapters, hyper.rank)
    adapters = constrain_tree(adapters, "trials")
    # Optimizer states are stacked on axis 1 as the adapters are, counts of updates on axis 0.
    state_of_one = jax.eval_shape(trial.optimizer.init, jax.tree.map(lambda x: x[:, 0], adapters))
    axes = jax.tree.map(lambda x: min(x.ndim, 1), state_of_one)
    opt_state = jax.vmap(trial.optimizer.init, in_axes=1, out_axes=axes)(adapters)

    batch = trial.batch_size or examples.tokens.shape[1]
    padding = -examples.tokens.shape[1] % batch
    examples = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, padding), (0, 0))), examples)
    per_epoch = examples.tokens.shape[1] // batch
    updates = -(-examples.mask.any(-1).sum(-1) // batch)  # [n], per epoch of each trial

    def update_one(adapter, opt_state, grads, rate, is_active):
        direction, new_state = trial.optimizer.update(grads, opt_state)
        new_adapter = jax.tree.map(lambda w, u: w - rate * u, adapter, direction)
        choose = functools.partial(jnp.where, is_active)
        return jax.tree.map(choose, (new_adapter, new_state), (adapter, opt_state))

    def step(state, i):
        adapters, opt_state = state
        epoch, update = i // per_epoch, i % per_epoch
        rows = examples
        if per_epoch > 1:
            rows = _shuffled_batch(examples, orders, epoch, update, batch)

        def loss(adapters):
            scaled = adapters if hyper is None else _with_scale(cfg.lora, hyper, adapters)
            losses = mean_nll(cfg, {**variables, "lora": scaled}, rows)
            return losses.sum(), losses

        grads, losses = jax.grad(loss, has_aux=True)(adapters)
        is_active = (epoch < epochs) & rows.mask.any((1, 2))
        factor = SCHEDULES[trial.schedule]((epoch * updates + update) / (epochs * updates))
        state = jax.vmap(update_one, in_axes=(1, axes, 1, 0, 0), out_axes=(1, axes))(
            adapters, opt_state, grads, rate * factor, is_active
        )
        return state, jnp.where(is_active, losses, 0.0)

    steps = jnp.arange(trial.epochs * per_epoch)
    (adapters, _), losses = jax.lax.scan(step, (adapters, opt_state), steps)
    adapters = adapters if hyper is None else _with_scale(cfg.lora, hyper, adapters)
    return adapters, losses.T


def _with_rank(adapters, rank):
    """Initial adapters with the columns of A beyond each one's rank set to 0: since B = 0, they
    never get a gradient."""

    def mask_columns(path, x):
        if path[-1].key == "b":
            return x
        return jnp.where(jnp.arange(x.shape[-1]) < rank[:, None, None], x, 0.0)

    return jax.tree_util.tree_map_with_path(mask_columns, adapters)


def _with_scale(lora: LoraConfig, hyper: Hyperparameters, adapters):
    """Adapters with B times the ratio of their alpha / rank to the configured one."""
    ratio = (hyper.alpha / hyper.rank) / (lora.alpha / lora.rank)

    def scale(path, x):
        return ratio[:, None, None] * x if path[-1].key == "b" else x

    return jax.tree_util.tree_map_with_path(scale, adapters)


def _shuffled_batch(examples: Examples, orders, epoch, index, batch: int) -> Examples:
    """Batch `index` of `batch` rows of each trial, in the random order of its epoch. Rows without a
    scored token come last; their number does not change the order of the others."""

    def shuffle(key, examples: Examples):
        key = jax.random.fold_in(key, epoch)
        rows = jnp.arange(examples.mask.shape[0])
        noise = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))(rows)
        order = jnp.argsort(jnp.where(examples.mask.any(-1), noise, jnp.inf))
        return _take(examples, jax.lax.dynamic_slice(order, (index * batch,), (batch,)))

    return jax.vmap(shuffle)(orders, examples)
