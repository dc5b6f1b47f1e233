"""A model as one value, and which part of its variables is trained."""

import re
from typing import Any, Protocol

import flax.struct
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from sleep_jax.experiment import Experiment
from sleep_jax.interop.tensors import join_stacks
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.memory.slots import put_slot, take_slot
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import constrain_tree


@flax.struct.dataclass
class Model:
    """A decoder with its weights and its tokenizer. A pytree whose leaves are the variables: as an
    argument of a jitted function its values are traced and its `cfg` is static.

    Attributes:
      cfg: its shape.
      variables: its collections: `params`, and where it has them `memory`, `slots`, `lora`.
      tokenizer: None where only tokens are seen.
    """

    cfg: DecoderConfig = flax.struct.field(pytree_node=False)
    variables: Any
    tokenizer: Tokenizer | None = flax.struct.field(pytree_node=False, default=None)


def base_model(experiment: Experiment) -> Model:
    """The model of a run without its memory, where baselines start."""
    cfg, params = experiment.cfg, experiment.params
    if "trunk" in cfg.stacks:  # without memory all layers are one stack
        params = join_stacks(cfg, params)
    return Model(cfg.replace(memory=MemoryConfig()), {"params": params}, experiment.tokenizer)


class Trainable(Protocol):
    """Which part of a model's variables is trained. A pytree."""

    def split(self, variables) -> tuple[Any, Any]:
        """(trained, frozen): a nested dict of what is trained, and all else."""

    def merge(self, trained, frozen) -> Any:
        """The variables again; the inverse of `split`."""

    def constrain(self, trained) -> Any:
        """Inside a program: the trained leaves where the sharding rules have them."""


@flax.struct.dataclass
class Leaves:
    """All leaves whose path matches a pattern.

    Attributes:
      pattern: regular expression of a whole path such as `params/layers/mlp/up/kernel`. `params/.*`
        is full fine-tuning, `lora/.*` the adapter.
    """

    pattern: str = flax.struct.field(pytree_node=False)

    def split(self, variables):
        """Raises a ValueError where no leaf matches."""
        leaves = flatten_dict(variables, sep="/")
        trained = {p: x for p, x in leaves.items() if re.fullmatch(self.pattern, p)}
        if not trained:
            raise ValueError(
                f"no variable matches {self.pattern!r}; the paths begin with "
                f"{', '.join(sorted(variables))}, for example {next(iter(leaves))}"
            )
        frozen = {p: x for p, x in leaves.items() if p not in trained}
        return unflatten_dict(trained, sep="/"), unflatten_dict(frozen, sep="/")

    def merge(self, trained, frozen):
        """The inverse of `split`."""
        leaves = flatten_dict(frozen, sep="/") | flatten_dict(trained, sep="/")
        return unflatten_dict(leaves, sep="/")

    def constrain(self, trained):
        """By the rules of each collection."""
        return {name: constrain_tree(leaves, name) for name, leaves in trained.items()}


@flax.struct.dataclass
class MemorySlot:
    """One slot of a memory level (`memory.slots`). It has to be active for gradients to reach it.

    Attributes:
      level: of the memory.
      index: of the slot, int or int32 scalar; all slots of a level share one program.
    """

    level: int = flax.struct.field(pytree_node=False)
    index: jax.Array

    def split(self, variables):
        """The slot, and the variables with it: its own entry there is not read."""
        return take_slot(variables["memory"], self.level, self.index), variables

    def merge(self, trained, frozen):
        """The variables with the slot in its place."""
        memory = put_slot(frozen["memory"], self.level, self.index, trained)
        return {**frozen, "memory": memory}

    def constrain(self, trained):
        """By the rules of what learns."""
        return constrain_tree(trained, "learner")
