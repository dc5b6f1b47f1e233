"""Try: every dream trains LoRA adapters of its own, all in one program (paper 4, step 3).

    W x + (alpha / r) B A x,     A ~ U(-1/sqrt(d), 1/sqrt(d)), B = 0 at birth (Hu et al. 2021)

The adapters lie side by side and the rows of their dreams form one batch: a base weight meets it in
one product, and only the low-rank products are one for each adapter. The gradient of the summed
losses is each adapter's own. All dreams start from the same A: dreams are compared, not their luck.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from sleep_jax.data.batches import parts
from sleep_jax.data.examples import Examples
from sleep_jax.evals.likelihood import mean_nll
from sleep_jax.models.decoder_config import TARGETS, DecoderConfig, LoraConfig
from sleep_jax.models.sharding import constrain_tree, row_shards, spread_evenly
from sleep_jax.settings import Settings, setting

DATA = "data"  # the mesh axis that dreams are spread over
# What is left of the rate, by the share of the trial that is over.
SCHEDULES = {
    "constant": lambda over: jnp.ones_like(over),
    "linear": lambda over: 1 - over,
    "cosine": lambda over: (1 + jnp.cos(jnp.pi * over)) / 2,
}


@dataclasses.dataclass(frozen=True)
class TrialConfig(Settings, section="dreaming.trial"):
    """A trial: Adam on the dream and its passage.

    Raises:
      ValueError: a field has no such value.
    """

    epochs: int = setting(5, "passes over a dream and its passage", least=1)
    learning_rate: float = setting(1e-3, "Adam's rate of a trial", above=0)
    schedule: str = setting(
        "constant", "how that rate goes on; others fall to 0", choices=SCHEDULES
    )
    batch_size: int = setting(0, "sequences of an update, in random order; 0: all, packed", least=0)
    clip: float = setting(0.0, "largest norm of an adapter's gradient; 0: any", least=0)
    split: bool = setting(False, "each line of a dream is a sequence of its own, as in SEAL")
    seeds: int = setting(1, "trials of each dream, over which its reward is a mean", least=1)
    microbatch: int = setting(4, "adapters trained at a time, as memory allows", least=1)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Of one adapter; the rate is applied outside, since it may differ from dream to dream."""
        clipping = [optax.clip_by_global_norm(self.clip)] if self.clip else []
        return optax.chain(*clipping, optax.scale_by_adam())


@flax.struct.dataclass
class Hyperparameters:
    """What may differ from dream to dream, [dreams] each.

    Attributes:
      epochs: int32, at most those of the `TrialConfig`.
      learning_rate: float32.
      rank: int32, at most that of the `LoraConfig`.
      alpha: float32; the scale is alpha / rank, each dream's own.
    """

    epochs: jax.Array
    learning_rate: jax.Array
    rank: jax.Array
    alpha: jax.Array

    @classmethod
    def of(
        cls, lora: LoraConfig, trial: TrialConfig, dreams: Sequence[Mapping]
    ) -> "Hyperparameters":
        """The hyperparameters that dreams ask for; what one leaves out is as configured.

        Raises:
          ValueError: an unknown field, or one out of its range.
        """
        usual = {
            "epochs": trial.epochs,
            "learning_rate": trial.learning_rate,
            "rank": lora.rank,
            "alpha": lora.alpha,
        }
        most = {"epochs": trial.epochs, "rank": lora.rank}
        for i, dream in enumerate(dreams):
            for name, value in dream.items():
                if name not in usual:
                    raise ValueError(f"dream {i} sets {name!r}; choose from {', '.join(usual)}")
                if name in most and not 1 <= value <= most[name]:
                    raise ValueError(
                        f"dream {i} asks for {name}={value}; it must lie in [1, {most[name]}], or "
                        f"raise dreaming.trial.{name}"
                    )
        dtypes = {"epochs": np.int32, "rank": np.int32}
        return cls(
            **{
                name: np.array([d.get(name, value) for d in dreams], dtypes.get(name, np.float32))
                for name, value in usual.items()
            }
        )


