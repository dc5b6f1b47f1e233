"""Files of documents: which files of a folder are read, and the text of a file of any format.

A path is local or an address such as `gs://bucket/notes` (through `epath`).
"""

import contextlib
import os
import textwrap
import unicodedata
from collections.abc import Iterator

from etils import epath

from sleep_jax.addresses import is_remote, raising_store_errors
from sleep_jax.data.readers import READERS, SUPPORTED

INSTALL = "pip install -e '.[documents]'"
# Letters by Unicode category that are blank: fillers of Hangul and Khmer, the empty braille cell.
INVISIBLE = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"


def expand_path(path: str | os.PathLike[str]) -> epath.Path:
    """A path as given by a user, with `~` expanded."""
    return epath.Path(os.path.expanduser(os.fspath(path)))


def suffix_of(path: epath.Path) -> str:
    """The suffix of a path in lower case, e.g. `.txt`."""
    return path.suffix.lower()


def list_files(folder: epath.Path) -> tuple[list[epath.Path], list[epath.Path]]:
    """The files of a folder and its subfolders.

    Names that begin with a dot are skipped. Links are followed, and no file is listed twice, be it
    by a loop of links or under another name.

    Returns:
      (supported, others): the files that have a reader, and all others, sorted by path.
    """
    files, links, seen = [], [], set()
    folders = [folder]
    while folders or links:  # links last: a file that is also in the folder is listed by that name
        path = folders.pop() if folders else links.pop(0)
        if (key := _identity(path)) in seen:
            continue
        seen.add(key)
        if not path.is_dir():
            files.append(path)
            continue
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith("."):
                (links if _is_link(entry) else folders).append(entry)
    files.sort()
    supported = [file for file in files if suffix_of(file) in READERS and file.exists()]
    return supported, [file for file in files if file not in supported]


@contextlib.contextmanager
def explain_address_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors of the store of an address into those of `addresses.check_answers`, each with
    the field before it.
    """
    try:
        with raising_store_errors(path):
            yield
    except (OSError, ValueError) as error:
        if not is_remote(path) or not str(error).startswith(str(path)):
            raise
        raise type(error)(f"data.documents={error}") from error.__cause__


def read_bytes(path: epath.Path) -> bytes:
    """The content of a file; raises as `explain_address_errors`."""
    with explain_address_errors(path):
        return path.read_bytes()


def read_text(path: epath.Path) -> tuple[str | None, str]:
    """(title or None, text) of a file.

    Raises:
      ValueError: it is empty, damaged or of an unsupported kind, or its reader is not installed.
    """
    suffix = suffix_of(path)
    if suffix not in READERS:
        raise ValueError(f"{path}: a {path.suffix or 'nameless'} file; {SUPPORTED} are read")
    read, package = READERS[suffix]
    content = read_bytes(path)
    try:
        title, text = read(content)
    except ImportError as error:
        raise ValueError(
            f"{path}: a {suffix} file is read by {package}, which is not installed; {INSTALL} "
            "brings it, or save the file as text"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; save it as UTF-8, or remove it") from error
    except Exception as error:  # on damaged files the readers raise errors of any kind
        message = textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
        raise ValueError(
            f"{path}: {package} cannot read it ({message}); save it as text, or remove it"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path}: holds zero bytes, so it is not a text; remove it")
    if not is_visible(text):
        scanned = "; pages that are pictures need OCR first" if suffix == ".pdf" else ""
        raise ValueError(f"{path}: the file is empty{scanned}; fill it, or remove it")
    return title, text


def is_visible(text: str) -> bool:
    """Whether a text has a visible character."""
    invisible = ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")
    return any(unicodedata.category(c) not in invisible and c not in INVISIBLE for c in text)


def _identity(path: epath.Path) -> str:
    """A key that is equal for two names of one file."""
    return str(path) if is_remote(path) else os.path.realpath(path)


def _is_link(path: epath.Path) -> bool:
    return not is_remote(path) and os.path.islink(path)
