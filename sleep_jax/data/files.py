"""Files of documents: which of a folder are read, and the text of one, whatever its form.

A path is one of this machine or an address such as `gs://bucket/notes` (through `epath`). `.txt`
and `.md` are read as they are; `.pdf`, `.html` and `.docx` by pypdf, Beautiful Soup and
python-docx, which the extra `documents` brings.
"""

import contextlib
import io
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterator

from etils import epath

MARKDOWN = (".md", ".markdown")
LINES = ".jsonl"
EXTRA = "pip install -e '.[documents]'"
# Letters by their category that show nothing: fillers of Hangul and Khmer, the empty braille cell.
INVISIBLE = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"


def located(path: str | os.PathLike[str]) -> epath.Path:
    """A path as a user gives it; `~` is their home."""
    return epath.Path(os.path.expanduser(os.fspath(path)))


def suffix_of(path: epath.Path) -> str:
    """In lower case: `NOTES.TXT` is a text, too."""
    return path.suffix.lower()


def files_below(folder: epath.Path) -> tuple[list[epath.Path], list[epath.Path]]:
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
def reaching(path: str | os.PathLike[str]) -> Iterator[None]:
    """Says in words what keeps an address from being read.

    Raises:
      ValueError: what reaches it is not installed.
      PermissionError: it may not be read.
      ConnectionError: it could not be reached.
    """
    try:
        yield
    except (OSError, ValueError):
        raise
    except ImportError as error:
        raise ValueError(
            f"data.documents={str(path)!r} is an address; pip install -e '.[gs]' brings what "
            "reaches it, or give a path of this machine"
        ) from error
    except Exception as error:
        if "://" not in str(path):
            raise
        is_refused = str(getattr(error, "code", "")) in ("401", "403")
        raise (PermissionError if is_refused else ConnectionError)(
            f"data.documents={str(path)!r} cannot be read ({error}); see that the address is right "
            "and that this machine may read it, or give a path of this machine"
        ) from error


def read_bytes(path: epath.Path) -> bytes:
    """What a file holds; raises as `reaching` does."""
    with reaching(path):
        return path.read_bytes()


def read_text(path: epath.Path) -> tuple[str | None, str]:
    """(its own title, text) of a file.

    Raises:
      ValueError: it is empty, damaged or of another kind, or its reader is not installed; names it.
    """
    suffix = suffix_of(path)
    if suffix not in READERS:
        raise ValueError(f"{path}: a {path.suffix or 'nameless'} file; {KINDS} are read")
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


def writable(text: str) -> str:
    """A text with U+FFFD for halves of characters, which UTF-8 cannot write: what Python makes of
    the bytes of an odd file name, for one."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def _identity(path: epath.Path) -> str:
    """What two names of one file have in common."""
    return str(path) if "://" in str(path) else os.path.realpath(path)


def _is_link(path: epath.Path) -> bool:
    return "://" not in str(path) and os.path.islink(path)


def _plain(content: bytes) -> tuple[None, str]:
    return None, content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _markdown(content: bytes) -> tuple[str | None, str]:
    """Titled by its first heading."""
    _, text = _plain(content)
    heading = re.match(r"\s*#\s+(.+)", text)
    return heading and heading[1].strip(), text


def _pdf(content: bytes) -> tuple[str | None, str]:
    """Page by page; a sentence that goes on in the next line is put together."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what matters is raised

    text = "\n\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages)
    text = re.sub(r"(?<=[^\W\d_])-\n(?=[a-z])", "", text)

    def join(end: re.Match) -> str:
        return f"{end[1]} " if end[2].islower() else end[0]

    return None, re.sub(r"([^\s.!?:;]) ?\n(?=(\w))", join, text)


def _html(content: bytes) -> tuple[str | None, str]:
    """What a page shows: blocks are paragraphs, cells of a table are set apart."""
    import bs4

    page = bs4.BeautifulSoup(content, "html.parser")
    title = " ".join(page.title.get_text().split()) if page.title else ""
    for hidden in page(["head", "script", "style", "template", "noscript"]):
        hidden.decompose()
    for words in page.find_all(string=True):
        if isinstance(words, bs4.element.PreformattedString):  # comments, declarations
            words.extract()
        elif not words.find_parent("pre"):
            words.replace_with(re.sub(r"\s+", " ", words))
    for end, tags in BLOCKS.items():
        for tag in page(tags):
            tag.insert_after(end)
            if end == "\n\n":
                tag.insert_before(end)
    lines = (line.strip().removesuffix(" |") for line in page.get_text().split("\n"))
    return title or None, re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


BLOCKS = {
    " | ": ["td", "th"],
    "\n": ["br", "li", "tr", "dt", "dd"],
    "\n\n": [
        *("p", "div", "section", "article", "main", "header", "footer", "nav", "aside", "pre"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "figure"),
    ],
}


def _docx(content: bytes) -> tuple[str | None, str]:
    """Paragraphs and tables in their order."""
    import docx
    from docx.table import Table

    document = docx.Document(io.BytesIO(content))
    blocks = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            rows = (" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows)
            blocks.append("\n".join(rows))
        else:
            blocks.append(block.text)
    return document.core_properties.title or None, "\n\n".join(filter(str.strip, blocks))


READERS: dict[str, tuple[Callable[[bytes], tuple[str | None, str]], str]] = {
    ".txt": (_plain, ""),
    **dict.fromkeys(MARKDOWN, (_markdown, "")),
    ".pdf": (_pdf, "pypdf"),
    **dict.fromkeys((".html", ".htm"), (_html, "beautifulsoup4")),
    ".docx": (_docx, "python-docx"),
    LINES: (_plain, ""),
}
KINDS = f"{', '.join([*READERS][:-1])} and {LINES}"
