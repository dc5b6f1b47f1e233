"""The text that a page of HTML shows, read tag by tag: no tree is built, so a page takes time and
memory in proportion to its length, however deep it nests.
"""

import re
from html.parser import HTMLParser

HIDDEN = ("head", "title", "script", "style", "template", "noscript")
IN_HEAD = {*HIDDEN, "base", "link", "meta"}  # any other element ends an unclosed <head>
LINES = {"li", "tr", "dt", "dd"}
CELLS = {"td", "th"}
PARAGRAPHS = {
    *("p", "div", "section", "article", "main", "header", "footer", "nav", "aside", "pre"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "figure"),
}


class VisibleText(HTMLParser):
    """Gathers what a page shows: blocks are paragraphs, items and rows are lines, cells are set
    apart.

    Attributes:
      title: of the page; "" where it has none.
    """

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.title = ""
        self._pieces: list[str] = []
        self._depth = dict.fromkeys((*HIDDEN, "pre"), 0)  # open elements of these tags

    def handle_starttag(self, tag, attrs):
        if tag not in IN_HEAD and tag not in ("html", "pre"):
            self._depth["head"] = self._depth["title"] = 0
        if tag in self._depth:
            self._depth[tag] += 1
        if tag in PARAGRAPHS:
            self._pieces.append("\n\n")
        elif tag == "br" or (tag in LINES and self._pieces and self._pieces[-1][-1:] != "\n"):
            self._pieces.append("\n")

    def handle_startendtag(self, tag, attrs):
        if tag not in self._depth:  # <script/> and the like hold nothing
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        if self._depth.get(tag):
            self._depth[tag] -= 1
        if tag in PARAGRAPHS:
            self._pieces.append("\n\n")
        elif tag in LINES:
            self._pieces.append("\n")
        elif tag in CELLS:
            self._pieces.append(" | ")

    def handle_data(self, data):
        if self._depth["title"]:
            self.title = self.title or " ".join(data.split())
        elif not any(self._depth[tag] for tag in HIDDEN):
            self._pieces.append(data if self._depth["pre"] else re.sub(r"\s+", " ", data))

    @property
    def text(self) -> str:
        """What was read so far, with at most one empty line between paragraphs."""
        lines = (line.strip().removesuffix(" |") for line in "".join(self._pieces).split("\n"))
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
