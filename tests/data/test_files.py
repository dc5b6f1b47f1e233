"""Document files: formats, folders, links, addresses."""

import io
import sys
import time
import zlib

import cloud_storage
import pytest
from etils import epath

from sleep_jax.cli.flags import run_with_config
from sleep_jax.data import documents, files
from sleep_jax.data.documents import read_source
from sleep_jax.data.files import expand_path


def read(path):
    return read_source(path).documents


def pdf_of(*lines):
    """A minimal PDF of one page."""
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    content = zlib.compress(f"BT /F1 12 Tf 14 TL 72 700 Td {shown} ET".encode())
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return out + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n"
        b"%%%%EOF\n" % (size, table, size, len(out))
    )


def test_folder_suffixes_are_case_insensitive(tmp_path):
    for name in ("NOTES.TXT", "c.Md", "x.markdown", "sub/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# About {name}\n\nText.")
    (tmp_path / "sub/more.jsonl").write_text('{"text": "One."}\n{"text": "Two."}\n')
    titles = {d.id: d.title for d in read(tmp_path)}
    assert titles == {
        "NOTES.TXT": "NOTES",
        "c.Md": "About c.Md",
        "sub/b.txt": "b",
        "sub/more-1": "sub/more-1",
        "sub/more-2": "sub/more-2",
        "x.markdown": "About x.markdown",
    }
    assert read(tmp_path / "NOTES.TXT")[0].text.startswith("# About")


def test_list_files_follows_links_once(tmp_path):
    notes, other = tmp_path / "notes", tmp_path / "other"
    (notes / "deep").mkdir(parents=True)
    other.mkdir()
    (notes / "deep/a.txt").write_text("A.")
    (other / "b.txt").write_text("B.")
    (notes / "away").symlink_to(other)
    (notes / "again").symlink_to(notes / "deep")  # sorts before the folder itself
    (notes / "deep/loop").symlink_to(notes)
    (other / "loop").symlink_to(other)
    (notes / "same.txt").symlink_to(notes / "deep/a.txt")
    assert [d.id for d in read(notes)] == ["away/b.txt", "deep/a.txt"]


def test_skipped_files_are_named_in_one_warning(tmp_path):
    (tmp_path / "a.txt").write_text("A.")
    for name in ("1.png", "2.csv", "3", ".hidden.png", "4.doc", "5.zip", "6.rtf", "7.odt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    with pytest.warns(UserWarning) as caught:
        assert len(read(tmp_path)) == 1
    [error] = [str(warning.message) for warning in caught]
    assert "not read: 1.png, 2.csv, 3, 4.doc, 5.zip and 3 more; .txt, .md" in error


def test_pdf_joins_wrapped_sentences(tmp_path):
    path = tmp_path / "paper.PDF"
    path.write_bytes(
        pdf_of("The kiln of Orlo reaches", "1260 degrees. It was tempe-", "red.", "End")
    )
    [document] = read(path)
    assert document.title == "paper" and document.id == "paper.PDF"
    assert document.text == "The kiln of Orlo reaches\n1260 degrees. It was tempered.\nEnd"


def test_html_is_read_as_displayed(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(
        "<!doctype html><html><head><title>The  Kiln</title><style>p {}</style></head><body>"
        "<!-- a comment --><h1>Kiln</h1><p>It reaches <b>1260</b>\n degrees.</p>"
        "<script>let x;</script><ul><li>one</li><li>two</li></ul>"
        "<table><tr><th>Top</th><td>1260</td></tr><tr><th>Low</th><td>20</td></tr></table>"
        "<p>Z&uuml;rich<br>ends</p></body></html>",
        encoding="utf-8",
    )
    [document] = read(path)
    assert document.title == "The Kiln"
    assert document.text == (
        "Kiln\n\nIt reaches 1260 degrees.\n\none\ntwo\n\nTop | 1260\nLow | 20\n\nZürich\nends"
    )


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<html><head><title>T</title><body><p>One.<p>Two.", "One.\n\nTwo."),
        ("<meta charset=latin1><ul><li>caf\xe9<li>tea</ul>end", "caf\xe9\ntea\n\nend"),
        ("<pre>a\n  b</pre>c<script/>d", "a\nb\n\ncd"),
        ("<title>never closed<p>Text.</title>", "Text."),
        ("<div>" * 20_000 + "deep", "deep"),
        (f"One.<img src='data:{'A' * 2000}'>Two.", "One. Two."),
    ],
)
def test_html_with_unclosed_tags(tmp_path, page, text):
    (tmp_path / "page.html").write_text(page, encoding="latin1")
    assert read(tmp_path)[0].text == text


