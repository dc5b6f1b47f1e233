"""Rejection: loops, fragments, other languages and duplicates are rejected, paraphrases are not."""

import pytest

from sleep_jax.data.documents import read_source
from sleep_jax.dreaming.rejection import (
    REASONS,
    RejectionConfig,
    dream_rejection_reason,
    known_share,
    recipe_rejection_reason,
    repeated_share,
    script_share,
    similarity,
    words,
)

STANDARD = RejectionConfig()
DOCUMENT = read_source("samples").documents[0]
CONTEXT = f"{DOCUMENT.title} {DOCUMENT.text}"
DREAM = "The tower on Gannet Tooth was finished in 1871 by Odrin Bascale, an engineer."


def reason(text, context=CONTEXT, earlier=(), rejection=STANDARD):
    return dream_rejection_reason(text, context, earlier, rejection)


def test_dream_about_its_context_is_kept():
    assert reason(DREAM) is None
    assert reason("1. Gannet Tooth\n2. Odrin Bascale\n3. Hask") is None  # names have no language


def test_loops_and_short_texts_are_rejected():
    assert reason("") == reason("...\n\n") == reason("The lamp.") == "short"
    assert reason("the lamp burns oil and " * 8) == "loop"
    # Nine words have six 4-grams; repeated, six of the fifteen occurred before.
    nine = "the lamp of the tower burns walnut oil slowly "
    assert repeated_share(nine) == 0
    assert repeated_share(nine * 2) == pytest.approx(6 / 15)
    assert repeated_share("one two three") == 0


@pytest.mark.parametrize(
    "text",
    [
        "Le phare se dresse sur le rocher de Gannet Tooth, à deux milles du village de Hask.",
        "Der Turm steht auf dem Felsen Gannet Tooth, zwei Meilen vom Dorf Hask entfernt gelegen.",
        "El faro se alza sobre Gannet Tooth, una roca negra a dos millas del pueblo de Hask.",
    ],
)
def test_other_language_in_same_script_is_rejected(text):
    assert script_share(text, CONTEXT) == 1
    assert known_share(text, CONTEXT) < STANDARD.min_known
    assert reason(text) == "language"


def test_other_script_is_rejected():
    russian = "Башня стоит на чёрной скале в двух милях от рыбацкой деревни."
    assert script_share(russian, CONTEXT) == 0 and reason(russian) == "script"
    assert reason(russian, context=f"{russian} Её построил инженер.") is None
    half = "The tower stands on a rock Башня стоит на скале"
    assert 0.4 < script_share(half, CONTEXT) < 0.6 and reason(half) == "script"
    # A few foreign letters in the context do not allow a foreign dream.
    assert reason(russian, context=f"{CONTEXT} Her name was Ольга.") == "script"


def test_words_of_scripts_without_spaces():
    context = (
        "灯台は黒い岩の上に立っている。技師が一八七一年に完成させた。塔は花崗岩で造られている。"
    )
    assert len(words("灯台は黒い岩")) == 6
    assert reason("一八七一年に技師が灯台を完成させた。", context) is None
    assert reason("灯台は黒い" * 9, context) == "loop"
    assert reason("The lamp of the tower burns walnut oil.", context) == "script"


def test_copy_of_the_context_is_rejected():
    assert reason(DOCUMENT.text) == reason(CONTEXT) == "copy"
    assert reason(DOCUMENT.text, rejection=RejectionConfig(similarity=0)) is None
    [first, *_] = DOCUMENT.text.split(". ")
    assert reason(first) is None


def test_duplicates_of_earlier_dreams_are_rejected():
    assert reason(DREAM.upper().replace(",", " -"), earlier=[DREAM]) == "duplicate"
    longer = "The tower stands on a black rock two miles from the village and it was finished in "
    assert reason(f"{longer} 1871", earlier=[f"{longer} 1872"]) == "near_duplicate"
    assert reason(DREAM, earlier=["The lamp of the tower burns walnut oil."]) is None
    keep = RejectionConfig(similarity=0)
    assert reason(DREAM, earlier=[DREAM], rejection=keep) is None


def test_similarity_by_hand():
    # 4-grams abcd, bcde and abcd, bcdf: one of three is shared.
    assert similarity("a b c d e", "a b c d f") == pytest.approx(1 / 3)
    assert similarity("A b, C", "a B c") == 1 and similarity("a b", "a c") == 0


def test_recipe_rejection_reasons():
    assert recipe_rejection_reason('{"training": ' + "9" * 5000 + "}", [], STANDARD) == "recipe"
    recipe = (
        '{"data_generation": {"use_basic_augmentations": true, "use_size_augmentations": false, '
        '"use_chain_augmentations": false, "use_repeat_augmentations": false}, "training": '
        '{"strategy": "train_using_all_tokens", "learning_rate": 1e-4, "num_train_epochs": 2}}'
    )
    assert recipe_rejection_reason(recipe, [], STANDARD) is None
    assert recipe_rejection_reason("It is best to train twice.", [], STANDARD) == "recipe"
    assert (
        recipe_rejection_reason(recipe.replace("1e-4", "0.0001"), [recipe], STANDARD) == "duplicate"
    )
    # Another learning rate is another recipe, however similar the texts.
    assert recipe_rejection_reason(recipe.replace("1e-4", "1e-3"), [recipe], STANDARD) is None


def test_reasons_are_listed():
    assert {"short", "loop", "script", "language", "recipe"} < set(REASONS)


@pytest.mark.parametrize(("field", "value"), [("min_words", -1), ("similarity", 1.5)])
def test_threshold_out_of_range_raises(field, value):
    with pytest.raises(ValueError, match=rf"dreaming\.rejection\.{field}={value}"):
        RejectionConfig(**{field: value})
