"""The continuum memory of a run: its levels, how they are laid out, and what cannot be (paper
2)."""

import dataclasses

UNITS = ("tokens", "updates", "episodes")
LAYOUTS = ("parallel", "chain")
EXPERTS = ("swiglu", "bottleneck")
ROUTERS = ("none", "sigmoid")
POLICIES = ("error", "skip", "merge", "reuse")


@dataclasses.dataclass(frozen=True)
class LevelConfig:
    """One level; level 1 is the fastest, level k the slowest.

    Attributes:
      chunk: period C^(l) of its update and of its consolidation into the next level; 0: never,
        which only level k may say.
      slots: expert slots preallocated for what the level below it hands up.
      rank: width r of one expert, and of the level's wake weights.
      learning_rate: eta^(l) of Eq. 2; 0 leaves the wake weights as they were born.
    """

    chunk: int = 0
    slots: int = 5
    rank: int = 16
    learning_rate: float = 0.0


@dataclasses.dataclass(frozen=True)
class MemoryConfig:
    """Levels 1..k beside each FFN; level 0 is the context.

    Attributes:
      levels: fastest first; empty is the bare base model.
      unit: what chunks count: `tokens` of the stream, `updates` (gradients of `stride` tokens each)
        or `episodes`.
      stride: tokens of the stream that one gradient is taken over.
      layout: `parallel` adds all levels to the FFN's output; `chain` runs them one after the other.
      expert: `swiglu`, (silu(h G) * (h U)) D, or `bottleneck`, silu(h A) B.
      router: `none`, every active slot is on, or `sigmoid`, each at its own gate.
      top_k: slots of a level that the sigmoid router keeps on; 0 keeps all.
      layers: which layers carry memory: `all`, `last_quarter`, or their indices.
      scale: factor on every memory output.
      from_context: at the end of an episode its context is consolidated into level 1.
      on_full: what a night does when its receiver has no free slot: `error`, `skip` (keep the fast
        memory), `merge` (seed the sealed slots into one) or `reuse` (go on with the last slot, over
        what it holds; with a single slot this is sleep without expansion).

    Raises:
      ValueError: a field has no such value, or the chain cannot work; says which and what would.
    """

    levels: tuple[LevelConfig, ...] = ()
    unit: str = "tokens"
    stride: int = 256
    layout: str = "parallel"
    expert: str = "swiglu"
    router: str = "none"
    top_k: int = 0
    layers: str | tuple[int, ...] = "all"
    scale: float = 1.0
    from_context: bool = True
    on_full: str = "error"

    def __post_init__(self):
        for name, choices in (
            ("unit", UNITS),
            ("layout", LAYOUTS),
            ("expert", EXPERTS),
            ("router", ROUTERS),
            ("on_full", POLICIES),
        ):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"memory.{name}={value!r}; choose from {', '.join(choices)}")
        if self.stride < 1:
            raise ValueError(f"memory.stride={self.stride}; a gradient needs at least one token")
        if self.top_k and self.router == "none":
            raise ValueError(
                f"memory.top_k={self.top_k} needs a router to rank the slots; set "
                "memory.router='sigmoid' or memory.top_k=0"
            )
        if self.top_k < 0:
            raise ValueError(f"memory.top_k={self.top_k}; choose 0 (all) or a number of slots")
        for number, level in enumerate(self.levels, start=1):
            self._check(number, level)

    def _check(self, number: int, level: LevelConfig):
        """What one level and its neighbours have to satisfy."""
        name = f"memory.levels[{number}]"
        last = number == self.depth
        if number == 1 and self.from_context and not level.slots:
            raise ValueError(
                f"{name}.slots=0, but the context is consolidated into level 1; give it a slot for "
                "every episode of its period, or set memory.from_context=False"
            )
        if level.rank < 1:
            raise ValueError(f"{name}.rank={level.rank}; an expert needs at least one unit")
        if level.slots < 0:
            raise ValueError(f"{name}.slots={level.slots}; it cannot be negative")
        if level.learning_rate < 0:
            raise ValueError(f"{name}.learning_rate={level.learning_rate}; it cannot be negative")
        if last:
            if level.chunk:
                raise ValueError(
                    f"{name}.chunk={level.chunk}, but the slowest level never updates: there is "
                    "none for it to consolidate into; set 0"
                )
            if self.on_full == "merge" and level.slots < 3:
                raise ValueError(
                    f"{name}.slots={level.slots}, but memory.on_full='merge' makes one of at least "
                    "two slots with the help of a free one; raise it to 3"
                )
            return
        if level.chunk < 1:
            raise ValueError(
                f"{name}.chunk={level.chunk}; every level but the slowest needs a period"
            )
        if self.unit == "tokens" and level.chunk % self.stride:
            raise ValueError(
                f"{name}.chunk={level.chunk} is no multiple of memory.stride={self.stride} tokens"
            )
        if not self.levels[number].slots:
            raise ValueError(
                f"memory.levels[{number + 1}].slots=0, but level {number} consolidates into it; "
                "it needs one slot a night"
            )
        if number > 1:
            below = self.levels[number - 2].chunk
        elif self.unit == "episodes" and self.from_context:
            below = 1  # the context is consolidated once an episode
        else:
            return
        if level.chunk % below or (number > 1 and level.chunk == below):
            raise ValueError(
                f"{name}.chunk={level.chunk} is no larger multiple of the {below} of the level "
                "below; periods have to divide one another"
            )
        needed = level.chunk // below
        if level.slots < needed and self.on_full != "reuse":
            raise ValueError(
                f"{name}.slots={level.slots}, but level {number - 1} hands up {needed} times in "
                f"its period of {level.chunk}; raise it to {needed} or shorten the period"
            )

    @property
    def depth(self) -> int:
        """k, the number of levels below the context."""
        return len(self.levels)

    def level(self, number: int) -> LevelConfig:
        """Level `number`, from 1."""
        return self.levels[number - 1]

    def has_wake(self, number: int) -> bool:
        """Whether a level learns by day; the slowest one is the base."""
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
