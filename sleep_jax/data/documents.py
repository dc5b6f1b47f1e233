"""The documents a day is made of: read from files, checked, and cut to what the model can hold.

A source is a text or markdown file, a folder of them, a JSONL file, a SeqIO task (`data.tasks`), or
the name `samples` for the invented documents that come with the package. One line of JSONL is one
document:

    {"text": "...", "id": "...", "title": "...", "questions": [
        {"question": "...", "answer": "...", "paraphrase": "...", "aliases": ["..."]}]}

where all but `text`, `question` and `answer` may be left out.
"""

import collections
import dataclasses
import difflib
import importlib.resources
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sleep_jax.data import tasks
from sleep_jax.data.chunking import SMALLEST, Encode, split_text
from sleep_jax.fields import reason

SAMPLES = "samples"
MOST_TITLE = 200  # characters that every part of a document repeats; a heading may be a whole text
SUFFIXES = (".txt", ".md")


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a document; `paraphrase` asks the same in words held out of training."""

    question: str
    answer: str
    paraphrase: str | None = None
    aliases: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Document:
    """A text to read, with the questions that test whether it was learnt."""

    id: str
    title: str
    text: str
    questions: tuple[Question, ...] = ()


@dataclasses.dataclass(frozen=True)
class Anchors:
    """What the model could do before: texts it should still predict, questions it should answer."""

    texts: tuple[str, ...]
    questions: tuple[Question, ...]


def read_documents(
    path: str | os.PathLike[str], *, max_chunk_tokens: int, encode: Encode, limit: int = 0
) -> list[Document]:
    """Reads a source and cuts what is too long for one context.

    Args:
      path: a .txt, .md or .jsonl file, a folder of .txt and .md files (read in sorted order, with
        its subfolders), `seqio:` and the name of a task, or `samples`.
      max_chunk_tokens: most tokens a document may have; a longer one becomes several, titled
        `Title (1 of 3)`, cut at the end of a paragraph, else of a sentence, else of a word.
      encode: text to token ids.
      limit: most documents, counted once they are cut; 0: all.

    Returns:
      Documents with distinct ids, none of them empty.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: a file is empty, not UTF-8 text, of another kind or ill-formed; names the file
        and the line.
    """
    if max_chunk_tokens < SMALLEST:
        raise ValueError(f"max_chunk_tokens={max_chunk_tokens}; allow at least {SMALLEST}")
    documents = _read(path, limit)
    seen = collections.Counter(document.id for document in documents)
    if repeated := [name for name, count in seen.items() if count > 1]:
        raise ValueError(f"{path}: the id {repeated[0]!r} is used twice; ids tell documents apart")
    chunks = (x for document in documents for x in _chunks(document, max_chunk_tokens, encode))
    return list(itertools.islice(chunks, limit or None))


def read_anchors() -> Anchors:
    """The packaged texts and questions that a night must leave as they were."""
    texts, questions = [], []
    for where, item in _jsonl("anchors.jsonl", _sample("anchors.jsonl")):
        if item.get("kind") == "text":
            texts.append(_string(item, "text", where))
        elif item.get("kind") == "question":
            questions.append(_question(item, where))
        else:
            raise ValueError(f"{where}: kind={item.get('kind')!r}; it is 'text' or 'question'")
    return Anchors(tuple(texts), tuple(questions))


def read_rehearsal_topics() -> list[str]:
    """The packaged everyday topics a model may rehearse while it sleeps, one a line."""
    lines = (line.strip() for line in _sample("rehearsal_topics.txt").splitlines())
    return [line for line in lines if line]


def _read(path: str | os.PathLike[str], limit: int) -> list[Document]:
    if str(path).startswith(tasks.PREFIX):
        name = str(path).rpartition(":")[2]
        read = enumerate(tasks.read_examples(str(path), limit), 1)
        return [Document(f"{name}-{i}", title, text) for i, (title, text) in read]
    if str(path) == SAMPLES:
        return _documents_of_lines("documents.jsonl", _sample("documents.jsonl"))
    if not str(path):
        raise ValueError(
            f"data.documents is empty; give a file, a folder, {tasks.PREFIX + 'TASK'!r}, or "
            f"{SAMPLES!r}"
        )
    path = pathlib.Path(path)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise FileNotFoundError(
            f"data.documents={str(path)!r}: nothing there; give a .txt, .md or .jsonl file, "
            f"a folder of .txt and .md files, {tasks.PREFIX + 'TASK'!r}, or {SAMPLES!r}"
        )
    if path.suffix == ".jsonl":
        return _documents_of_lines(str(path), _text(path))
    if path.suffix in SUFFIXES:
        return [_document_of_file(path, path.name)]
    raise ValueError(f"{path}: a {path.suffix or 'nameless'} file; .txt, .md and .jsonl are read")


def _folder(path: pathlib.Path) -> list[Document]:
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise ValueError(f"{path}: no .txt or .md file in this folder; put the documents there")
    return [_document_of_file(file, file.relative_to(path).as_posix()) for file in files]


def _document_of_file(path: pathlib.Path, name: str) -> Document:
    """Titled by its first markdown heading, else by its file name."""
    text = _text(path).strip()
    heading = re.match(r"#\s+(.+)", text) if path.suffix == ".md" else None
    title = heading[1].strip() if heading else path.stem.replace("_", " ").replace("-", " ")
    return Document(id=name, title=title, text=text)


def _documents_of_lines(name: str, content: str) -> list[Document]:
    return [_document(item, where, name) for where, item in _jsonl(name, content)]


def _document(item: dict[str, Any], where: str, name: str) -> Document:
    _check_keys(item, ("id", "title", "text", "questions"), where)
    number = where.rpartition(" ")[2]
    default = f"{pathlib.Path(name).stem}-{number}"
    questions = item.get("questions") or []
    if not isinstance(questions, list):
        raise ValueError(f"{where}: 'questions' is a {type(questions).__name__}, not a list")
    id = _string(item, "id", where, default)
    return Document(
        id=id,
        title=_string(item, "title", where, id),
        text=_string(item, "text", where).strip(),
        questions=tuple(
            _question(question, f"{where}, question {index}")
            for index, question in enumerate(questions, 1)
        ),
    )


def _question(item: Any, where: str) -> Question:
    if not isinstance(item, dict):
        raise ValueError(f"{where}: a {type(item).__name__}, not an object with question, answer")
    _check_keys(item, ("question", "answer", "paraphrase", "aliases", "kind"), where)
    aliases = item.get("aliases") or []
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise ValueError(f"{where}: 'aliases' must be a list of strings")
    return Question(
        question=_string(item, "question", where),
        answer=_string(item, "answer", where),
        paraphrase=_string(item, "paraphrase", where, None) if item.get("paraphrase") else None,
        aliases=tuple(aliases),
    )


_REQUIRED = object()


def _string(item: dict[str, Any], key: str, where: str, default: Any = _REQUIRED) -> Any:
    value = item.get(key)
    if value is None and default is not _REQUIRED:
        return default
    if value is None:
        raise ValueError(f"{where}: no {key!r}; every entry needs one")
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key!r} is of type {type(value).__name__}, not a string")
    if not value.strip():
        raise ValueError(f"{where}: {key!r} is empty")
    return value


def _check_keys(item: dict[str, Any], known: Sequence[str], where: str) -> None:
    """Refuses a misspelt key, which would be lost without a word; other keys are the user's."""
    for key in item:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if key not in known and near and near[0] not in item:
            raise ValueError(f"{where}: unknown key {key!r}; nearest: {near[0]!r}")


