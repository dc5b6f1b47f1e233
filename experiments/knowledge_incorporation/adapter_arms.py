"""The arms that train an adapter on text: the passage alone, and SEAL (Zweiger et al. 2025).

SEAL's inner loop is `dreaming.trial`, its outer loop ReST-EM over `dreaming.write`; both come from
the library, with its templates. Every adapter of an arm is trained in one program. The arms of a
single adapter do what `baselines.sft` does, up to rounding; they train as the others, as they did
when the published numbers were made.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Any

import jax

from sleep_jax.baselines.model import Model, base_model
from sleep_jax.baselines.sft import document_pairs
from sleep_jax.data.documents import Document
from sleep_jax.data.examples import PromptCompletion, make_examples
from sleep_jax.dreaming.adapters import init_adapters
from sleep_jax.dreaming.reinforce import rewarded_dreams, trial_sequences
from sleep_jax.dreaming.reward import RewardConfig, compute_rewards, measure_gains
from sleep_jax.dreaming.templates import choose_templates, read_templates
from sleep_jax.dreaming.trial import TrialConfig, train_adapters
from sleep_jax.dreaming.write import Dream, WritingConfig, write_dreams
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.items import RewardItems
from sleep_jax.evals.scorers import make_scorer
from sleep_jax.experiment import Experiment
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig

ALL_LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
INNER = LoraConfig(rank=32, alpha=64.0, targets=ALL_LINEARS)
OUTER = LoraConfig(rank=64, alpha=128.0, targets=ALL_LINEARS)
TRIAL = TrialConfig(epochs=10, learning_rate=1e-3, schedule="linear", microbatch=4)
CONTINUED = TrialConfig(
    epochs=10, learning_rate=1e-3, schedule="linear", batch_size=8, microbatch=8
)
REINFORCING = TrialConfig(
    epochs=2, learning_rate=3e-4, schedule="linear", batch_size=2, microbatch=8
)
# As in configs/seal.py.
REWARD = RewardConfig(scorer="contains", form="top_1", margin=-math.inf, baseline="untrained")
TEMPLATE = "implications"
DREAMS = 3  # about a passage


def settings() -> dict[str, Any]:
    """What these arms' results depend on."""
    configs = {"inner": INNER, "outer": OUTER, "trial": TRIAL}
    configs |= {"continued": CONTINUED, "reinforcing": REINFORCING}
    configs |= {"earns": REWARD}
    fields = {name: dataclasses.asdict(config) for name, config in configs.items()}
    return fields | {"template": TEMPLATE, "dreams": DREAMS}


