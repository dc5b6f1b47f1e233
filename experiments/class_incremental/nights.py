"""The sleeping model: each group of classes is a day, and a night seeds a slot of its own.

The teacher is the base with some labelled texts of the day in view, as turns of a chat that have
been, the last of which is that of the text itself; the student is asked closed book. What it
distils is the teacher's distribution along the labels (J_KS with alpha 1 and lambda 0: forward KL,
no rollouts). Labels that are given are also learnt by cross-entropy, as rewarded dreams are: a
small model is often wrong about them, even in context. What earlier nights have taught is kept by
one of

    nothing
    questions   earlier texts are asked again of the model as it was before the day, closed book;
                its replies and its distribution along them are learnt. Labels are not kept.
    labels      earlier texts and their labels are taught with those of the day: replay
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence

import jax
import safetensors.flax
from flax.traverse_util import flatten_dict, unflatten_dict
from learners import closed_book_replies
from protocol import Sizes, first_of_each

from sleep_jax.baselines.labels import chat_request, examples_chat, label_request
from sleep_jax.baselines.model import Model
from sleep_jax.baselines.replay import ReplayMemory
from sleep_jax.data.class_sets import Labelled
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory
from sleep_jax.seeding.consolidate import seed_slot
from sleep_jax.seeding.objective import Objective
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import BatchShape, Exchange, Teacher
from sleep_jax.seeding.transaction import MemoryState, begin_consolidation
from sleep_jax.wake.context import read
from sleep_jax.wake.stream import WakeConfig

KEEPS = ("nothing", "questions", "labels")
STATE = "memory.safetensors"
Log = Callable[[int, dict], None]


@dataclasses.dataclass(frozen=True)
class Night:
    """How a night learns.

    Attributes:
      keeps: one of `KEEPS`.
      learning_rate: Adam's peak rate.
      answer_in_view: the last turn that the teacher has in view is that of the text it is asked
        about, with its label.
      ce_coef: weight of the cross-entropy of labels; 0: the teacher alone.
      teacher: `base`, or `self`: the model as it has slept so far.
      null_space, null_space_spare: as in `SeedingConfig`.
    """

    keeps: str = "questions"
    learning_rate: float = 1e-2
    answer_in_view: bool = True
    ce_coef: float = 1.0
    teacher: str = "base"
    null_space: float = 0.0
    null_space_spare: float = 0.2


@dataclasses.dataclass(frozen=True)
class SleepingModel:
    """A model with a slot for each group.

    Attributes:
      model: the base with the memory as it is now.
      state: that memory.
      night, sizes: how it learns.
      longest: tokens of the longest prompt and of the longest label of all data, which fix the
        shapes of programs.
      rng: PRNG key of all nights.
      log: is given every update's number and figures.
      nights: slept so far.
      kept: earlier texts and labels, as (text, label) pairs.
    """

    model: Model
    state: MemoryState
    night: Night
    sizes: Sizes
    longest: tuple[int, int]
    rng: jax.Array
    log: Log
    nights: int = 0
    kept: ReplayMemory = dataclasses.field(default_factory=ReplayMemory)

    @classmethod
    def create(
        cls,
        base: Model,
        night: Night,
        sizes: Sizes,
        groups: int,
        examples: Sequence[Labelled],
        rng: jax.Array,
        log: Log,
    ) -> "SleepingModel":
        """Before the first day.

        Args:
          base: a model without memory.
          night, sizes: how it learns.
          groups: nights that will come.
          examples: all texts that it will learn from.
          rng: PRNG key.
          log: of updates.
        """
        memory = MemoryConfig((LevelConfig(slots=groups, rank=sizes.rank),))
        cfg = base.cfg.replace(memory=memory)
        state = MemoryState(*init_memory(rng, memory, layers=cfg.layers, width=cfg.width))
        prompts = Prompts(base.tokenizer)
        lengths = [
            (len(prompts.without_context(label_request(x.text))), len(prompts.reply(x.label)))
            for x in examples
        ]
        longest = tuple(max(column) for column in zip(*lengths))
        model = Model(cfg, state.variables(base.variables["params"]), base.tokenizer)
        return cls(model, state, night, sizes, longest, rng, log)

    @property
    def stores(self) -> tuple[int, int]:
        """Labels are read only where the night keeps them."""
        count = len(self.kept.pairs)
        return (count, count if self.night.keeps == "labels" else 0)

    def learn(self, examples: Sequence[Labelled]) -> "SleepingModel":
        """After one more day and its night."""
        keys = jax.random.split(jax.random.fold_in(self.rng, self.nights), 3)
        params = self.model.variables["params"]
        transaction = begin_consolidation(
            self.model.cfg, WakeConfig(), self.state, 0, "commit_then_clear", keys[0]
        )
        earlier = [Labelled(*x) for x in self.kept.pairs]
        relearnt = earlier if self.night.keeps == "labels" else []
        exchanges = taught(self.model.tokenizer, examples, "answer", self.night)
        exchanges += taught(self.model.tokenizer, relearnt, "earlier", self.night)
        if self.night.keeps == "questions":
            exchanges += self._asked_again(earlier)
        has_read = self.state.without_memory() if self.night.teacher == "base" else self.state
        variables = has_read.variables(params)
        shown = first_of_each(examples, self.sizes.shots)
        view = examples_chat(self.model.tokenizer, shown)
        teacher = Teacher(
            self.model.cfg,
            variables,
            read(self.model.cfg, variables, [view, ()])[0],
            known_variables=self.model.variables if self.night.keeps == "questions" else None,
        )
        slept = seed_slot(
            self.model.cfg,
            self.model.tokenizer,
            None,
            self._seeding(),
            student=transaction.student.variables(params),
            teachers=[teacher],
            level=1,
            index=transaction.index,
            exchanges=exchanges,
            rng=keys[1],
            log=self.log,
        )
        kept = self.kept
        if self.night.keeps != "nothing":
            kept = kept.add([tuple(x) for x in examples], self.sizes.capacity, keys[2])
        return self._at(transaction.commit(slept["memory"]), self.nights + 1, kept)

    def replies(self, examples: Sequence[Labelled]) -> list[str]:
        """Closed book."""
        return closed_book_replies(self.model, examples, self.sizes)

    def save(self, folder: pathlib.Path) -> None:
        """The memory and what is kept."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"nights": self.nights, "kept": self.kept.pairs, "seen": self.kept.seen}
        arrays = {"memory": self.state.memory, "slots": self.state.slots}
        draft = folder / f"{STATE}.new"
        safetensors.flax.save_file(
            flatten_dict(arrays, sep="/"), draft, {"facts": json.dumps(facts)}
        )
        draft.replace(folder / STATE)

    def restore(self, folder: pathlib.Path, learnt: Sequence[Labelled]) -> "SleepingModel":
        """As it was saved."""
        with safetensors.safe_open(folder / STATE, "numpy") as file:
            facts = json.loads(file.metadata()["facts"])
        arrays = unflatten_dict(safetensors.flax.load_file(folder / STATE), sep="/")
        kept = ReplayMemory(tuple(map(tuple, facts["kept"])), facts["seen"])
        return self._at(MemoryState(**arrays), facts["nights"], kept)

    def _at(self, state: MemoryState, nights: int, kept: ReplayMemory) -> "SleepingModel":
        variables = state.variables(self.model.variables["params"])
        return dataclasses.replace(
            self,
            model=self.model.replace(variables=variables),
            state=state,
            nights=nights,
            kept=kept,
        )

    def _asked_again(self, earlier: Sequence[Labelled]) -> list[Exchange]:
        """Earlier texts with what the model replies now, closed book; as much of it as a label may
        be long."""
        if not earlier:
            return []
        prompts = Prompts(self.model.tokenizer)
        replies = closed_book_replies(self.model, earlier, self.sizes)
        asked = [prompts.without_context(label_request(x.text)) for x in earlier]
        written = [prompts.reply(reply)[: self.longest[1]] for reply in replies]
        return [Exchange(None, p, p, reply, "earlier") for p, reply in zip(asked, written)]

    def _seeding(self) -> SeedingConfig:
        """A row of an update has one text, as in fine-tuning."""
        return seeding_config(self.night, self.sizes, self.longest)


@functools.cache
def seeding_config(night: Night, sizes: Sizes, longest: tuple[int, int]) -> SeedingConfig:
    """The settings of all nights, whose optimizer is one object."""
    prompt, label = longest
    return SeedingConfig(
        steps=sizes.updates,
        learning_rate=night.learning_rate,
        warmup=min(4, sizes.updates - 1),
        shape=BatchShape(sizes.batch, prompt + label, label),
        num_prompts=0,
        known_share=sizes.earlier_share,
        null_space=night.null_space,
        null_space_spare=night.null_space_spare,
        objective=Objective(alpha=1.0, lam=0.0, ce_coef=night.ce_coef),
    )


def taught(
    tokenizer: Tokenizer, examples: Sequence[Labelled], kind: str, night: Night
) -> list[Exchange]:
    """Labels as replies to requests, by a teacher that has document 0 in view."""
    prompts = Prompts(tokenizer)
    return [
        Exchange(
            0,
            prompts.without_context(label_request(x.text)),
            chat_request(tokenizer, x.text, [x] if night.answer_in_view else []),
            prompts.reply(x.label),
            kind,
            supervised=night.ce_coef > 0,
        )
        for x in examples
    ]
