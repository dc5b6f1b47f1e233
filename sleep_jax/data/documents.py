"""The documents a day is made of: read from files, checked, and cut to what the model can hold.

A source is a file (`data.files`: text, markdown, PDF, HTML, Word, or JSONL), a folder of them, an
address of either, a SeqIO task (`data.seqio_tasks`), or `samples` for the invented documents that
come with the package, `samples:4` for their first four chunks.
"""

import collections
import dataclasses
import importlib.resources
import os
import re
import warnings
from collections.abc import Sequence

from etils import epath

from sleep_jax.addresses import check_answers
from sleep_jax.data import files, json_lines, seqio_tasks
from sleep_jax.data.chunking import MIN_CHUNK_TOKENS, Encode, split_text
from sleep_jax.data.jsonl_documents import (
    Document,
    QuestionAnswer,
    documents_in_jsonl,
    question_of,
)
from sleep_jax.data.readers import JSONL, SUPPORTED
from sleep_jax.fields import writable

SAMPLES = "samples"
NONE = "none"  # a run that is continued is given nothing new to read
_SAMPLES = "the samples"  # its description in messages
MAX_NAMED = 5  # skipped files that a warning names
MAX_TITLE = 200  # characters of a title that every chunk repeats; a heading may be a whole text


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Known texts and questions: their perplexity and answers should not change.

    Attributes:
      texts: whose perplexity is measured.
      questions: that the model should still answer.
    """

    texts: tuple[str, ...]
    questions: tuple[QuestionAnswer, ...]


@dataclasses.dataclass(frozen=True)
class ChunkedSource:
    """The chunks of a source.

    Attributes:
      documents: the chunks that are read, each short enough for one context.
      total: number of chunks of the source, those beyond the limit included.
      source: its description: `1 file`, `2 files`, `the samples`, `seqio:TASK`.
    """

    documents: tuple[Document, ...]
    total: int
    source: str

    def __str__(self) -> str:
        """E.g. `886 parts of 1 file, all read`."""
        parts = f"{self.total:,} part{'' if self.total == 1 else 's'} of {self.source}"
        if len(self.documents) == self.total:
            return f"{parts}, all read"
        return f"{len(self.documents):,} of {parts} read, as data.limit has it"


@dataclasses.dataclass(frozen=True)
class Source:
    """Whole documents, before they are cut into chunks.

    Attributes:
      documents: as read.
      description: `1 file`, `2 files`, `the samples`, `seqio:TASK`.
      name: of the source, as the user gave it.
      limit: most chunks; 0: all.
    """

    documents: tuple[Document, ...]
    description: str
    name: str
    limit: int = 0

    def chunk(self, max_chunk_tokens: int, encode: Encode) -> "ChunkedSource":
        """Cuts the documents into chunks, each short enough for one context.

        Args:
          max_chunk_tokens: most tokens of a chunk; a longer document becomes several, titled
            `Title (1 of 3)`, cut at the end of a paragraph, else of a sentence, else of a word.
          encode: text to token ids.

        Raises:
          ValueError: `max_chunk_tokens` is too small, or there are fewer samples than requested.
        """
        if max_chunk_tokens < MIN_CHUNK_TOKENS:
            raise ValueError(
                f"max_chunk_tokens={max_chunk_tokens}; allow at least {MIN_CHUNK_TOKENS}"
            )
        chunks = [
            x for document in self.documents for x in _chunks(document, max_chunk_tokens, encode)
        ]
        if self.description == _SAMPLES:
            first, last = _sample_range(self.name, len(chunks))
            chunks = chunks[first - 1 : last]
        return ChunkedSource(tuple(chunks[: self.limit or None]), len(chunks), self.description)


def read_source(path: str | os.PathLike[str], limit: int = 0) -> Source:
    """Reads a source whole, so that errors in it are found before a tokenizer is loaded to cut it.

    Args:
      path: a file of a kind that `data.files` reads, a folder (read in sorted order, with its
        subfolders; a warning names what is skipped), the address of either, `seqio:` and the name
        of a task, `samples`, `samples:4` for their first four chunks, or `samples:7-10` for
        the seventh to the tenth.
      limit: most chunks (`Source.chunk`); 0: all.

    Returns:
      Documents with distinct ids, none of them empty.

    Raises:
      FileNotFoundError: the path does not exist.
      ValueError: a file is empty, not UTF-8 text, of another kind or ill-formed; names the file
        and the line.
      OSError: an address cannot be read; as `addresses.check_answers`.
    """
    documents, description = _read(path, limit)
    counts = collections.Counter(document.id for document in documents)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise ValueError(f"{path}: the id {repeated[0]!r} is used twice; ids must be unique")
    return Source(tuple(documents), description, str(path), limit)


def read_anchors() -> Anchors:
    """The packaged anchors: texts and questions that a night should not change."""
    texts, questions = [], []
    for where, item in json_lines.objects("anchors.jsonl", _sample("anchors.jsonl")):
        if item.get("kind") == "text":
            texts.append(json_lines.string(item, "text", where))
        elif item.get("kind") == "question":
            questions.append(question_of(item, where))
        else:
            raise ValueError(f"{where}: kind={item.get('kind')!r}; it is 'text' or 'question'")
    return Anchors(tuple(texts), tuple(questions))


def read_rehearsal_topics() -> list[str]:
    """The packaged everyday topics that a model may rehearse while it sleeps."""
    lines = (line.strip() for line in _sample("rehearsal_topics.txt").splitlines())
    return [line for line in lines if line]


def _read(path: str | os.PathLike[str], limit: int) -> tuple[list[Document], str]:
    """(whole documents, description of the source)."""
    name = str(path)
    if name.startswith(seqio_tasks.PREFIX):
        task = name.rpartition(":")[2]
        read = enumerate(seqio_tasks.read_examples(name, limit), 1)
        return [Document(f"{task}-{i}", title, text) for i, (title, text) in read], name
    if name.partition(":")[0] == SAMPLES:
        _sample_range(name)
        return documents_in_jsonl("documents.jsonl", _sample("documents.jsonl")), _SAMPLES
    if not name:
        raise ValueError(f"data.documents is empty; give {_KNOWN}")
    location = files.expand_path(path)
    with files.explain_address_errors(name):
        check_answers(name)
        is_folder = location.is_dir()
        if not is_folder and not location.exists():
            raise FileNotFoundError(f"data.documents={name!r} does not exist; give {_KNOWN}")
        read = _files_to_read(location) if is_folder else [location]
    folder = location if is_folder else None
    documents = [x for file in read for x in _documents_in(file, folder)]
    return documents, f"{len(read):,} file{'' if len(read) == 1 else 's'}"


_KNOWN = (
    f"a {SUPPORTED.replace(' and ', ' or ')} file, a folder of such files, "
    f"{seqio_tasks.PREFIX + 'TASK'!r}, or {SAMPLES!r}"
)


def _sample_range(name: str, count: int | None = None) -> tuple[int, int]:
    """The first and the last requested chunk of the samples, from 1; `count` is how many there are,
    None where they are not cut yet.
    """
    if name == SAMPLES:
        return 1, count or 1
    match = re.fullmatch(r"(?:([0-9]{1,9})-)?([0-9]{1,9})", name.partition(":")[2])
    first, last = (int(match[1] or 1), int(match[2])) if match else (0, 0)
    if not 1 <= first <= last <= (last if count is None else count):
        available = (
            "" if count is None else f"the samples have {count} parts of data.chunk_tokens; "
        )
        raise ValueError(
            f"data.documents={name!r}: {available}give {SAMPLES!r} for all of the samples, e.g. "
            f"'{SAMPLES}:4' for their first four parts, or '{SAMPLES}:7-10' for those from the "
            "seventh to the tenth"
        )
    return first, last


def _files_to_read(folder: epath.Path) -> list[epath.Path]:
    """The supported files of a folder; warns of the others."""
    read, skipped = files.list_files(folder)
    if not read:
        raise ValueError(f"{folder}: no {SUPPORTED.replace(' and ', ' or ')} file in this folder")
    if skipped:
        names = ", ".join(_name(file, folder) for file in skipped[:MAX_NAMED])
        more = f" and {len(skipped) - MAX_NAMED:,} more" if len(skipped) > MAX_NAMED else ""
        warnings.warn(
            f"data.documents={str(folder)!r}: not read: {names}{more}; {SUPPORTED} are",
            stacklevel=2,
        )
    return read


def _documents_in(file: epath.Path, folder: epath.Path | None) -> list[Document]:
    """The documents in a file; their ids are made of its path from the folder that is read."""
    name = _name(file, folder)
    title, text = files.read_text(file)
    if files.suffix_of(file) == JSONL:
        return documents_in_jsonl(str(file), text, name.rpartition(".")[0])
    title = title or file.stem.replace("_", " ").replace("-", " ")
    return [Document(id=name, title=writable(title), text=writable(text.strip()))]


def _name(file: epath.Path, folder: epath.Path | None) -> str:
    return writable(file.name if folder is None else file.relative_to(folder).as_posix())


def _sample(name: str) -> str:
    return (importlib.resources.files(__package__) / "samples" / name).read_text(encoding="utf-8")


def _chunks(document: Document, limit: int, encode: Encode) -> list[Document]:
    """The document itself where it fits, else its chunks, each with the questions about it."""
    texts = [*filter(files.is_visible, split_text(document.text, limit, encode))]
    if len(texts) == 1:
        return [document]
    chunk_indices = [_chunk_about(question, texts) for question in document.questions]
    return [
        Document(
            id=f"{document.id}-{index + 1}",
            title=f"{document.title[:MAX_TITLE]} ({index + 1} of {len(texts)})",
            text=text,
            questions=tuple(q for q, i in zip(document.questions, chunk_indices) if i == index),
        )
        for index, text in enumerate(texts)
    ]


def _chunk_about(question: QuestionAnswer, texts: Sequence[str]) -> int:
    """Index of the text that contains the answer and shares most words with the question."""
    words = set(re.findall(r"\w+", f"{question.question} {question.answer}".lower()))

    def overlap(index: int) -> tuple[bool, int]:
        text = texts[index].lower()
        has_answer = any(answer.lower() in text for answer in (question.answer, *question.aliases))
        return has_answer, len(words & set(re.findall(r"\w+", text)))

    return max(range(len(texts)), key=overlap)
