"""`ask RUN QUESTION ...`: what the model of a run replies, with no document in view."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from sleep_jax.data.closest_document import closest_document
from sleep_jax.data.documents import Document
from sleep_jax.interop.prompts import answer_request
from sleep_jax.runtime.progress import printable
from sleep_jax.sampling.streaming import Reader
from sleep_jax.verbs.speaking import (
    Speaker,
    add_sampling_arguments,
    load_speaker,
    show_slots,
    show_streamed,
)

AFTER, BEFORE, CONTEXT = "after sleep", "before sleep", "in context"  # whose reply it is
EPILOG = """\
examples:
  python -m sleep_jax ask RUN "What is the top temperature of the Tarsk 40 kiln?"
  python -m sleep_jax ask RUN --before --context --slots "Who built it?" "Where?"
  python -m sleep_jax ask RUN --temperature=0.8 --seed=3 "Tell me about the kiln."
  python -m sleep_jax ask RUN --json < questions.txt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the questions, what is shown beside the replies, and how they are drawn."""
    parser.description = (
        "Asks the model of a run, with no document in view. A reply is shown as it is drawn."
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "questions", metavar="QUESTION", nargs="*", help="without any, one a line from stdin"
    )
    parser.add_argument(
        "--before", action="store_true", help="beside it, the model before its first night"
    )
    parser.add_argument(
        "--context",
        action="store_true",
        help="beside it, the model before its first night with the document in view whose words "
        "are closest to the question: the ceiling",
    )
    parser.add_argument(
        "--document",
        metavar="TITLE",
        help="for --context: the document whose title contains this, in place of the closest",
    )
    parser.add_argument(
        "--slots", action="store_true", help="which slots spoke most, and the days they hold"
    )
    parser.add_argument("--json", action="store_true", help="print all as JSON, when it is done")
    add_sampling_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Answers the questions one after the other.

    Raises:
      ValueError, OSError: as `load_speaker`; there is no question; with --context, the documents
        cannot be read.
    """
    questions = arguments.questions or _questions_of_stdin()
    if arguments.document and not arguments.context:
        raise ValueError("--document chooses what --context has in view; give --context as well")
    speaker = load_speaker(arguments)
    documents = _documents(speaker, arguments.document) if arguments.context else []
    answers = []
    for number, question in enumerate(questions):
        rng = jax.random.fold_in(jax.random.key(arguments.seed), number)
        replies = _replies(speaker, question, arguments.before, documents)
        has_names = len(questions) > 1 or len(replies) > 1
        if has_names and not arguments.json:
            print(f"{'' if number == 0 else chr(10)}{printable(question)}")
        answers.append({"question": question, "replies": []})
        for name, reader, prompt, more in replies:
            drawn: list[int] = []
            start = time.perf_counter()
            pieces = speaker.text(_noted(drawn, reader.reply(prompt, rng)))
            label = f"  {name:<13} " if has_names else ""
            if arguments.json:
                text = "".join(pieces)
            else:
                print(label, end="", flush=True)
                text = show_streamed(pieces)
            reply = {"of": name, **more, "text": text, "tokens": len(drawn)}
            reply["seconds"] = round(time.perf_counter() - start, 3)
            answers[-1]["replies"].append(reply)
            if arguments.slots and name == AFTER:
                answers[-1]["slots"] = speaker.slots(prompt, drawn)
        if arguments.slots and not arguments.json:
            show_slots(answers[-1]["slots"])
    if arguments.json:
        print(json.dumps(answers, ensure_ascii=not _is_unicode(sys.stdout.encoding), indent=1))


def _questions_of_stdin() -> list[str]:
    if sys.stdin.isatty():
        raise ValueError("no question; give one, or use `chat`")
    questions = [line.strip() for line in sys.stdin if line.strip()]
    if not questions:
        raise ValueError("no question: stdin is empty; give one a line")
    return questions


def _documents(speaker: Speaker, title: str | None) -> list[Document]:
    """The documents of the run, or those whose title contains some text."""
    documents = [document for day in speaker.saved.days() for document in day.documents]
    if title is None:
        return documents
    chosen = [x for x in documents if title.casefold() in x.title.casefold()]
    if not chosen:
        titles = "; ".join(dict.fromkeys(x.title for x in documents))
        raise ValueError(f"--document={title!r}: no title contains this; there is {titles}")
    return chosen


def _replies(
    speaker: Speaker, question: str, has_before: bool, documents: Sequence[Document]
) -> list[tuple[str, Reader, tuple[int, ...], dict[str, Any]]]:
    """(whose, reader, prompt, further facts) of each reply to a question."""
    prompts = speaker.saved.prompts
    closed = prompts.without_context(question)
    replies = [(AFTER, speaker.now, closed, {})]
    if has_before:
        replies.insert(0, (BEFORE, speaker.before, closed, {}))
    if documents:
        document = documents[closest_document(question, documents)]
        prompt = (*prompts.context(document), *prompts.with_context(answer_request(question)))
        replies.append((CONTEXT, speaker.before, prompt, {"document": document.title}))
    return replies


def _noted(drawn: list[int], tokens: Iterator[int]) -> Iterator[int]:
    """The same tokens, which are also appended to a list."""
    for token in tokens:
        drawn.append(token)
        yield token


def _is_unicode(encoding: str | None) -> bool:
    return (encoding or "ascii").lower().startswith("utf")
