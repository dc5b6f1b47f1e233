"""The arms that train an adapter on text: the passage alone, and SEAL (Zweiger et al. 2025).

SEAL's inner loop is `dreaming.trial`, its outer loop ReST-EM over `dreaming.write`; both come from
the library, with its templates. Every adapter of an arm is trained in one program.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from sleep_jax.data.documents import Document
from sleep_jax.data.examples import PromptCompletion, make_examples
from sleep_jax.dreaming.reinforce import rewarded_dreams, trial_sequences
from sleep_jax.dreaming.reward import RewardConfig, compute_rewards, measure_gains
from sleep_jax.dreaming.templates import choose_templates, read_templates
from sleep_jax.dreaming.trial import TrialConfig, init_adapters, train_adapters
from sleep_jax.dreaming.write import Dream, WritingConfig, write_dreams
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import RewardItems
from sleep_jax.evals.scorers import make_scorer
from sleep_jax.experiment import Experiment
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.memory_config import MemoryConfig
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig

EVERYWHERE = ("q", "k", "v", "o", "gate", "up", "down")
INNER = LoraConfig(rank=32, alpha=64.0, targets=EVERYWHERE)
OUTER = LoraConfig(rank=64, alpha=128.0, targets=EVERYWHERE)
TRIAL = TrialConfig(epochs=10, learning_rate=1e-3, schedule="linear", microbatch=4)
CONTINUED = TrialConfig(
    epochs=10, learning_rate=1e-3, schedule="linear", batch_size=8, microbatch=8
)
REINFORCING = TrialConfig(
    epochs=2, learning_rate=3e-4, schedule="linear", batch_size=2, microbatch=8
)
# As in configs/seal.py.
EARNS = RewardConfig(scorer="contains", form="top_1", margin=-math.inf, baseline="untrained")
TEMPLATE = "implications"
DREAMS = 3  # about a passage


def settings() -> dict[str, Any]:
    """What these arms' results depend on."""
    each = {"inner": INNER, "outer": OUTER, "trial": TRIAL}
    each |= {"continued": CONTINUED, "reinforcing": REINFORCING}
    each |= {"earns": EARNS}
    named = {name: dataclasses.asdict(x) for name, x in each.items()}
    return named | {"template": TEMPLATE, "dreams": DREAMS}