def test_docx_keeps_tables_in_order(tmp_path):
    docx = pytest.importorskip("docx")
    written = docx.Document()
    written.core_properties.title = "The Kiln"
    written.add_paragraph("Before.")
    table = written.add_table(rows=2, cols=2)
    for i, word in enumerate(("Top", "1260", "Low", "20")):
        table.cell(i // 2, i % 2).text = word
    written.add_paragraph("After.")
    written.save(str(tmp_path / "kiln.docx"))
    [document] = read(tmp_path / "kiln.docx")
    assert (document.title, document.text) == (
        "The Kiln",
        "Before.\n\nTop | 1260\nLow | 20\n\nAfter.",
    )


@pytest.mark.parametrize(
    ("name", "module"), [("a.pdf", "pypdf"), ("a.html", "bs4"), ("a.docx", "docx")]
)
def test_missing_reader_raises_with_remedy(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_text("x")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(ValueError, match=rf"{name}: .* pip install -e '\.\[documents\]'"):
            read(path)


@pytest.mark.parametrize("name", ["a.pdf", "a.docx"])
def test_damaged_file_error_names_file_and_reader(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\x01 damaged")
    with pytest.raises(ValueError, match=rf"{name}: \S+ cannot read it") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_reader_error_message_is_shortened(tmp_path, monkeypatch):
    def fails(_):
        raise KeyError("word " * 1000)

    monkeypatch.setitem(files.READERS, ".pdf", (fails, "pypdf"))
    (tmp_path / "a.pdf").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\.pdf: pypdf cannot read it \('word word") as caught:
        read(tmp_path)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_file_name_that_is_not_utf8(tmp_path):
    try:
        path = tmp_path / b"caf\xe9.txt".decode("utf-8", "surrogateescape")
        path.write_text("Text.")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such name")
    [document] = read(tmp_path)
    assert document.id == "caf\ufffd.txt" and document.title == "caf\ufffd"


def test_expand_path_expands_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "notes.txt").write_text("Text.")
    assert expand_path("~/notes.txt") == epath.Path(tmp_path / "notes.txt")
    assert read("~/notes.txt")[0].text == "Text."


class Bucket:
    """The methods of an fsspec file system that are used, over files in a dict."""

    def __init__(self, files):
        self.files = files

    def isdir(self, path):
        return any(name.startswith(f"{path.rstrip('/')}/") for name in self.files)

    def exists(self, path):
        return path in self.files or self.isdir(path)

    def listdir(self, path, detail):
        start = f"{path.rstrip('/')}/"
        inside = {
            x.removeprefix(start).partition("/")[0] for x in self.files if x.startswith(start)
        }
        return [f"{start.removeprefix('gs://')}{name}" for name in sorted(inside)]

    def open(self, path, mode):
        return io.BytesIO(self.files[path])


@pytest.fixture
def bucket(monkeypatch):
    files = {
        "gs://b/notes/a.txt": b"A.",
        "gs://b/notes/deep/B.MD": b"# The B\n\nText.",
        "gs://b/notes/deep/c.png": b"x",
    }
    backend = type(epath.Path("gs://b")._backend)  # of fsspec
    monkeypatch.setattr(backend, "_get_filesystem", lambda *_: Bucket(files))
    monkeypatch.setattr(documents, "check_answers", lambda _: None)
    return files


def test_address_is_read_like_a_path(bucket):
    with pytest.warns(UserWarning, match=r"not read: deep/c\.png; "):
        bucket_documents = read("gs://b/notes")
    assert [(d.id, d.title, d.text) for d in bucket_documents] == [
        ("a.txt", "a", "A."),
        ("deep/B.MD", "The B", "# The B\n\nText."),
    ]
    assert read("gs://b/notes/a.txt")[0].text == "A."
    with pytest.raises(FileNotFoundError, match="='gs://b/none' does not exist"):
        read("gs://b/none")


def test_forbidden_address_raises_permission_error(bucket, monkeypatch):
    def refuse(*_, **__):
        raise OSError("Forbidden: https://storage/b/notes/a.txt\nno storage.objects.get")  # gcsfs

    monkeypatch.setattr(Bucket, "open", refuse)
    with pytest.raises(
        PermissionError, match=r"^data\.documents=gs://b/notes/a\.txt: access is ref"
    ):
        read("gs://b/notes/a.txt")


@pytest.mark.parametrize("status", cloud_storage.FAILURES)
def test_failing_store_exits_with_one_line_and_status(status, store, tmp_path, capfd):
    config = tmp_path / "a.py"
    config.write_text("import ml_collections\nget_config = ml_collections.ConfigDict\n")
    with cloud_storage.answering(status) as address:
        store(address)
        start = time.monotonic()
        with pytest.raises(SystemExit) as exited:
            run_with_config(
                lambda *_: read("gs://bucket/notes"),
                print,
                about="",
                argv=["launch.py", f"--config={config}"],
            )
        assert time.monotonic() - start < 10
    stderr, subject = capfd.readouterr().err, "data.documents=gs://bucket/notes"
    cloud_storage.assert_fails_in_words(status, exited.value.code, stderr, subject)


@pytest.mark.slow
@pytest.mark.parametrize("status", cloud_storage.FAILURES)
def test_run_with_failing_store_exits_in_time(status, tmp_path):
    with cloud_storage.answering(status) as address:
        exit_status, stderr, seconds = cloud_storage.command(
            "launch.py",
            "--config=configs/sleep_tiny.py",
            "--config.data.documents=gs://bucket/notes",
            f"--workdir={tmp_path}",
            STORAGE_EMULATOR_HOST=address,
        )
    subject = "data.documents=gs://bucket/notes"
    cloud_storage.assert_fails_in_words(status, exit_status, stderr, subject)
    assert seconds < 90
