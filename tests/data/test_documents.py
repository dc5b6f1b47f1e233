import json

import pytest

from sleep_jax.data.documents import (
    Document,
    QuestionAnswer,
    read_anchors,
    read_rehearsal_topics,
    read_source,
)


def read(path, limit=1000):
    return list(read_source(path).chunk(limit, str.split).documents)


def write_lines(path, *items):
    path.write_text("\n".join(i if isinstance(i, str) else json.dumps(i) for i in items))
    return path


def test_titles_of_text_and_markdown_files(tmp_path):
    (tmp_path / "my_first-note.txt").write_text("\ufeffHello there.\r\n", encoding="utf-8")
    (tmp_path / "b.md").write_text("# The Lighthouse\n\nIt stands.\n")
    assert read(tmp_path / "my_first-note.txt") == [
        Document("my_first-note.txt", "my first note", "Hello there.")
    ]
    assert read(tmp_path / "b.md")[0].title == "The Lighthouse"


def test_folder_is_read_in_sorted_order(tmp_path):
    for name in ("b.txt", "a.md", "sub/c.txt", ".hidden.txt", ".git/x.txt", "image.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"Text of {name}.")
    assert [d.id for d in read(tmp_path)] == ["a.md", "b.txt", "sub/c.txt"]


def test_jsonl_documents_with_questions(tmp_path):
    path = write_lines(
        tmp_path / "d.jsonl",
        {
            "id": "x",
            "title": "X",
            "text": "X is 3 m tall.",
            "source": "a key of the user's",
            "questions": [
                {"question": "How tall?", "answer": "3 m", "paraphrase": "What height?",
                 "aliases": ["3 metres"]},
                {"question": "What?", "answer": "X", "paraphrase": None},
            ],
        },
        "",
        {"text": "Bare."},
    )  # fmt: skip
    first, second = read(path)
    assert first == Document(
        "x",
        "X",
        "X is 3 m tall.",
        (
            QuestionAnswer("How tall?", "3 m", "What height?", ("3 metres",)),
            QuestionAnswer("What?", "X"),
        ),
    )
    assert second == Document("d-3", "d-3", "Bare.")


def test_chunk_numbers_parts_and_assigns_questions(tmp_path):
    paragraphs = [f"Part {n} " + "word " * 6 + f"the answer is {n}{n}." for n in range(3)]
    questions = [{"question": "Which?", "answer": f"{n}{n}"} for n in (2, 0)]
    path = write_lines(
        tmp_path / "d.jsonl",
        {"id": "d", "title": "T", "text": "\n\n".join(paragraphs), "questions": questions},
    )
    parts = read(path, limit=13)
    assert [part.title for part in parts] == ["T (1 of 3)", "T (2 of 3)", "T (3 of 3)"]
    assert [part.id for part in parts] == ["d-1", "d-2", "d-3"]
    assert [part.text for part in parts] == paragraphs
    assert [[q.answer for q in part.questions] for part in parts] == [["00"], [], ["22"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "cannot parse"),
        ('["a"]', "a list, not an object"),
        ("[" * 100_000, "maximum recursion depth"),
        ('{"text": ' + "1" * 5000 + "}", "Exceeds the limit"),
        ({"title": "T"}, "no 'text'"),
        ({"text": 3}, "'text' is of type int, not a string"),
        ({"text": "  "}, "'text' is empty"),
        ({"text": "\u200b\u200d"}, "'text' is empty"),
        ({"text": "half \ud83d here"}, r"holds \ud83d, half of a character"),
        ({"text": "t", "note": {"\udc00": 1}}, r"holds \udc00, half of a character"),
        ({"text": "t", "id": 5}, "'id' is of type int"),
        ({"text": "t", "question": []}, "unknown key 'question'; nearest: 'questions'"),
        ({"text": "t", "questions": {}}, None),
        ({"text": "t", "questions": {"a": 1}}, "'questions' is a dict, not a list"),
        ({"text": "t", "questions": ["why"]}, "question 1: a str, not an object"),
        ({"text": "t", "questions": [{"question": "q"}]}, "question 1: no 'answer'"),
        (
            {"text": "t", "questions": [{"question": "q", "answer": "a", "aliases": "b"}]},
            "question 1: 'aliases' must be a list of strings",
        ),
        (
            {"text": "t", "questions": [{"question": "q", "answer": "a", "aliases": ["", " "]}]},
            "question 1: one of the 'aliases' is empty",
        ),
    ],
)
def test_malformed_line_error_names_file_and_line(tmp_path, line, message):
    path = write_lines(tmp_path / "d.jsonl", {"text": "fine"}, line)
    if message is None:  # an empty value counts as absent
        assert read(path)[1].questions == ()
        return
    with pytest.raises(ValueError) as error:
        read(path)
    assert f"{path}, line 2" in str(error.value) and message in str(error.value)