@dataclasses.dataclass(frozen=True)
class Model:
    """The base; `writer` is the adapter of the one who writes, None for the base itself."""

    cfg: DecoderConfig
    params: Any
    tokenizer: Tokenizer
    writer: Any = None

    @classmethod
    def of(cls, experiment: Experiment) -> "Model":
        """That of an experiment, which has no memory here."""
        cfg = experiment.cfg.replace(memory=MemoryConfig())
        return cls(cfg, experiment.params, experiment.tokenizer)

    @property
    def prompts(self) -> Prompts:
        """Its prompts."""
        return Prompts(self.tokenizer)

    def dreams(self, passages: Sequence[Document], count: int, seed: int) -> list[Dream]:
        """`count` dreams about each passage, less those that are none."""
        templates = choose_templates(read_templates(), (TEMPLATE,))
        config = WritingConfig(templates, count, temperature=1.0, max_new_tokens=128)
        lora = {} if self.writer is None else {"lora": self.writer}
        variables, key = {"params": self.params, **lora}, jax.random.key(seed)
        cfg = dataclasses.replace(self.cfg, lora=OUTER)
        return list(
            write_dreams(cfg, config, variables, self.tokenizer, passages, None, key).dreams
        )

    def trained(
        self, items: Sequence[Sequence[PromptCompletion]], seed: int, trial: TrialConfig = TRIAL
    ) -> AdaptedModels:
        """A model for each item, which has learnt its (prompt, reply) pairs."""
        base = self._bare()
        key = jax.random.key(seed)
        initial = init_adapters(base.cfg, self.params, key, trial.seeds)
        learnt = make_examples(items, is_packed=not trial.batch_size)
        adapters, _ = train_adapters(base.cfg, trial, base.variables, initial, learnt, rng=key)
        return base.with_adapters(adapters)

    def replies(self, models: AdaptedModels, passages: Sequence[Document]) -> list[list[str]]:
        """What each model says to the questions about its passage."""
        asked = [[self.prompts.without_context(q.question) for q in p.questions] for p in passages]
        return models.replies(asked)

    def asked(self, model: AdaptedModels, passages: Sequence[Document]) -> list[str]:
        """What one model says to the questions about all passages."""
        [said] = model.replies(
            [[self.prompts.without_context(q.question) for p in passages for q in p.questions]]
        )
        return said

    def reinforced(
        self, passages: Sequence[Document], asked: RewardItems, count: int, seed: int
    ) -> "Model":
        """One round of ReST-EM: of `count` dreams about each passage the writer learns the one that
        taught a model most, by the questions that are `asked`."""
        dreams, prompts, base = self.dreams(passages, count, seed), self.prompts, self._bare()
        learnt = [trial_sequences(x, passages[x.document], prompts, TRIAL.split) for x in dreams]
        of = [x.document for x in dreams]
        gain = measure_gains(
            base,
            TRIAL,
            make_scorer(EARNS.scorer),
            init_adapters(base.cfg, self.params, jax.random.key(seed), TRIAL.seeds),
            make_examples(learnt, is_packed=not TRIAL.batch_size),
            of,
            asked,
            rng=jax.random.key(seed),
        ).over(EARNS.baseline)
        template = read_templates()[TEMPLATE]
        pairs = [
            (template.tokens(prompts, passages[x.document]), x.tokens)
            for x in rewarded_dreams(dreams, compute_rewards(EARNS, gain, of))
        ]
        cfg = dataclasses.replace(self.cfg, lora=OUTER)
        key = jax.random.key(seed)
        initial = init_adapters(cfg, self.params, key, 1)
        kept = make_examples([pairs], is_packed=False)
        writer, _ = train_adapters(cfg, REINFORCING, base.variables, initial, kept, rng=key)
        return dataclasses.replace(self, writer=writer)

    def _bare(self) -> AdaptedModels:
        """The base, which adapters of a trial fit."""
        cfg = dataclasses.replace(self.cfg, lora=INNER)
        return AdaptedModels(cfg, {"params": self.params}, self.tokenizer, batch=32)


def on_passages(model: Model, passages: Sequence[Document], seed: int) -> list[list[str]]:
    """Replies, per passage, of a model that was fine-tuned on it."""
    prompts = model.prompts
    items = [[(prompts.tell_about(p), prompts.reply(p.text))] for p in passages]
    return model.replies(model.trained(items, seed), passages)


def on_dreams(
    model: Model, passages: Sequence[Document], count: int, seed: int
) -> list[list[list[str]]]:
    """Replies, per passage and dream, of a model that was fine-tuned on that dream and the passage;
    on the passage alone where no dream is left."""
    dreams = model.dreams(passages, count, seed)
    prompts = model.prompts
    items = [trial_sequences(x, passages[x.document], prompts, False) for x in dreams]
    of = [x.document for x in dreams]
    for i in sorted({*range(len(passages))} - {*of}):
        items.append([(prompts.tell_about(passages[i]), prompts.reply(passages[i].text))])
        of.append(i)
    said = model.replies(model.trained(items, seed), [passages[i] for i in of])
    return [[r for r, j in zip(said, of) if j == i] for i in range(len(passages))]


def continued(model: Model, passages: Sequence[Document], count: int, seed: int) -> list[list[str]]:
    """Replies, per passage, of one model that was fine-tuned on all passages and, of each, on
    `count` dreams."""
    prompts = model.prompts
    pairs = [(prompts.tell_about(p), prompts.reply(p.text)) for p in passages]
    for x in model.dreams(passages, count, seed) if count else ():
        pairs.append(
            (prompts.tell_about(passages[x.document]), prompts.reply_without_thought(x.tokens))
        )
    said = iter(model.asked(model.trained([pairs], seed, CONTINUED), passages))
    return [[next(said) for _ in passage.questions] for passage in passages]
