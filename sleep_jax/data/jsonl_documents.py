"""Documents and questions as JSON Lines.

One line is one document:

    {"text": "...", "id": "...", "title": "...", "questions": [
        {"question": "...", "answer": "...", "paraphrase": "...", "aliases": ["..."]}]}

where all but `text`, `question` and `answer` may be left out.
"""

import dataclasses
from typing import Any

from sleep_jax.data import json_lines


@dataclasses.dataclass(frozen=True)
class QuestionAnswer:
    """A question about a document.

    Attributes:
      question, answer: as asked, and the reference answer.
      paraphrase: the same question in other words, held out of training; or None.
      aliases: other accepted answers.
    """

    question: str
    answer: str
    paraphrase: str | None = None
    aliases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Document:
    """A text to read, with the questions that test whether it was learnt.

    Attributes:
      id: unique among the documents of a run.
      title, text: as given.
      questions: test questions about it.
    """

    id: str
    title: str
    text: str
    questions: tuple[QuestionAnswer, ...] = ()


def documents_in_jsonl(name: str, content: str, stem: str = "documents") -> list[Document]:
    """The documents of a JSONL text.

    Args:
      name: of the file, for errors.
      content: the text.
      stem: begins the id, before the line number, of a document that has none.

    Raises:
      ValueError: a line is not JSON, or a field is missing, misspelt or of another type.
    """
    return [_document(item, where, stem) for where, item in json_lines.objects(name, content)]


def _document(item: dict[str, Any], where: str, stem: str) -> Document:
    json_lines.check_keys(item, ("id", "title", "text", "questions"), where)
    default = f"{stem}-{where.rpartition(' ')[2]}"
    questions = item.get("questions") or []
    if not isinstance(questions, list):
        raise ValueError(f"{where}: 'questions' is a {type(questions).__name__}, not a list")
    id = json_lines.string(item, "id", where, default)
    return Document(
        id=id,
        title=json_lines.string(item, "title", where, id),
        text=json_lines.string(item, "text", where).strip(),
        questions=tuple(
            question_of(question, f"{where}, question {index}")
            for index, question in enumerate(questions, 1)
        ),
    )


def question_of(item: Any, where: str) -> QuestionAnswer:
    """A question from a parsed object; `where` is its place in errors.

    Raises:
      ValueError: it is no object, or a field is missing, misspelt or of another type.
    """
    if not isinstance(item, dict):
        raise ValueError(f"{where}: a {type(item).__name__}, not an object with question, answer")
    json_lines.check_keys(item, ("question", "answer", "paraphrase", "aliases", "kind"), where)
    return QuestionAnswer(
        question=json_lines.string(item, "question", where),
        answer=json_lines.string(item, "answer", where),
        paraphrase=json_lines.string(item, "paraphrase", where, None)
        if item.get("paraphrase")
        else None,
        aliases=json_lines.strings(item, "aliases", where),
    )
