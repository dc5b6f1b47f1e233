"""What mixes information along a sequence: the one part of a decoder that looks at other tokens.

A mixer is a Flax module with a few static methods beside it. Everything else (the decoder block,
the `cache` collection, packing, prefill and sampling, the wake stream, sharding) knows only this
interface; attention (`models/attention.py`) is its first implementation. Another one is chosen by
name:

    class Recurrence(Mixer): ...
    register_mixer("recurrence", Recurrence)
    cfg = DecoderConfig(..., mixer="recurrence")

The name is that of the module: its parameters are `params/layers/NAME/...` after a norm
`NAME_norm`, its state is `cache/layers/NAME/...`.

**Segments.** Rows are packed. `segment_ids` int32 [rows, time] say to which sequence a token
belongs: 0 is padding, which changes nothing for any other token; SHARED_PREFIX is a prefix at the
start of a row that every segment above 0 continues; those below SHARED_PREFIX stand alone. The
tokens of a segment are contiguous but for padding. The output at a token depends on the shared
prefix, where its segment continues one, and on the tokens of its segment up to and including
itself, and on nothing else: packed segments equal separate sequences.

**State.** What a row has read is the `cache` collection, level 0 of the memory, in two parts:

    progress   one for the decoder: which tokens have been read
    state      one for each layer: what it keeps of them, e.g. keys and values, or fast weights

Arrays of zeros have read nothing. `progress` alone says what of `state` counts, so `reset` need not
touch the layers: a layer whose row has read nothing begins from its parameters, whatever its state
holds. The first segment of a call continues the last one of the state if it has the same id, and
the shared prefix is remembered. Reading in pieces, down to single tokens, equals reading at once;
rows that were picked, repeated (`cache.take_rows`, `cache.grow`) or split over devices go on as
before.

**Appending.** Where the state only grows, by an entry a token (all its arrays have a CAPACITY
axis), a call of one token a row may leave the `cache` collection as it is (not mutable) and return
what is new in the collection `appended`: the progress after it, and of every array the entry of the
token. `cache.append` puts it there. A loop over tokens then moves no more than that.

**Gradients.** They flow into parameters, through the tokens of the call; the state that the call
begins from is a constant, and the state it returns is not differentiated.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import flax.linen as nn
import jax

if TYPE_CHECKING:
    from sleep_jax.models.decoder_config import DecoderConfig

SHARED_PREFIX = -1  # segment id of a row's prefix that its segments above 0 continue
ROWS, CAPACITY, HEADS = "rows", "capacity", "heads"  # what an axis of a state runs over

Axes = Mapping[str, tuple[str | None, ...]]


class Mixer(nn.Module):
    """The interface; see the module's docstring for what an implementation must satisfy.

    Attributes:
      cfg: the decoder.
      progress_axes, state_axes: per array what its axes run over: ROWS (one entry a row), CAPACITY
        (one entry a token that fits; `cache.grow` extends it), HEADS (split over the `tensor` axis
        of a mesh) or None. Names of arrays are unique among mixers unless their axes agree.
      sharding_rules: of parameters that no rule of `models/sharding.py` matches, in its form. A
        `Linear` called q, k, v, gate, up, o or down needs none.
      saved_names: of intermediate results (`checkpoint_name`) that a layer's backward pass does not
        recompute.
    """

    cfg: "DecoderConfig"

    progress_axes: ClassVar[Axes]
    state_axes: ClassVar[Axes]
    sharding_rules: ClassVar[tuple] = ()
    saved_names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def is_appended_to(cls) -> bool:
        """Whether its state only grows."""
        return all(CAPACITY in axes for axes in cls.state_axes.values())

    def __call__(self, x, plan) -> jax.Array:
        """Mixes one layer's tokens. With arrays of the state in the `cache` collection
        (`self.has_variable("cache", NAME)`), goes on from them and leaves there what comes after.

        Args:
          x: normalised hidden states [rows, time, d].
          plan: what `plan` returned.

        Returns:
          float32 [rows, time, d].
        """
        raise NotImplementedError

    @staticmethod
    def init_progress(cfg: "DecoderConfig", rows: int, capacity: int) -> dict:
        """Progress of rows that have read nothing: zeros, in at least one array.

        Args:
          cfg: the decoder.
          rows: how many.
          capacity: tokens that they will be able to hold; of no meaning to a mixer whose state does
            not grow with them.
        """
        raise NotImplementedError

    @staticmethod
    def init_state(
        cfg: "DecoderConfig", rows: int, capacity: int, stack: tuple[int, ...] = ()
    ) -> dict:
        """A layer's state of rows that have read nothing: zeros, with leading axes `stack`."""
        raise NotImplementedError

    @staticmethod
    def plan(cfg: "DecoderConfig", segment_ids, progress: dict | None):
        """What all layers need to know of a call, computed once.

        Args:
          cfg: the decoder.
          segment_ids: int32 [rows, time].
          progress: before the call; None: there is no cache.

        Returns:
          (plan, progress): a pytree of arrays that every layer gets, and the progress after the
          call (None without a cache).
        """
        raise NotImplementedError

    @staticmethod
    def reset(progress: dict, is_new) -> dict:
        """The progress of rows that have read nothing where `is_new`, a bool [], else as it is."""
        raise NotImplementedError

    @staticmethod
    def is_full(progress: dict, tokens: int):
        """Whether that many tokens more do not fit, bool []; False: any number does."""
        return False

    @staticmethod
    def flops(cfg: "DecoderConfig", context: float) -> float:
        """FLOPs that one layer needs for a token with `context` tokens to look at on average."""
        raise NotImplementedError


MIXERS: dict[str, type[Mixer]] = {}


def register_mixer(name: str, mixer: type[Mixer]) -> None:
    """Makes a mixer known as `DecoderConfig.mixer=name`.

    Raises:
      ValueError: the name is no identifier or another mixer's, or an array of the state is called
        like another mixer's and has other axes.
    """
    if not name.isidentifier():
        raise ValueError(f"mixer {name!r}: the name is that of a module; use letters, digits and _")
    if MIXERS.get(name, mixer) is not mixer:
        raise ValueError(f"mixer {name!r} is {MIXERS[name].__name__} already; take another name")
    for other_name, other in MIXERS.items():
        for array in mixer.progress_axes.keys() & other.progress_axes.keys():
            if mixer.progress_axes[array] != other.progress_axes[array]:
                raise ValueError(
                    f"mixer {name!r}: progress array {array!r} has the axes "
                    f"{mixer.progress_axes[array]}, in mixer {other_name!r} it has "
                    f"{other.progress_axes[array]}; call it something else"
                )
    MIXERS[name] = mixer


def get_mixer(name: str) -> type[Mixer]:
    """The mixer of that name.

    Raises:
      ValueError: none is registered.
    """
    if name not in MIXERS:
        raise ValueError(
            f"mixer={name!r}; choose from {', '.join(MIXERS)}, or register it first "
            "(sleep_jax.models.mixer.register_mixer)"
        )
    return MIXERS[name]
