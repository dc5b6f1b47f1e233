"""The documents a day is made of: read from files, checked, and cut to what the model can hold.

A source is a file (`data.files`: text, markdown, PDF, HTML, Word, or JSONL), a folder of them, an
address of either, a SeqIO task (`data.seqio_tasks`), or `samples` for the invented documents that
come with the package, `samples:4` for their first four chunks. One line of JSONL is one document:

    {"text": "...", "id": "...", "title": "...", "questions": [
        {"question": "...", "answer": "...", "paraphrase": "...", "aliases": ["..."]}]}

where all but `text`, `question` and `answer` may be left out.
"""

import collections
import dataclasses
import importlib.resources
import os
import re
import warnings
from collections.abc import Sequence
from typing import Any

from etils import epath

from sleep_jax.addresses import check_answers
from sleep_jax.data import files, json_lines, tasks
from sleep_jax.data.chunking import MIN_CHUNK_TOKENS, Encode, split_text
from sleep_jax.data.readers import JSONL, SUPPORTED
from sleep_jax.fields import writable

SAMPLES = "samples"
_SAMPLES = "the samples"  # in words
SHOWN = 5  # skipped files that are named
MOST_TITLE = 200  # characters that every part of a document repeats; a heading may be a whole text


@dataclasses.dataclass(frozen=True)
class QuestionAnswer:
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
    questions: tuple[QuestionAnswer, ...] = ()


@dataclasses.dataclass(frozen=True)
class Anchors:
    """What the model could do before: texts it should still predict, questions it should answer."""

    texts: tuple[str, ...]
    questions: tuple[QuestionAnswer, ...]


@dataclasses.dataclass(frozen=True)
class ChunkedSource:
    """What came of a source.

    Attributes:
      documents: what is read, each short enough for one context.
      parts: how many there are, those beyond the limit included.
      source: what they are of, in words: `1 file`, `2 files`, `the samples`, `seqio:TASK`.
    """

    documents: tuple[Document, ...]
    parts: int
    source: str

    def __str__(self) -> str:
        """E.g. `886 parts of 1 file, all read`."""
        parts = f"{self.parts:,} part{'' if self.parts == 1 else 's'} of {self.source}"
        if len(self.documents) == self.parts:
            return f"{parts}, all read"
        return f"{len(self.documents):,} of {parts} read, as data.limit has it"


@dataclasses.dataclass(frozen=True)
class Source:
    """Documents as they were read, before they are cut to what the model can hold.

    Attributes:
      documents: whole ones.
      words: what they are of: `1 file`, `2 files`, `the samples`, `seqio:TASK`.
      name: of the source, as the user gave it.
      limit: most parts; 0: all.
    """

    documents: tuple[Document, ...]
    words: str
    name: str
    limit: int = 0

    def cut(self, max_chunk_tokens: int, encode: Encode) -> "ChunkedSource":
        """The documents, each short enough for one context.

        Args:
          max_chunk_tokens: most tokens a document may have; a longer one becomes several, titled
            `Title (1 of 3)`, cut at the end of a paragraph, else of a sentence, else of a word.
          encode: text to token ids.

        Raises:
          ValueError: there are fewer samples than are asked for.
        """
        if max_chunk_tokens < MIN_CHUNK_TOKENS:
            raise ValueError(
                f"max_chunk_tokens={max_chunk_tokens}; allow at least {MIN_CHUNK_TOKENS}"
            )
        parts = [
            x for document in self.documents for x in _chunks(document, max_chunk_tokens, encode)
        ]
        if self.words == _SAMPLES:
            first, last = _samples_asked(self.name, len(parts))
            parts = parts[first - 1 : last]
        return ChunkedSource(tuple(parts[: self.limit or None]), len(parts), self.words)


def read_source(path: str | os.PathLike[str], limit: int = 0) -> Source:
    """Reads a source, whole: what is wrong with it is told before there is a tokenizer to cut it.

    Args:
      path: a file of a kind that `data.files` reads, a folder (read in sorted order, with its
        subfolders; a warning names what is skipped), the address of either, `seqio:` and the name
        of a task, `samples`, `samples:4` for their first four parts, or `samples:7-10` for
        those from the seventh to the tenth.
      limit: most documents, counted once they are cut; 0: all.

    Returns:
      Documents with distinct ids, none of them empty.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: a file is empty, not UTF-8 text, of another kind or ill-formed; names the file
        and the line.
      OSError: an address cannot be read, as `addresses.check_answers` says it.
    """
    documents, words = _read(path, limit)
    seen = collections.Counter(document.id for document in documents)
    if repeated := [name for name, count in seen.items() if count > 1]:
        raise ValueError(f"{path}: the id {repeated[0]!r} is used twice; ids tell documents apart")
    return Source(tuple(documents), words, str(path), limit)


def read_anchors() -> Anchors:
    """The packaged texts and questions that a night must leave as they were."""
    texts, questions = [], []
    for where, item in json_lines.objects("anchors.jsonl", _sample("anchors.jsonl")):
        if item.get("kind") == "text":
            texts.append(json_lines.string(item, "text", where))
        elif item.get("kind") == "question":
            questions.append(_question(item, where))
        else:
            raise ValueError(f"{where}: kind={item.get('kind')!r}; it is 'text' or 'question'")
    return Anchors(tuple(texts), tuple(questions))