def test_unreadable_documents_raise(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "zeros.txt").write_bytes(b"ab\0cd")
    (tmp_path / "paper.pdf").write_text("%PDF")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    (tmp_path / "unseen.md").write_text("\u200b\n\u2060\u3164\ufeff", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "empty.txt": "is empty",
        "latin.txt": "not UTF-8",
        "zeros.txt": "zero bytes",
        "paper.pdf": "pypdf cannot read it",
        "image.png": r"a \.png file; \.txt, .* are read",
        "unseen.md": "is empty",
        "folder": r"no \.txt, \.md, .* file in this folder",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            read(tmp_path / name)
        assert name in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"nope.*'samples'"):
        read(tmp_path / "nope")


def test_duplicate_ids_raise(tmp_path):
    path = write_lines(tmp_path / "d.jsonl", {"id": "a", "text": "1"}, {"id": "a", "text": "2"})
    with pytest.raises(ValueError, match="'a' is used twice"):
        read(path)


def test_samples_contain_answers_of_their_questions():
    documents = read("samples")
    assert len(documents) >= 10
    for document in documents:
        assert document.questions
        for question in document.questions:
            assert question.paraphrase and question.paraphrase != question.question
            assert question.answer.lower() in document.text.lower()


def test_chunked_samples_keep_every_question():
    whole, parts = read("samples"), read("samples", limit=60)
    assert len(parts) > len(whole)
    assert sum(len(d.questions) for d in parts) == sum(len(d.questions) for d in whole)
    assert all(q.answer.lower() in d.text.lower() for d in parts for q in d.questions)


def test_anchors_and_topics_do_not_overlap_samples():
    anchors, topics = read_anchors(), read_rehearsal_topics()
    assert len(anchors.texts) >= 10 and len(anchors.questions) >= 10 and len(topics) >= 20
    assert len(set(topics)) == len(topics)
    titles = [document.title.lower() for document in read("samples")]
    assert not any(title in text.lower() for title in titles for text in anchors.texts)


def test_samples_ranges_and_limits(tmp_path):
    assert read("samples:3") == read("samples")[:3]
    assert read("samples:3", limit=60) == read("samples", limit=60)[:3]  # of chunks
    assert read("samples:7-10") == read("samples")[6:10]
    assert read("samples:3-3") == read("samples")[2:3]
    wrong_ones = (
        "samples:0",
        "samples:99",
        "samples:four",
        "samples:",
        "samples:4-3",
        "samples:-3",
    )
    for wrong in (*wrong_ones, "samples:0-3", "samples:3-99"):
        with pytest.raises(ValueError, match=rf"='{wrong}': .*give 'samples' for all of the samp"):
            read(wrong)
    for wrong in ("samples:99", "samples:3-99"):  # known only after chunking
        assert read_source(wrong).documents == read_source("samples").documents
        with pytest.raises(ValueError, match=rf"='{wrong}': the samples have \d+ parts of "):
            read(wrong)
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"Paragraph {n} " + "word " * 20 for n in range(30)))
    whole, limited = (read_source(path, limit).chunk(25, str.split) for limit in (0, 4))
    assert str(whole) == "30 parts of 1 file, all read"
    assert str(limited) == "4 of 30 parts of 1 file read, as data.limit has it"
    assert limited.documents == whole.documents[:4]


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": ' + "9" * 5000 + "}"])
def test_unparsable_lines_raise_with_file_and_line(tmp_path, line):
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "a"}\n' + line)
    with pytest.raises(ValueError, match=r"cannot parse .*notes\.jsonl, line 2: "):
        read_source(path)


def test_long_titles_are_truncated_in_chunks(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("# " + "word " * 4000)
    chunks = read(path, limit=64)
    assert len(chunks) > 60 and all(len(x.title) < 220 for x in chunks)
    assert sum(len(x.text) for x in chunks) < 21_000