@dataclasses.dataclass(frozen=True)
class SealModel:
    """A base model and the adapter it writes dreams with.

    Attributes:
      cfg, params, tokenizer: the base.
      writer: `lora` collection; None: the base itself writes.
    """

    cfg: DecoderConfig
    params: Any
    tokenizer: Tokenizer
    writer: Any = None

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> "SealModel":
        """The base model of an experiment, without its memory."""
        base = base_model(experiment)
        return cls(base.cfg, base.variables["params"], base.tokenizer)

    @property
    def prompts(self) -> Prompts:
        """Prompts of its tokenizer."""
        return Prompts(self.tokenizer)

    def dreams(self, passages: Sequence[Document], count: int, seed: int) -> list[Dream]:
        """Up to `count` dreams about each passage; texts that are no dream are left out."""
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
        """A model for each item, fine-tuned on the item's (prompt, reply) pairs."""
        base = self._base()
        key = jax.random.key(seed)
        initial = init_adapters(base.cfg, self.params, key, trial.seeds)
        rows = make_examples(items, is_packed=not trial.batch_size)
        adapters, _ = train_adapters(base.cfg, trial, base.variables, initial, rows, rng=key)
        return base.with_adapters(adapters)

    def replies(self, models: AdaptedModels, passages: Sequence[Document]) -> list[list[str]]:
        """The reply of each model to every question about its passage."""
        prompts = [
            [self.prompts.without_context(q.question) for q in p.questions] for p in passages
        ]
        return models.replies(prompts)

    def replies_of_one(self, model: AdaptedModels, passages: Sequence[Document]) -> list[str]:
        """The reply of one model to every question about all passages."""
        [replies] = model.replies(
            [[self.prompts.without_context(q.question) for p in passages for q in p.questions]]
        )
        return replies

    def reinforced(
        self, passages: Sequence[Document], items: RewardItems, count: int, seed: int
    ) -> "SealModel":
        """One round of ReST-EM: of `count` dreams about each passage the writer learns the one that
        taught a model most, as measured by the questions of `items`; where none taught it anything
        the writer stays as it was.
        """
        dreams, prompts, base = self.dreams(passages, count, seed), self.prompts, self._base()
        pairs = [
            trial_sequences(x, passages[x.document], prompts, TRIAL.split_lines) for x in dreams
        ]
        documents = [x.document for x in dreams]
        gain = measure_gains(
            base,
            TRIAL,
            make_scorer(REWARD.scorer),
            init_adapters(base.cfg, self.params, jax.random.key(seed), TRIAL.seeds),
            make_examples(pairs, is_packed=not TRIAL.batch_size),
            documents,
            items,
            rng=jax.random.key(seed),
        ).over(REWARD.baseline)
        template = read_templates()[TEMPLATE]
        lessons = [
            (template.tokens(prompts, passages[x.document]), x.tokens)
            for x in rewarded_dreams(dreams, compute_rewards(REWARD, gain, documents))
        ]
        if not lessons:
            warnings.warn("no dream was rewarded: the writer stays as it was", stacklevel=2)
            return self
        cfg = dataclasses.replace(self.cfg, lora=OUTER)
        key = jax.random.key(seed)
        initial = init_adapters(cfg, self.params, key, 1)
        rows = make_examples([lessons], is_packed=False)
        writer, _ = train_adapters(cfg, REINFORCING, base.variables, initial, rows, rng=key)
        return dataclasses.replace(self, writer=writer)

    def _base(self) -> AdaptedModels:
        """The base, with the shape of a trial's adapters."""
        cfg = dataclasses.replace(self.cfg, lora=INNER)
        return AdaptedModels(cfg, {"params": self.params}, self.tokenizer, batch=32)


def one_of(models: AdaptedModels, index: int = 0) -> Model:
    """A model of many."""
    adapter = jax.tree.map(lambda x: x[:, index], models.adapters)
    return Model(models.cfg, {**models.variables, "lora": adapter}, models.tokenizer)


def on_passages(
    model: SealModel, passages: Sequence[Document], seed: int
) -> tuple[list[list[str]], Model]:
    """Replies, per passage, of a model that was fine-tuned on it; and the first of these models."""
    items = [document_pairs(model.prompts, [passage]) for passage in passages]
    models = model.trained(items, seed)
    return model.replies(models, passages), one_of(models)


def on_dreams(
    model: SealModel, passages: Sequence[Document], count: int, seed: int
) -> tuple[list[list[list[str]]], Model]:
    """Replies, per passage and dream, of a model that was fine-tuned on that dream and the passage;
    on the passage alone where no dream is left. And the first model about the first passage.
    """
    dreams = model.dreams(passages, count, seed)
    items = [trial_sequences(x, passages[x.document], model.prompts, False) for x in dreams]
    documents = [x.document for x in dreams]
    for i in sorted({*range(len(passages))} - {*documents}):
        items.append(document_pairs(model.prompts, [passages[i]]))
        documents.append(i)
    models = model.trained(items, seed)
    replies = model.replies(models, [passages[i] for i in documents])
    by_passage = [[r for r, j in zip(replies, documents) if j == i] for i in range(len(passages))]
    return by_passage, one_of(models, documents.index(0))


def continued(
    model: SealModel, passages: Sequence[Document], count: int, seed: int
) -> tuple[list[list[str]], Model]:
    """Replies, per passage, of one model that was fine-tuned on all passages and, of each, on
    `count` dreams; and that model.
    """
    prompts = model.prompts
    pairs = document_pairs(prompts, passages)
    for x in model.dreams(passages, count, seed) if count else ():
        pairs.append(
            (prompts.tell_about(passages[x.document]), prompts.reply_without_thought(x.tokens))
        )
    trained = model.trained([pairs], seed, CONTINUED)
    replies = iter(model.replies_of_one(trained, passages))
    return [[next(replies) for _ in passage.questions] for passage in passages], one_of(trained)
