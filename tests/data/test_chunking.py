import re

import pytest

from sleep_jax.data.chunking import split_text


def words(text):
    """One token a word."""
    return text.split()


def sentence(n, length=5):
    return " ".join([f"w{n}"] * (length - 1)) + f" end{n}."


def test_split_text_keeps_a_text_that_fits():
    assert split_text("  One short text.\n\nTwo.  ", 8, words) == ["One short text.\n\nTwo."]


def test_split_text_cuts_between_paragraphs():
    paragraphs = [sentence(n, 6) + " " + sentence(n, 4) for n in range(3)]
    assert split_text("\n\n".join(paragraphs), 12, words) == paragraphs


def test_split_text_cuts_long_paragraphs_after_sentences():
    sentences = [sentence(n) for n in range(6)]
    chunks = split_text(" ".join(sentences), 10, words)
    assert chunks == [f"{a} {b}" for a, b in zip(sentences[::2], sentences[1::2])]


def test_split_text_cuts_long_sentences_between_words():
    chunks = split_text(" ".join(f"w{n}" for n in range(20)), 10, words)
    assert [len(chunk.split()) for chunk in chunks] == [10, 10]


def test_split_text_chunks_have_similar_lengths():
    chunks = split_text(" ".join(sentence(n) for n in range(11)), 50, words)
    assert [len(chunk.split()) for chunk in chunks] == [30, 25]  # Greedy: 50 and 5.


def test_split_text_cuts_texts_without_spaces():
    for text in ("昨日の夜、灯台は暗かった。" * 5, "x" * 103):
        chunks = split_text(text, 16, list)
        assert "".join(chunks) == text
        assert all(len(chunk) <= 16 for chunk in chunks)
    assert split_text("灯台は暗い夜。" * 2, 8, list) == ["灯台は暗い夜。"] * 2


@pytest.mark.parametrize("limit", [8, 13, 40, 200])
@pytest.mark.parametrize("encode", [words, lambda text: list(text.encode())])
def test_split_text_is_lossless_and_within_limit(limit, encode):
    text = (
        "# Title\n\nA first paragraph. It has a few sentences! Does it? Yes: (truly.) And more.\n"
        "- a list, item one\n- item two\n\n\n" + "A very long sentence " * 30 + "ends.\n\n"
        "supercalifragilisticexpialidocious" * 3 + "\n\nThe end."
    )
    chunks = split_text(text, limit, encode)
    assert all(0 < len(encode(chunk)) <= limit for chunk in chunks)
    assert re.sub(r"\s", "", "".join(chunks)) == re.sub(r"\s", "", text)
    at = 0
    for chunk in chunks:  # Every chunk is the text itself, in order.
        at = text.index(chunk, at) + len(chunk)


def test_split_text_with_too_small_limit_raises():
    with pytest.raises(ValueError, match="chunks of 3 tokens"):
        split_text("one two three four", 3, words)
