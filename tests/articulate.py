"""Patches that let the tiny model dream, although it writes random bytes: no dream is rejected, and
there is a question about every document, and a strategy to study it.

Run as a program, it is launch.py with these patches: python tests/articulate.py --config=...
"""

import runpy

import pytest

from sleep_jax.data.sentences import sentences
from sleep_jax.dreaming import write
from sleep_jax.study import questions, variants
from sleep_jax.study.questions import SelfQuestion, write_questions
from sleep_jax.study.strategies import suggest_strategies


def articulate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(write, "dream_rejection_reason", lambda *_: None)
    patch.setattr(questions, "write_questions", write_with_each)
    patch.setattr(variants, "suggest_strategies", suggest_one)


def write_with_each(cfg, variables, tokenizer, documents, *rest):
    """`write_questions`, and one about each document with its first sentence as the answer."""
    questions_asked, drawn = write_questions(cfg, variables, tokenizer, documents, *rest)
    first = [sentences(document.text)[0] for document in documents]
    first_sentence_questions = [
        SelfQuestion(i, sentence, f"What is said about {document.title}?", sentence)
        for i, (document, sentence) in enumerate(zip(documents, first))
    ]
    return [*first_sentence_questions, *questions_asked], drawn


def suggest_one(cfg, variables, tokenizer, documents, *rest):
    """`suggest_strategies`, and the same strategy for each document."""
    suggest_strategies(cfg, variables, tokenizer, documents, *rest)
    return [["Sing it aloud."] for _ in documents]


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        articulate(patch)
        runpy.run_path("launch.py", run_name="__main__")
