"""Language detection by script and stop words."""

import pytest

from sleep_jax.data.languages import language, scripts, stem


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The mill stands by the brook.", "en"),
        ("Die Mühle steht am Bach.", "de"),
        ("Er war es, der die Glocke goss.", "de"),
        ("The man's hat in the den", "en"),
        ("La tour du village des Alpes", "en"),  # not told apart
        ("Маяк стоит на скале.", "ru"),
        ("灯塔建在岩石上。", "zh"),
        ("灯台は岩の上に立つ。", "ja"),
        ("東京タワー", "ja"),
        ("Ο πύργος", "el"),
        ("The name of it is Маяк.", "en"),
        ("", "en"),
        ("1871, 53!", "en"),
    ],
)
def test_language_detection(text, want):
    assert language(text) == want


def test_scripts_count_letters_and_join_cjk():
    assert scripts("灯台は53 Ａb") == {"CJK": 3, "LATIN": 2}


def test_stem_removes_russian_case_endings():
    names = ("баскейл", "баскейла", "баскейлом", "баскейлу")
    assert {stem(name, "ru") for name in names} == {"баскейл"}
    assert stem("башня", "ru") == stem("башню", "ru") == stem("башней", "ru")
    assert stem("bridges", "en") == "bridges" and stem("дом", "ru") == "дом"