def _jsonl(name: str, content: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (`file, line n`, object) for every line that is not blank."""
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:  # also a number of 4,300 digits
            raise ValueError(f"{where}: not valid JSON ({reason(error)})") from error
        if not isinstance(item, dict):
            raise ValueError(f"{where}: a {type(item).__name__}, not an object with a 'text'")
        yield where, item


def _text(path: pathlib.Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; save it as UTF-8, or remove it") from error
    if "\0" in text:
        raise ValueError(f"{path}: holds zero bytes, so it is no text; remove it")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; fill it, or remove it")
    return text


def _sample(name: str) -> str:
    return (importlib.resources.files(__package__) / "samples" / name).read_text(encoding="utf-8")


def _chunks(document: Document, limit: int, encode: Encode) -> list[Document]:
    """The document itself where it fits, else its parts, each with the questions about it."""
    texts = split_text(document.text, limit, encode)
    if len(texts) == 1:
        return [document]
    homes = [_home(question, texts) for question in document.questions]
    return [
        Document(
            id=f"{document.id}-{index + 1}",
            title=f"{document.title[:MOST_TITLE]} ({index + 1} of {len(texts)})",
            text=text,
            questions=tuple(q for q, home in zip(document.questions, homes) if home == index),
        )
        for index, text in enumerate(texts)
    ]


def _home(question: Question, texts: Sequence[str]) -> int:
    """Index of the text which says the answer, and most of the words of the question."""
    words = set(re.findall(r"\w+", f"{question.question} {question.answer}".lower()))

    def shared(index: int) -> tuple[bool, int]:
        text = texts[index].lower()
        said = any(answer.lower() in text for answer in (question.answer, *question.aliases))
        return said, len(words & set(re.findall(r"\w+", text)))

    return max(range(len(texts)), key=shared)
