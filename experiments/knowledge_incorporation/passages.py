"""SQuAD passages with their questions, as SEAL's files keep them (Zweiger et al. 2025, MIT; the
passages CC BY-SA 4.0): a JSON list of {title, context, questions: [{question, answer}]}.

    python experiments/knowledge_incorporation/passages.py FOLDER > passages.jsonl

writes the passages that are asked about as documents that `--config.data.documents` reads.
"""

import argparse
import json
import pathlib
from collections.abc import Callable, Sequence

from sleep_jax.data.documents import Document, QuestionAnswer
from sleep_jax.evals.items import Item, RewardItems
from sleep_jax.fields import Fields, read_json

ASKED = "cpt200_base_val.json"  # SEAL's 200 passages with 974 questions
REWARDED = "iter0_train.json"  # the passages of its first round of reinforcement
MOST_WORDS = 150  # of a passage: with its prompt it fits a row of a batch


def read_passages(file: pathlib.Path, count: int, fits: Callable[[str], bool]) -> list[Document]:
    """The first passages of a file that fit, in its order.

    Args:
      file: one of SEAL's.
      count: of passages.
      fits: whether to take a passage with this text.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: fewer passages fit, or a field is missing or no text.
    """
    if not file.exists():
        raise FileNotFoundError(
            f"{file}: no such file; give --data the folder knowledge-incorporation/data of SEAL's "
            "repository, or wherever its files lie"
        )
    items = Fields({"passages": read_json(file)}, str(file)).objects("passages")
    chosen = [(i, item) for i, item in enumerate(items) if fits(item.text("context"))][:count]
    if len(chosen) < count:
        raise ValueError(f"{file}: {len(chosen)} passages fit, fewer than the {count} requested")
    return [
        Document(
            id=f"{file.stem}-{i}",
            title=item.text("title"),
            text=item.text("context").strip(),
            questions=tuple(
                QuestionAnswer(q.text("question"), q.text("answer"))
                for q in item.objects("questions")
            ),
        )
        for i, item in chosen
    ]


def reward_items(tested: Sequence[Document], rewarded: Sequence[Document]) -> RewardItems:
    """The questions about `rewarded`, by which a writer is rewarded.

    Raises:
      AssertionError: one of them is also a test question, about `tested`.
    """
    tests = {q.question for passage in tested for q in passage.questions}
    items = [
        Item(i, q.question, (q.answer,))
        for i, passage in enumerate(rewarded)
        for q in passage.questions
    ]
    return RewardItems.checked_against(tests, items)


def is_short(text: str) -> bool:
    """Whether a text has at most `MOST_WORDS` words."""
    return len(text.split()) <= MOST_WORDS


def as_line(document: Document) -> str:
    """A document as a line of JSONL."""
    questions = [{"question": q.question, "answer": q.answer} for q in document.questions]
    fields = {"id": document.id, "title": document.title, "text": document.text}
    return json.dumps(fields | {"questions": questions}, ensure_ascii=False)


def main() -> None:
    """Prints passages as JSONL."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=pathlib.Path, help="the folder of SEAL's files")
    parser.add_argument("--count", type=int, default=20)
    arguments = parser.parse_args()
    for document in read_passages(arguments.data / ASKED, arguments.count, is_short):
        print(as_line(document))


if __name__ == "__main__":
    main()
