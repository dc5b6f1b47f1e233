"""Who sleeps: a model, what it is given to read, and how it will be asked; all that stays the same
through a night."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sleep_jax import config as settings
from sleep_jax.data.documents import (
    Document,
    read_anchors,
    read_documents,
    read_rehearsal_topics,
)
from sleep_jax.evals.recall import AnchorSet
from sleep_jax.interop.load import load_model
from sleep_jax.interop.resolve import resolve
from sleep_jax.interop.tiny import tiny_model
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.config import DecoderConfig
from sleep_jax.models.encoder import load_encoder
from sleep_jax.rewards.semantic import SemanticJudge, agreement
from sleep_jax.seeding.imitation import Judge
from sleep_jax.seeding.prompts import Prompts


@dataclasses.dataclass(frozen=True)
class TestQuestion:
    """A question of the user's, one wording of it.

    Attributes:
      document: index of its document.
      text: the question.
      answers: the short answer and its other forms.
      is_paraphrase: it is the held-out wording.
    """

    document: int
    text: str
    answers: tuple[str, ...]
    is_paraphrase: bool


@dataclasses.dataclass(frozen=True)
class Sleeper:
    """A model and its day.

    Attributes:
      config: the run's settings.
      cfg, params, tokenizer: the base model.
      documents: what it reads.
      questions: what it is asked about them; empty for documents without questions.
      topics: general prompts that it rehearses on.
      anchors: what it should predict as well after the night as before, by name of the score.
      judge: r_sem.
    """

    config: ml_collections.FrozenConfigDict
    cfg: DecoderConfig
    params: Any
    tokenizer: Tokenizer
    documents: list[Document]
    questions: list[TestQuestion]
    topics: list[str]
    anchors: dict[str, AnchorSet]
    judge: Judge

    @property
    def prompts(self) -> Prompts:
        """Its prompts."""
        return Prompts(self.tokenizer)


def wake_up(config: ml_collections.ConfigDict) -> Sleeper:
    """Loads everything that a run needs and checks it.

    Raises:
      ValueError, OSError: a setting, a document or the model is not as it should be; says which and
        what to do.
    """
    for build in (settings.seeding_config, settings.reinforcing_config, settings.study_config):
        build(config)
    overrides = {
        "memory": settings.memory_config(config),
        "lora": settings.lora_config(config),
        "remat": config.model.remat,
    }
    is_tiny = config.model.name == "tiny"
    cfg, params, tokenizer = (
        tiny_model(dtype=config.model.dtype, seed=config.seed, **overrides)
        if is_tiny
        else load_model(config.model.name, dtype=config.model.dtype, **overrides)
    )
    documents = read_documents(
        config.data.documents,
        max_chunk_tokens=config.data.chunk_tokens,
        encode=tokenizer.encode,
    )
    documents = documents[: config.data.limit or None]
    _check_lengths(config, Prompts(tokenizer), documents)
    return Sleeper(
        config=ml_collections.FrozenConfigDict(config),
        cfg=cfg,
        params=jax.tree.map(jnp.asarray, params),
        tokenizer=tokenizer,
        documents=documents,
        questions=_test_questions(documents),
        topics=read_rehearsal_topics(),
        anchors=_anchors(tokenizer),
        judge=_judge(config.seeding.judge),
    )


def _test_questions(documents) -> list[TestQuestion]:
    asked = []
    for i, document in enumerate(documents):
        for q in document.questions:
            answers = (q.answer, *q.aliases)
            asked.append(TestQuestion(i, q.question, answers, False))
            if q.paraphrase:
                asked.append(TestQuestion(i, q.paraphrase, answers, True))
    return asked


def _anchors(tokenizer: Tokenizer) -> dict[str, AnchorSet]:
    """General text as it stands, and general questions with their answers as chats."""
    anchors, prompts = read_anchors(), Prompts(tokenizer)
    chats = [(*prompts.alone(q.question), *prompts.reply(q.answer)) for q in anchors.questions]
    return {
        "anchor_perplexity": AnchorSet.of([*map(tokenizer.encode, anchors.texts)]),
        "chat_perplexity": AnchorSet.of(chats),
    }


def _judge(name: str) -> Judge:
    if name == "embedding":
        return SemanticJudge(load_encoder(resolve("all-MiniLM-L6-v2")))
    if name == "agreement":
        return lambda candidates, references: np.array(
            [agreement(c, r) for c, r in zip(candidates, references)], np.float32
        )
    raise ValueError(f"seeding.judge={name!r}; choose 'embedding' or 'agreement'")


def _check_lengths(config, prompts: Prompts, documents) -> None:
    """A document, with the longest prompt beside it, has to fit a row of a seeding batch."""
    for document in documents:
        words = len(prompts.reply(document.text))
        row = len(prompts.alone(f"Tell me about {document.title}.")) + words
        if row > config.seeding.time or words > config.seeding.scored:
            raise ValueError(
                f"document {document.title!r} needs rows of {row} tokens, {words} of them scored, "
                f"more than seeding.time={config.seeding.time} and "
                f"seeding.scored={config.seeding.scored}; raise them or lower data.chunk_tokens"
            )
