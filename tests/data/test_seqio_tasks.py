"""Documents from SeqIO tasks and mixtures."""

import sys
import types

import pytest

from sleep_jax.data.documents import Document, read_source

pytestmark = pytest.mark.slow  # TensorFlow takes long to import

LINES = ("Kettles whistle.", "Moss glows.", "Bells ring.")


def read(source, limit=0):
    return list(read_source(source, limit).chunk(99, str.split).documents)


@pytest.fixture(scope="module")
def registered():
    """`lines` has texts with titles, `replies` only tokens; `both` is an endless mixture."""
    seqio = pytest.importorskip("seqio")
    tf = pytest.importorskip("tensorflow")

    def source(fields):
        def dataset(split, shuffle_files, seed=None):
            return tf.data.Dataset.from_tensor_slices(fields)

        return seqio.FunctionDataSource(dataset, splits=("train", "test"))

    features = {"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)}
    bare = {"targets": seqio.Feature(seqio.ByteVocabulary(), required=False)}
    titles = [f"On {line.split()[0].lower()}" for line in LINES]
    fields = {"title": titles, "text": list(LINES)}
    seqio.TaskRegistry.add("lines", source(fields), bare, [])
    tokenized = [seqio.preprocessors.tokenize]
    seqio.TaskRegistry.add("replies", source({"targets": list(LINES)}), features, tokenized)
    tokens = [lambda ds: ds.map(lambda x: {"targets": x["targets"]})]
    seqio.TaskRegistry.add(
        "tokens", source({"targets": list(LINES)}), features, [*tokenized, *tokens]
    )
    seqio.TaskRegistry.add("nothing", source({"other": list(LINES)}), bare, [])
    seqio.TaskRegistry.add("blank", source({"text": ["A word.", " "]}), bare, [])
    seqio.MixtureRegistry.add("both", [("replies", 1), ("tokens", 1)])
    yield
    for name in ("lines", "replies", "tokens", "nothing", "blank"):
        seqio.TaskRegistry.remove(name)
    seqio.MixtureRegistry.remove("both")


def test_task_is_read_in_order(registered):
    assert read("seqio:lines")[0] == Document("lines-1", "On kettles", "Kettles whistle.")
    assert [x.text for x in read("seqio:lines")] == list(LINES)
    assert [x.text for x in read("seqio:lines", limit=2)] == list(LINES[:2])
    for name in ("replies", "tokens"):
        assert [(x.title, x.text) for x in read(f"seqio:{name}")] == [
            (f"{name} {i}", line) for i, line in enumerate(LINES, 1)
        ]


def test_mixture_needs_a_limit(registered):
    mixed = read("seqio:both", limit=4)
    assert len(mixed) == 4 and {x.text for x in mixed} <= {*LINES}
    assert [x.id for x in mixed] == [f"both-{i}" for i in range(1, 5)]
    with pytest.raises(ValueError, match=r"'seqio:both' is a mixture, .* set data\.limit"):
        read("seqio:both")


def test_registering_module_is_imported(registered, monkeypatch):
    monkeypatch.setitem(sys.modules, "my_tasks", types.ModuleType("my_tasks"))
    assert len(read("seqio:my_tasks:lines")) == 3
    with pytest.raises(ValueError, match=r"there is no module .no_such_tasks.; install it"):
        read("seqio:no_such_tasks:lines")


def test_unreadable_tasks_raise(registered):
    with pytest.raises(
        ValueError, match=r"no task or mixture 'words'; .* seqio:MODULE:words .*lines"
    ):
        read("seqio:words")
    with pytest.raises(ValueError, match="seqio:nothing, example 1: it has neither 'text' nor"):
        read("seqio:nothing")
    with pytest.raises(ValueError, match="seqio:blank, example 2: the text is empty"):
        read("seqio:blank")
