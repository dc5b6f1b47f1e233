"""Documents in every format, SEAL's and ARC's JSON, and dream templates."""

import functools
import io
import json
import pathlib
import sys
import tomllib
import zipfile

from formats import Change, Format
from mutations import among, change, change_json, change_lines, spoil

from sleep_jax.data import grids
from sleep_jax.data.documents import read_source
from sleep_jax.data.files import READERS
from sleep_jax.dreaming.templates import read_templates

sys.path.append(str(pathlib.Path(__file__).parents[2]))  # for the experiments

from experiments.knowledge_incorporation import passages

NOTES = """# Notes

The lighthouse of Velmora was built by Odrin in 1743. Dr. Imane Tazi saw it; it is 41.5 m high.

- First: the stairs, e.g. 212 of them.
- Second: the lamp.

| part | year |
| ---- | ---- |
| lamp | 1802 |

Die Straße ist länger als 3 km. Москва — столица. 答案是东京。
"""
LINES = [
    {"text": "Odrin built the lighthouse of Velmora in 1743.", "id": "a", "title": "The lamp",
     "questions": [{"question": "Who built it?", "answer": "Odrin", "aliases": ["O."],
                    "paraphrase": "By whom?"}, {"question": "When?", "answer": "1743"}]},
    {"text": "The lamp is of 1802. " * 40},
]  # fmt: skip
PAGE = """<!DOCTYPE html><html><head><title>Notes</title><style>p {}</style></head><body>
<h1>Notes</h1><p>Odrin built the <b>lighthouse</b> &amp; the stairs.</p>
<ul><li>one</li><li>two</li></ul><table><tr><th>part</th><td>lamp</td></tr></table>
<pre>  a\n  b</pre><script>x()</script></body></html>"""
MARKS = [
    x.encode("utf-8", "surrogatepass")
    for x in (
        "# ", "\n", "\n\n", "\r\n", "\0", "\ufeff", "\u200b", "\u2028", "\u202e", " ", "- ", "| ",
        "```", ". ", "!", "x" * 3000, " x" * 3000, "\n" * 3000, "。", "\ud800", "<|im_end|>", "🌙",
    )
] + [b"\xff", b"\xc3", b"\xff\xfe"]  # fmt: skip
TAGS = MARKS + [
    x.encode()
    for x in (
        "<p>", "</p>", "<table>", "</table>", "<td>", "<div>" * 500, "<", ">", "&", "&#0;",
        "&#xd800;",
        "&#99999999;", "<!--", "-->", "<![CDATA[", "<script>", "<pre>", "<title>", "<br/>",
        "<a href='",
    )
]  # fmt: skip
OBJECTS = [
    x.encode()
    for x in (
        "obj", "endobj", "stream", "endstream", "xref", "trailer", "startxref", "<<", ">>", "/Kids",
        "/Length", "/Count", "/Type", "/Filter /FlateDecode", "[", "]", "0 R", "1 0 R", "2 0 R",
        "3 0 R", "99 0 R", "-1", "99999999999", "(", ")", "/Contents", "/Parent", "/Prev 9",
        "/Encrypt",
    )
]  # fmt: skip


def _pdf() -> bytes:
    """A page with a line of text."""
    words = b"BT /F1 12 Tf 72 720 Td (Odrin built the lighthouse.) Tj 0 -14 Td (It is high.) Tj ET"
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources "
        b"<< /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >> stream\n%s\nendstream" % (len(words), words),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    file, starts = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        starts.append(len(file))
        file += b"%d 0 obj %s endobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    end = b"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % len(file)
    return file + b"xref\n0 6\n0000000000 65535 f \n" + table + end