def read_rehearsal_topics() -> list[str]:
    """The packaged everyday topics a model may rehearse while it sleeps, one a line."""
    lines = (line.strip() for line in _sample("rehearsal_topics.txt").splitlines())
    return [line for line in lines if line]


def _read(path: str | os.PathLike[str], limit: int) -> tuple[list[Document], str]:
    """Whole documents, and what they are of, in words."""
    name = str(path)
    if name.startswith(tasks.PREFIX):
        task = name.rpartition(":")[2]
        read = enumerate(tasks.read_examples(name, limit), 1)
        return [Document(f"{task}-{i}", title, text) for i, (title, text) in read], name
    if name.partition(":")[0] == SAMPLES:
        _samples_asked(name)
        return _documents_of_lines("documents.jsonl", _sample("documents.jsonl")), _SAMPLES
    if not name:
        raise ValueError(f"data.documents is empty; give {_KNOWN}")
    found = files.expand_path(path)
    with files.explain_address_errors(name):
        check_answers(name)
        is_folder = found.is_dir()
        if not is_folder and not found.exists():
            raise FileNotFoundError(f"data.documents={name!r}: nothing there; give {_KNOWN}")
        read = _choose(found) if is_folder else [found]
    documents = [x for file in read for x in _documents_of(file, found if is_folder else None)]
    return documents, f"{len(read):,} file{'' if len(read) == 1 else 's'}"


_KNOWN = (
    f"a {SUPPORTED.replace(' and ', ' or ')} file, a folder of such files, "
    f"{tasks.PREFIX + 'TASK'!r}, or {SAMPLES!r}"
)


def _samples_asked(name: str, there: int | None = None) -> tuple[int, int]:
    """The first and the last of the samples' parts that are asked for, of those that are there;
    None: nobody knows yet how many that is."""
    if name == SAMPLES:
        return 1, there or 1
    asked = re.fullmatch(r"(?:([0-9]{1,9})-)?([0-9]{1,9})", name.partition(":")[2])
    first, last = (int(asked[1] or 1), int(asked[2])) if asked else (0, 0)
    if not 1 <= first <= last <= (last if there is None else there):
        have = "" if there is None else f"the samples have {there} parts of data.chunk_tokens; "
        raise ValueError(
            f"data.documents={name!r}: {have}give {SAMPLES!r} for all of the samples, e.g. "
            f"'{SAMPLES}:4' for their first four parts, or '{SAMPLES}:7-10' for those from the "
            "seventh to the tenth"
        )
    return first, last


def _choose(folder: epath.Path) -> list[epath.Path]:
    """The files of a folder that are read; warns of the others."""
    read, skipped = files.list_files(folder)
    if not read:
        raise ValueError(f"{folder}: no {SUPPORTED.replace(' and ', ' or ')} file in this folder")
    if skipped:
        names = ", ".join(_name(file, folder) for file in skipped[:SHOWN])
        more = f" and {len(skipped) - SHOWN:,} more" if len(skipped) > SHOWN else ""
        warnings.warn(
            f"data.documents={str(folder)!r}: not read: {names}{more}; {SUPPORTED} are",
            stacklevel=2,
        )
    return read


def _documents_of(file: epath.Path, folder: epath.Path | None) -> list[Document]:
    """What a file holds; it is named by its way from the folder that is read."""
    name = _name(file, folder)
    title, text = files.read_text(file)
    if files.suffix_of(file) == JSONL:
        return _documents_of_lines(str(file), text, name.rpartition(".")[0])
    title = title or file.stem.replace("_", " ").replace("-", " ")
    return [Document(id=name, title=writable(title), text=writable(text.strip()))]


def _name(file: epath.Path, folder: epath.Path | None) -> str:
    return writable(file.name if folder is None else file.relative_to(folder).as_posix())


def _documents_of_lines(name: str, content: str, stem: str = "documents") -> list[Document]:
    """Those without an id are called by `stem` and their line."""
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
            _question(question, f"{where}, question {index}")
            for index, question in enumerate(questions, 1)
        ),
    )


def _question(item: Any, where: str) -> QuestionAnswer:
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


def _sample(name: str) -> str:
    return (importlib.resources.files(__package__) / "samples" / name).read_text(encoding="utf-8")


def _chunks(document: Document, limit: int, encode: Encode) -> list[Document]:
    """The document itself where it fits, else its parts, each with the questions about it."""
    texts = [*filter(files.is_visible, split_text(document.text, limit, encode))]
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


def _home(question: QuestionAnswer, texts: Sequence[str]) -> int:
    """Index of the text which says the answer, and most of the words of the question."""
    words = set(re.findall(r"\w+", f"{question.question} {question.answer}".lower()))

    def shared(index: int) -> tuple[bool, int]:
        text = texts[index].lower()
        said = any(answer.lower() in text for answer in (question.answer, *question.aliases))
        return said, len(words & set(re.findall(r"\w+", text)))

    return max(range(len(texts)), key=shared)