def init_lora(cfg: DecoderConfig, params, rng):
    """One adapter, a `lora` collection.

    Returns:
      Per stack of layers {cfg.mixer, mlp}/target/{a [L, in, r], b [L, r, out]}.
    """
    lora: dict = {}
    for i, (stack, target) in enumerate(itertools.product(cfg.stacks, cfg.lora.targets)):
        group = cfg.mixer if TARGETS[target] == "mixer" else TARGETS[target]
        layers, width, out = params[stack][group][target]["kernel"].shape
        a_shape, b_shape = (layers, width, cfg.lora.rank), (layers, cfg.lora.rank, out)
        bound = width**-0.5
        a = jax.random.uniform(jax.random.fold_in(rng, i), a_shape, minval=-bound, maxval=bound)
        held = lora.setdefault(stack, {}).setdefault(group, {})
        held[target] = {"a": a, "b": jnp.zeros(b_shape)}
    return lora


def init_adapters(cfg: DecoderConfig, params, rng, seeds: int) -> list:
    """An adapter for every seed; that of the first does not depend on how many there are."""
    return [init_lora(cfg, params, jax.random.fold_in(rng, i) if i else rng) for i in range(seeds)]


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
    """Trains an adapter for every dream and seed, each alone with its dream's examples.

    Under a mesh (`jax.set_mesh`) the trials are spread over `data` and `fsdp`; where `data` alone
    is cut, nothing is sent between its devices.

    Args:
      cfg, trial: static.
      variables: the model as it is now, without `lora`; it stays as it is.
      adapters: one at birth for each seed (`init_adapters`), shared by all dreams.
      examples: [dreams, rows, time], of which a dream with fewer has rows without a scored token.
      hyper: of each dream; None: as configured.
      rng: PRNG key of the order of the rows, which differs from seed to seed; needed where
        `trial.batch_size` takes some of them at a time.

    Returns:
      (adapters, losses): the `lora` collection of dreams * seeds adapters side by side, the seeds
      of a dream next to each other, leaves [L, dreams * seeds, ...]; and the loss before each
      update [dreams * seeds, updates], 0 where there was nothing to learn.

    Raises:
      ValueError: there is an order to draw and no `rng`.
    """
    if rng is None and 0 < trial.batch_size < examples.tokens.shape[1]:
        raise ValueError(
            f"dreaming.trial.batch_size={trial.batch_size} needs rng, of the order of rows"
        )
    seeds = len(adapters)
    initial = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *adapters)
    repeated = jax.tree.map(lambda x: jnp.repeat(x, seeds, axis=0), (examples, hyper))
    seed = jnp.tile(jnp.arange(seeds), len(examples.tokens))
    orders = None if rng is None else jax.vmap(lambda i: jax.random.fold_in(rng, i))(seed)
    trials = (seed, *repeated, orders)

    def train(variables, initial, trials):
        run = functools.partial(_train_side_by_side, cfg, trial, variables, initial)
        return _in_chunks(run, trials, spread_evenly(trial.microbatch))

    count = len(trials[0])
    mesh = jax.sharding.get_abstract_mesh()
    if row_shards() > 1:
        trials = _take(trials, np.minimum(np.arange(spread_evenly(count)), count - 1))
    # Where other axes are cut, too, the partitioner fails on gathers in a part of the mesh.
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


def _in_chunks(run, trials, chunk: int):
    """`run` of all trials, a part of at most `chunk` at a time."""
    count = len(trials[0])
    index = parts(count, chunk)
    if len(index) == 1:
        return run(trials)
    adapters, losses = jax.lax.map(lambda i: run(_take(trials, i)), index)

    def joined(x, axis):
        return jax.lax.collapse(jnp.moveaxis(x, 0, axis), axis, axis + 2)

    adapters = jax.tree.map(lambda x: joined(x, 1)[:, :count], adapters)
    return adapters, joined(losses, 0)[:count]


