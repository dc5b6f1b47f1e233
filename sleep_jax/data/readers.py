"""Readers of document files by suffix: bytes in, (title or None, text) out.

`.txt` and `.md` are read as they are; `.pdf`, `.html` and `.docx` by pypdf, Beautiful Soup and
python-docx, which the extra `documents` brings.
"""

import io
import logging
import re
from collections.abc import Callable

MARKDOWN = (".md", ".markdown")
JSONL = ".jsonl"
# Separators of a text: the HTML elements that each of them follows.
SEPARATORS = {
    " | ": ["td", "th"],
    "\n": ["br", "li", "tr", "dt", "dd"],
    "\n\n": [
        *("p", "div", "section", "article", "main", "header", "footer", "nav", "aside", "pre"),
        *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "figure"),
    ],
}


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
    """The visible text of a page: blocks are paragraphs, cells of a table are separated."""
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
    for end, tags in SEPARATORS.items():
        for tag in page(tags):
            tag.insert_after(end)
            if end == "\n\n":
                tag.insert_before(end)
    lines = (line.strip().removesuffix(" |") for line in page.get_text().split("\n"))
    return title or None, re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


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
