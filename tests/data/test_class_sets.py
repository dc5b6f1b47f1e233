"""Class-incremental sets: their published forms, groups of classes, draws."""

import collections
import json
import os
import pathlib

import pytest

from sleep_jax.data.class_sets import ClassSet, Labelled, read_class_set, readable

CLINC = {
    "train": [["what is my balance ", "balance"], ["freeze it", "freeze_account"]],
    "test": [["funds?", "balance"]],
    "oos_test": [["sing", "oos"]],
}


def folder_of(tmp_path, **files):
    for name, text in files.items():
        (tmp_path / name.replace("_csv", ".csv").replace("_json", ".json")).write_text(text)
    return tmp_path


def test_clinc150_is_read_without_what_is_out_of_scope(tmp_path):
    data = read_class_set("clinc150", folder_of(tmp_path, data_full_json=json.dumps(CLINC)))
    assert data.train == (
        Labelled("what is my balance", "balance"),
        Labelled("freeze it", "freeze account"),
    )
    assert data.test == (Labelled("funds?", "balance"),)
    assert data.labels == ("balance", "freeze account")


def test_csv_sets_are_read_by_their_columns(tmp_path):
    text = 'text,category\n"Where, please, is it?",Card_arrival\nWhy?,reverted_card_payment?\n'
    data = read_class_set("banking77", folder_of(tmp_path, train_csv=text, test_csv=text))
    assert data.test == (
        Labelled("Where, please, is it?", "card arrival"),
        Labelled("Why?", "reverted card payment"),
    )
    text = "text,l1,l2,l3\nIt plays.,Agent,SportsTeam,SoccerClub\n"
    folder = folder_of(tmp_path, DBPEDIA_train_csv=text, DBPEDIA_test_csv=text)
    assert read_class_set("dbpedia", folder).train == (Labelled("It plays.", "sports team"),)


@pytest.mark.parametrize(
    ("name", "files", "words"),
    [
        ("clinc", {}, "set 'clinc'; choose from clinc150, banking77, dbpedia"),
        ("clinc150", {"data_full_json": "[]"}, "no list 'train' of"),
        ("clinc150", {"data_full_json": '{"train": [["a"]]}'}, "entry 0 of 'train' is no pair"),
        ("banking77", {"train_csv": "text,label\n"}, "no column 'category' among text, label"),
        ("banking77", {"train_csv": "text,category\na,\n"}, "line 2: text or category is empty"),
        (
            "banking77",
            {"train_csv": "text,category\na,b\n", "test_csv": "text,category\na,c\n"},
            "nothing to learn 'c' from",
        ),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, name, files, words):
    with pytest.raises(ValueError, match=words):
        read_class_set(name, folder_of(tmp_path, **files))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no DBPEDIA_train\.csv; give the folder"):
        read_class_set("dbpedia", tmp_path)


def small():
    examples = tuple(Labelled(f"{c}{i}", c) for i in range(6) for c in "abcdefg")
    return ClassSet(examples, examples[:14])


def test_groups_hold_every_class_once_in_an_order_of_each_seed():
    groups = small().groups(3, 0)
    assert [*map(len, groups)] == [3, 3, 1] and sorted(sum(groups, ())) == [*"abcdefg"]
    assert groups == small().groups(3, 0) != small().groups(3, 1)
    part = small().of(groups[0])
    assert {x.label for x in part.train} == {x.label for x in part.test} == {*groups[0]}
    with pytest.raises(ValueError, match="groups of 8 of 7 classes; give 1 to 7"):
        small().groups(8, 0)


def test_at_most_draws_as_many_of_each_class_in_order():
    data = small().at_most(train=2, test=0, seed=3)
    assert set(collections.Counter(x.label for x in data.train).values()) == {2}
    assert [x for x in small().train if x in data.train] == [*data.train]
    assert data.test == small().test
    assert data != small().at_most(train=2, test=0, seed=4)


def test_readable_names_are_words():
    assert readable("lost_or_stolen_card") == "lost or stolen card"
    assert readable("RaceTrack") == "race track"


def test_clinc150_as_published_has_150_classes():
    folder = pathlib.Path(os.environ.get("SLEEP_JAX_DATA", "")) / "clinc150"
    if not folder.is_dir():
        pytest.skip("SLEEP_JAX_DATA does not point at a folder with clinc150/")
    data = read_class_set("clinc150", folder)
    assert (len(data.labels), len(data.train), len(data.test)) == (150, 15000, 4500)
    assert len(data.groups(15, 0)) == 10
