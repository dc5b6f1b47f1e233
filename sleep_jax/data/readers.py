"""Readers of document files by suffix: bytes in, (title or None, text) out.

`.txt` and `.md` are read as they are; `.pdf` and `.docx` by pypdf and python-docx, the encoding of
`.html` is found by Beautiful Soup: the extra `documents` brings all three.
"""

import io
import logging
import re
from collections.abc import Callable

from sleep_jax.data.html import VisibleText

MARKDOWN = (".md", ".markdown")
JSONL = ".jsonl"
# Runs of white space, and tags, over which the patterns of html.parser would take megabytes; no
# page shows them.
TOO_LONG = re.compile(r"\s{100,}|<[a-zA-Z!/?][^<>]{1000,}>?")


def _plain(content: bytes) -> tuple[None, str]:
    return None, content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def _markdown(content: bytes) -> tuple[str | None, str]:
    """The title is the first heading."""
    _, text = _plain(content)
    heading = re.match(r"\s*#\s+(.+)", text)
    return heading and heading[1].strip(), text


def _pdf(content: bytes) -> tuple[str | None, str]:
    """The text of all pages; lines of one sentence and hyphenated words are joined."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # errors are raised all the same

    text = "\n\n".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages)
    text = re.sub(r"(?<=[^\W\d_])-\n(?=[a-z])", "", text)

    def join(end: re.Match) -> str:
        return f"{end[1]} " if end[2].islower() else end[0]

    return None, re.sub(r"([^\s.!?:;]) ?\n(?=(\w))", join, text)


def _html(content: bytes) -> tuple[str | None, str]:
    """What a page shows, in the encoding that it declares or seems to be in."""
    from bs4 import UnicodeDammit

    logging.getLogger("bs4.dammit").setLevel(logging.CRITICAL)  # replaced characters are seen
    page = VisibleText()
    markup = UnicodeDammit(content, is_html=True).unicode_markup or ""
    page.feed(TOO_LONG.sub(" ", markup))
    page.close()
    return page.title or None, page.text


def _docx(content: bytes) -> tuple[str | None, str]:
    """Paragraphs and tables in order."""
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
    JSONL: (_plain, ""),
}
SUPPORTED = f"{', '.join([*READERS][:-1])} and {JSONL}"