def _train_side_by_side(cfg: DecoderConfig, trial: TrialConfig, variables, initial, trials):
    """Trains the adapters of some trials: (seed [n], examples [n, rows, time], hyper [n], keys of
    the order of rows [n])."""
    seed, examples, hyper, orders = trials
    adapters = jax.tree.map(lambda x: x[:, seed], initial)
    epochs, rate = jnp.full(seed.shape, trial.epochs), jnp.full(seed.shape, trial.learning_rate)
    if hyper is not None:
        epochs, rate = hyper.epochs, hyper.learning_rate
        adapters = _narrowed(adapters, hyper.rank)
    adapters = constrain_tree(adapters, "trials")
    # The count of updates is a scalar of each adapter; all else lies beside what it is of.
    one = jax.eval_shape(trial.optimizer.init, jax.tree.map(lambda x: x[:, 0], adapters))
    axes = jax.tree.map(lambda x: min(x.ndim, 1), one)
    moments = jax.vmap(trial.optimizer.init, in_axes=1, out_axes=axes)(adapters)

    batch = trial.batch_size or examples.tokens.shape[1]
    filled = -examples.tokens.shape[1] % batch
    examples = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, filled), (0, 0))), examples)
    per_epoch = examples.tokens.shape[1] // batch
    own = -(-examples.mask.any(-1).sum(-1) // batch)  # updates in an epoch of each trial

    def advance(adapter, moments, gradient, rate, is_live):
        direction, after = trial.optimizer.update(gradient, moments)
        moved = jax.tree.map(lambda w, u: w - rate * u, adapter, direction)
        choose = functools.partial(jnp.where, is_live)
        return jax.tree.map(choose, (moved, after), (adapter, moments))

    def update(state, step):
        adapters, moments = state
        epoch, part = step // per_epoch, step % per_epoch
        rows = examples
        if per_epoch > 1:
            rows = _shuffled_part(examples, orders, epoch, part, batch)

        def loss(adapters):
            worn = adapters if hyper is None else _scaled(cfg.lora, hyper, adapters)
            each = mean_nll(cfg, {**variables, "lora": worn}, rows)
            return each.sum(), each

        gradient, each = jax.grad(loss, has_aux=True)(adapters)
        is_live = (epoch < epochs) & rows.mask.any((1, 2))
        left = SCHEDULES[trial.schedule]((epoch * own + part) / (epochs * own))
        state = jax.vmap(advance, in_axes=(1, axes, 1, 0, 0), out_axes=(1, axes))(
            adapters, moments, gradient, rate * left, is_live
        )
        return state, jnp.where(is_live, each, 0.0)

    steps = jnp.arange(trial.epochs * per_epoch)
    (adapters, _), losses = jax.lax.scan(update, (adapters, moments), steps)
    adapters = adapters if hyper is None else _scaled(cfg.lora, hyper, adapters)
    return adapters, losses.T


def _narrowed(adapters, rank):
    """Adapters at birth without their columns of A beyond each one's rank: with B = 0 these never
    have a gradient."""

    def narrow(path, x):
        if path[-1].key == "b":
            return x
        return jnp.where(jnp.arange(x.shape[-1]) < rank[:, None, None], x, 0.0)

    return jax.tree_util.tree_map_with_path(narrow, adapters)


def _scaled(lora: LoraConfig, hyper: Hyperparameters, adapters):
    """Adapters whose B carries what their own alpha / rank is over the configured one."""
    ratio = (hyper.alpha / hyper.rank) / (lora.alpha / lora.rank)

    def scale(path, x):
        return ratio[:, None, None] * x if path[-1].key == "b" else x

    return jax.tree_util.tree_map_with_path(scale, adapters)


def _shuffled_part(examples: Examples, orders, epoch, part, batch: int) -> Examples:
    """The part-th `batch` rows of each trial in the order of its epoch, rows without a scored token
    last. How many of these there are changes nothing in that order."""

    def shuffled(key, mine: Examples):
        key = jax.random.fold_in(key, epoch)
        rows = jnp.arange(mine.mask.shape[0])
        noise = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))(rows)
        order = jnp.argsort(jnp.where(mine.mask.any(-1), noise, jnp.inf))
        return _take(mine, jax.lax.dynamic_slice(order, (part * batch,), (batch,)))

    return jax.vmap(shuffled)(orders, examples)