@functools.cache
def _docx() -> bytes:
    import docx

    document = docx.Document()
    document.add_heading("Notes", 1)
    document.add_paragraph("Odrin built the lighthouse of Velmora in 1743.")
    document.add_table(1, 2).rows[0].cells[0].text = "lamp"
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def _change_docx(rng, data: bytes) -> bytes:
    """Changes one of the files of an archive, or the archive."""
    if rng.random() < 0.3:
        return spoil(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = "word/document.xml" if rng.random() < 0.6 else rng.choice(list(parts))
    parts[name] = among(TAGS)(rng, parts[name])
    if rng.random() < 0.1:
        del parts[rng.choice(list(parts))]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for each, content in parts.items():
            archive.writestr(each, content)
    return file.getvalue()


def _lines(items) -> bytes:
    return "\n".join(json.dumps(x) for x in items).encode()


# By suffix: valid contents and their change. A new document format is a line here.
FORMS: dict[str, tuple[bytes, Change]] = {
    ".txt": (NOTES.encode(), among(MARKS)),
    ".md": (NOTES.encode(), among(MARKS)),
    ".jsonl": (_lines(LINES), change_lines),
    ".html": (PAGE.encode(), among(TAGS)),
    ".pdf": (_pdf(), among(OBJECTS)),
    ".docx": (b"", _change_docx),
}


def _read_document(suffix: str, folder: pathlib.Path) -> None:
    read = read_source(folder / f"notes{suffix}").chunk(64, str.split).documents
    for document in read:
        words = (document.title, document.text, *(q.question for q in document.questions))
        assert all(x.strip() and x.encode("utf-8") for x in words)


SEAL = [
    {"title": f"Title {i}", "context": "The lamp was lit in 1802 by Odrin. " * (i + 1),
     "questions": [{"question": "When was it lit?", "answer": "1802"},
                   {"question": "By whom?", "answer": "Odrin"}],
     "completions": ["- It was lit.", "- By Odrin."], "prompt": "Read.", "scores": [0.5, 0.25]}
    for i in range(3)
]  # fmt: skip
PAIR = {"input": [[0, 1, 2], [3, 4, 5]], "output": [[9, 8], [7, 6]]}
ARC = {
    "007bbfb7": {"train": [PAIR, PAIR, PAIR], "test": [PAIR]},
    "00d62c1b": {"train": [PAIR, PAIR], "test": [{"input": [[1] * 9] * 9, "output": [[2]]}]},
}
ARC_ALONE = {k: x | {"test": [{"input": y["input"]} for y in x["test"]]} for k, x in ARC.items()}
ARC_SOLUTIONS = {k: [y["output"] for y in x["test"]] for k, x in ARC.items()}


def _read_seal(folder: pathlib.Path) -> None:
    read = passages.read_passages(folder / "iter0_train.json", 1, passages.is_short)
    for document in read:
        passages.as_line(document).encode("utf-8")


def _read_arc(folder: pathlib.Path) -> None:
    tasks = grids.read_tasks(folder / "tasks.json")
    for task in tasks:
        task.name.encode("utf-8")
        grids.grid_text(task.examples[0].input, " ")


TEMPLATES = {
    "implications": {"prompt": "List what follows from it."},
    "seal": {"prompt": "Passage:\n{title}\n{text}\nImplications:", "form": "chat"},
    "recipe": {"prompt": "{text} as a recipe", "form": "plain", "writes": "recipe"},
}


def _toml(tree) -> bytes:
    """TOML of a dict of dicts with JSON values."""
    lines = []
    for name, table in tree.items() if isinstance(tree, dict) else [("x", tree)]:
        lines.append(f"[{name}]" if name.isalnum() else f"[{json.dumps(name)}]")
        for key, value in table.items() if isinstance(table, dict) else [("prompt", table)]:
            lines.append(f"{key or json.dumps(key)} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _change_toml(rng, data: bytes) -> bytes:
    if rng.random() < 0.4:
        return spoil(rng, data)
    tree = tomllib.loads(data.decode())
    for _ in range(rng.choice((1, 1, 2))):
        tree = change(rng, tree)
    return _toml(tree).replace(b'"@deep@"', b"[" * 3000 + b"]" * 3000)


def _read_templates(folder: pathlib.Path) -> None:
    for template in read_templates(folder / "dreams.toml").values():
        template.prompt.encode("utf-8")


FORMATS = (
    *(
        Format(
            f"document {suffix}",
            f"notes{suffix}",
            [base or _docx()],
            changed,
            functools.partial(_read_document, suffix),
        )
        for suffix, (base, changed) in FORMS.items()
        if suffix in READERS
    ),
    Format("SEAL JSON", "iter0_train.json", [json.dumps(SEAL).encode()], change_json, _read_seal),
    Format("ARC JSON", "tasks.json", [json.dumps(ARC).encode()], change_json, _read_arc),
    Format(
        "ARC challenges",
        "tasks.json",
        [json.dumps(ARC_ALONE).encode()],
        change_json,
        lambda folder: grids.read_tasks(folder / "tasks.json", folder / "solutions.json"),
        {"solutions.json": json.dumps(ARC_SOLUTIONS).encode()},
    ),
    Format(
        "ARC solutions",
        "solutions.json",
        [json.dumps(ARC_SOLUTIONS).encode()],
        change_json,
        lambda folder: grids.read_tasks(folder / "tasks.json", folder / "solutions.json"),
        {"tasks.json": json.dumps(ARC_ALONE).encode()},
    ),
    Format("dream templates", "dreams.toml", [_toml(TEMPLATES)], _change_toml, _read_templates),
)
