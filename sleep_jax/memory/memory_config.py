"""The config of the continuum memory: its levels, their layout, and its checks (paper 2)."""

import dataclasses

from sleep_jax.setting import AUTO
from sleep_jax.settings import Settings, columns, setting

UNITS = ("tokens", "updates", "episodes")
LAYOUTS = ("parallel", "chain")
EXPERTS = ("swiglu", "bottleneck", "lora")
ROUTERS = ("none", "sigmoid")
ROUTER_KEYS = ("mean", "contrast")
POLICIES = ("error", "skip", "merge", "reuse")
LAYERS = ("all", "last_quarter")
OPTIMIZERS = ("sgd", "adam", "muon")


def read_layers(text: str) -> str | tuple[int, ...]:
    """One of the names `LAYERS`, or the indices in a text such as `20, 21, 25`."""
    name = text.strip()
    return name if name in LAYERS else tuple(map(int, name.removesuffix(",").split(",")))


@dataclasses.dataclass(frozen=True)
class LevelConfig(Settings, section="memory"):
    """One level; level 1 is the fastest, level k the slowest. A config has a tuple of each field,
    with one entry a level, or one for all of them.

    Raises:
      ValueError: a field is out of range.
    """

    period: int = setting(
        0, "C^(l), period of a level's update and consolidation; 0: never, of the slowest alone",
        least=0, name="periods",
    )  # fmt: skip
    slots: int = setting(5, "expert slots of a level, filled by the level below; 0: none", least=0)
    rank: int = setting(16, "width r of an expert and of the wake weights", least=1, name="ranks")
    learning_rate: float | str = setting(
        0.0, "eta^(l) of Eq. 2; 0: the wake weights keep their initial values; auto: by rank and "
        "width", least=0, words=(AUTO,), name="learning_rates",
    )  # fmt: skip
    optimizer: str = setting(
        "sgd", "f of Eq. 2, its error term", choices=OPTIMIZERS, name="optimizers"
    )
    updates_per_period: int = setting(
        1, "updates of the wake weights by Eq. 2 in a period; 1: as it ends", least=1
    )

    @property
    def window(self) -> int:
        """Units of the memory between two updates of the wake weights."""
        return self.period // self.updates_per_period


