"""Files of documents: which of a folder are read, and the text of one, whatever its form.

A path is one of this machine or an address such as `gs://bucket/notes` (through `epath`).
"""

import contextlib
import os
import unicodedata
from collections.abc import Iterator

from etils import epath

from sleep_jax.addresses import in_words, is_remote
from sleep_jax.data.readers import READERS, SUPPORTED

EXTRA = "pip install -e '.[documents]'"
# Letters by their category that show nothing: fillers of Hangul and Khmer, the empty braille cell.
INVISIBLE = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"


def expand_path(path: str | os.PathLike[str]) -> epath.Path:
    """A path as a user gives it; `~` is their home."""
    return epath.Path(os.path.expanduser(os.fspath(path)))


def suffix_of(path: epath.Path) -> str:
    """In lower case: `NOTES.TXT` is a text, too."""
    return path.suffix.lower()


def list_files(folder: epath.Path) -> tuple[list[epath.Path], list[epath.Path]]:
    """The files of a folder and of those below it.

    What begins with a dot is passed over. Links are followed, and nothing is read twice: neither
    what a link leads back to, nor what it shows under another name.

    Returns:
      (read, skipped): files of a kind that is read, and the others, sorted by their path.
    """
    found, links, seen = [], [], set()
    folders = [folder]
    while folders or links:  # what a link leads to comes last, so that its own name counts
        here = folders.pop() if folders else links.pop(0)
        if (key := _identity(here)) in seen:
            continue
        seen.add(key)
        if not here.is_dir():
            found.append(here)
            continue
        for entry in sorted(here.iterdir()):
            if not entry.name.startswith("."):
                (links if _is_link(entry) else folders).append(entry)
    found.sort()
    read = [file for file in found if suffix_of(file) in READERS and file.exists()]
    return read, [file for file in found if file not in read]


@contextlib.contextmanager
def explain_address_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Says in words what keeps an address from being read; raises as `addresses.in_words`."""
    try:
        with in_words(path):
            yield
    except (OSError, ValueError) as error:
        if not is_remote(path) or not str(error).startswith(str(path)):
            raise
        raise type(error)(f"data.documents={error}") from error.__cause__


def read_bytes(path: epath.Path) -> bytes:
    """What a file holds; raises as `reaching` does."""
    with explain_address_errors(path):
        return path.read_bytes()


def read_text(path: epath.Path) -> tuple[str | None, str]:
    """(its own title, text) of a file.

    Raises:
      ValueError: it is empty, damaged or of another kind, or its reader is not installed; names it.
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
            f"{path}: a {suffix} file is read by {package}, which is not installed; {EXTRA} brings "
            "it, or save the file as text"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text; save it as UTF-8, or remove it") from error
    except Exception as error:  # such a reader raises whatever it meets in a damaged file
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path}: {package} cannot read it ({said}); save it as text, or remove it"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path}: holds zero bytes, so it is no text; remove it")
    if not is_visible(text):
        scanned = "; pages that are pictures need OCR first" if suffix == ".pdf" else ""
        raise ValueError(f"{path}: the file is empty{scanned}; fill it, or remove it")
    return title, text


def is_visible(text: str) -> bool:
    """Whether a reader would see anything of it."""
    unseen = ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")
    return any(unicodedata.category(c) not in unseen and c not in INVISIBLE for c in text)


def _identity(path: epath.Path) -> str:
    """What two names of one file have in common."""
    return str(path) if is_remote(path) else os.path.realpath(path)


def _is_link(path: epath.Path) -> bool:
    return not is_remote(path) and os.path.islink(path)