@dataclasses.dataclass(frozen=True)
class MemoryConfig(Settings, section="memory"):
    """Levels 1..k beside each FFN; level 0 is the context.

    Attributes:
      levels: fastest first; empty is the bare base model.

    The choices:
      unit: `tokens` of the stream, `updates` (gradients of `stride` tokens each) or `episodes`.
      layout: `parallel` adds all levels to the FFN's output; `chain` runs them one after the other.
      expert: `swiglu`, (silu(h G) * (h U)) D, or `bottleneck`, silu(h A) B, beside the FFN; or
        `lora`, A B added to each matrix of the FFN, for one level that is not routed.
      router: `none`, every active slot is on, or `sigmoid`, each is scaled by its gate.
      router_key: `mean`, the mean hidden state of what the slot will learn from, or `contrast`, the
        direction that best tells what is new of it from what was known.
      on_full: `error`, `skip` (keep the fast memory), `merge` (seed the sealed slots into one) or
        `reuse` (train the last slot further; with a single slot this is sleep without expansion).

    Raises:
      ValueError: a field is out of range, or levels do not fit together; says which and what would.
    """

    levels: tuple[LevelConfig, ...] = columns(LevelConfig)
    unit: str = setting("episodes", "what periods count", choices=UNITS)
    stride: int = setting(256, "tokens of the stream that one gradient is taken over", least=1)
    layout: str = setting("parallel", "how levels and FFN are combined", choices=LAYOUTS)
    expert: str = setting("swiglu", "the form of an expert", choices=EXPERTS)
    router: str = setting("none", "how slots are selected for a token", choices=ROUTERS)
    top_k: int = setting(0, "slots of a level that the sigmoid router keeps on; 0: all", least=0)
    router_key: str = setting(
        "mean", "what the sigmoid router's key of a new slot is set to", choices=ROUTER_KEYS
    )
    layers: str | tuple[int, ...] = setting(
        "all", "layers with memory: all, last_quarter, or indices such as 20,21,25",
        parse=read_layers,
    )  # fmt: skip
    scale: float = setting(1.0, "factor on every memory output", above=0)
    from_context: bool = setting(True, "consolidate the context into level 1 after an episode")
    on_full: str = setting(
        "error", "what a consolidation does when the receiver has no free slot", choices=POLICIES
    )

    def check(self) -> None:
        if self.top_k and self.router == "none":
            raise ValueError(
                f"memory.top_k={self.top_k} needs a router to rank the slots; set "
                "memory.router='sigmoid' or memory.top_k=0"
            )
        if self.router_key != "mean" and self.router == "none":
            raise ValueError(
                f"memory.router_key={self.router_key!r} needs a router that has keys; set "
                "memory.router='sigmoid' or memory.router_key='mean'"
            )
        if self.expert == "lora":
            self._check_lora()
        for number, level in enumerate(self.levels, start=1):
            self._check(number, level)

    def _check_lora(self):
        """Checks what terms within the FFN can be combined with."""
        for field, wanted in (("layout", "parallel"), ("router", "none")):
            if (value := getattr(self, field)) != wanted:
                raise ValueError(
                    f"memory.{field}={value!r} with memory.expert='lora', whose terms are part of "
                    f"the FFN's own matrices; set memory.{field}={wanted!r}, or another "
                    "memory.expert"
                )
        if self.depth > 1:
            periods = tuple(level.period for level in self.levels)
            raise ValueError(
                f"memory.periods={periods} with memory.expert='lora', which has no wake weights "
                "to learn by day; give one level, memory.periods=(0,), or another memory.expert"
            )

    def _check(self, number: int, level: LevelConfig):
        """Checks a level against its neighbours."""
        period = f"memory.periods={level.period} of level {number}"
        slots = f"memory.slots={level.slots} of level {number}"
        is_slowest = number == self.depth
        if number == 1 and self.from_context and not level.slots:
            raise ValueError(
                f"{slots}, but the context is consolidated into level 1; give it a slot for "
                "every episode of its period, or set memory.from_context=False"
            )
        if is_slowest:
            if level.period:
                raise ValueError(
                    f"{period}, but the slowest level has no level to consolidate into; set 0"
                )
            if self.on_full == "merge" and level.slots < 3:
                raise ValueError(
                    f"{slots}, but memory.on_full='merge' seeds at least two slots into a free "
                    "one; raise it to 3"
                )
            return
        if level.period < 1:
            raise ValueError(f"{period}; every level but the slowest needs a period")
        if self.unit == "tokens" and level.period % self.stride:
            raise ValueError(f"{period} is no multiple of memory.stride={self.stride} tokens")
        updates = level.updates_per_period
        if level.period % (updates * (self.stride if self.unit == "tokens" else 1)):
            raise ValueError(
                f"memory.updates_per_period={updates} of level {number}: {level.period} "
                f"{self.unit} are not {updates} windows of whole "
                f"{'strides' if self.unit == 'tokens' else self.unit}; choose another number"
            )
        if not self.levels[number].slots:
            raise ValueError(
                f"memory.slots=0 of level {number + 1}, but level {number} consolidates into it; "
                "give it one slot for each consolidation"
            )
        if number > 1:
            below = self.levels[number - 2].period
        elif self.unit == "episodes" and self.from_context:
            below = 1  # the context is consolidated once an episode
        else:
            return
        if level.period % below or (number > 1 and level.period == below):
            raise ValueError(
                f"{period} is no larger multiple of the {below} of the level "
                "below; periods have to divide one another"
            )
        needed = level.period // below
        if level.slots < needed and self.on_full != "reuse":
            raise ValueError(
                f"{slots}, but level {number - 1} consolidates into it {needed} times in its "
                f"period of {level.period}; raise it to {needed} or shorten the period"
            )

    @property
    def depth(self) -> int:
        """k, the number of levels below the context."""
        return len(self.levels)

    def level(self, number: int) -> LevelConfig:
        """Level `number`, from 1."""
        return self.levels[number - 1]

    def has_wake(self, number: int) -> bool:
        """Whether a level has wake weights; the slowest one has none, it is the base."""
        return number < self.depth

    def carriers(self, layers: int) -> tuple[int, ...]:
        """The layers of a decoder of `layers` that carry memory, in order.

        Raises:
          ValueError: `layers` names none or one that the decoder does not have.
        """
        named = {
            "all": range(layers),
            "last_quarter": range(layers - max(1, layers // 4), layers),
        }
        if isinstance(self.layers, str):
            if self.layers not in named:
                raise ValueError(
                    f"memory.layers={self.layers!r}; choose 'all', 'last_quarter' or indices"
                )
            return tuple(named[self.layers])
        chosen = tuple(sorted(set(self.layers)))
        if not chosen or chosen[0] < 0 or chosen[-1] >= layers:
            raise ValueError(
                f"memory.layers={self.layers}; the decoder has layers 0 to {layers - 1}"
            )
        return chosen
