"""Notes in five languages through a night: units, study, rejection, grades, rewards."""

import dataclasses
import types

import numpy as np
import pytest

from sleep_jax.data.chunking import split_text
from sleep_jax.data.documents import Document
from sleep_jax.data.languages import language
from sleep_jax.data.sentences import sentences
from sleep_jax.dreaming.rejection import RejectionConfig, dream_rejection_reason
from sleep_jax.evals.metrics import contains_answer
from sleep_jax.rewards.agreement import agreement, ungrounded
from sleep_jax.rewards.judge import is_exact
from sleep_jax.study.questions import is_about
from sleep_jax.study.self_study import complete


@dataclasses.dataclass(frozen=True)
class Note:
    """A short note with what must be made of it.

    Attributes:
      language: its code.
      prose: the sentences of its paragraph.
      lines: its heading, items, rows and keys, as units.
      question: about the first sentence.
      answer, right, wrong: of the question; replies that say it and that do not.
      invented: a reply with a name or number that is not in the note.
      paraphrase, changed: of the last sentence of the prose, and with another fact.
      dream: about it.
    """

    language: str
    prose: tuple[str, ...]
    lines: tuple[str, ...]
    question: str
    answer: str
    right: str
    wrong: str
    invented: str
    paraphrase: str
    changed: str
    dream: str

    @property
    def text(self) -> str:
        """Heading, prose, items and a key in Markdown."""
        heading, *items, key = self.lines
        prose = ("" if "。" in self.prose[0] else " ").join(self.prose)
        listed = "\n".join(f"- {item}" for item in items)
        return f"# {heading}\n\n{prose}\n\n{listed}\n\n{key}\n"


NOTES = [
    Note(
        "en",
        (
            "The tower was finished by Dr. Odrin Bascale in 1871.",
            "It stands on a black rock, e.g. when the tide is low, near the village of Hask.",
            "The lamp burns walnut oil.",
        ),
        ("The tower", "53 m tall", "open on Mondays", "Keeper: Perrin Duskwell"),
        "Who finished the tower?",
        "Odrin Bascale",
        "It was “Odrin Bascale”.",
        "It was Perrin Duskwell.",
        "It was finished by Tamsin Drewitt.",
        "Walnut oil is what the lamp burns.",
        "The lamp burns whale oil.",
        "Near the village of Hask stands a tower on a rock; the lamp in it burns walnut oil.",
    ),
    Note(
        "de",
        (
            "Der Turm wurde 1871 von Dr. Odrin Bascale fertig gebaut.",
            "Er steht auf einem Felsen, z. B. bei Ebbe, und im 3. Stock wohnt der Wärter.",
            "Übrigens brennt in der Lampe Walnussöl.",
        ),
        ("Der Turm", "53 m hoch", "montags geöffnet", "Wärter: Perrin Duskwell"),
        "Wer hat den Turm gebaut?",
        "Odrin Bascale",
        "Es war „Odrin Bascale“.",
        "Es war Perrin Duskwell.",
        "Gebaut hat ihn Tamsin Drewitt.",
        "In der Lampe brennt übrigens Walnussöl.",
        "Übrigens brennt in der Lampe Walöl.",
        "Auf einem schwarzen Felsen steht der Turm, und in der Lampe brennt Öl aus der Walnuss.",
    ),
    Note(
        "ru",
        (
            "Башню построил инженер О. Баскейл в 1871 году.",
            "Она стоит на чёрной скале и видна издалека, потому что скала высокая.",
            "Ещё в лампе горит ореховое масло.",
        ),
        ("Башня на скале", "высота 53 м", "открыта по понедельникам", "Смотритель: Перрин Даск"),
        "Кто построил башню?",
        "Баскейл",
        "Её построил «Баскейл».",
        "Её построил Перрин Даск.",
        "Её построил Иван Орлов.",
        "Ореховое масло ещё горит в лампе.",
        "Ещё в лампе горит китовое масло.",
        "На чёрной скале стоит башня, в лампе горит масло, и она видна издалека.",
    ),
    Note(
        "zh",
        (
            "灯塔由工程师奥德林于1871年建成。",
            "它建在黑色的岩石上，离渔村很近，退潮时可以走到那里。",
            "他们烧核桃油。",
        ),
        ("灯塔的说明", "高五十三米", "星期一开放", "看守人：佩林"),
        "灯塔是谁建成的？",
        "奥德林",
        "答案是“奥德林”。",
        "答案是佩林。",
        "它于1872年建成。",
        "核桃油是他们烧的。",
        "他们烧鲸鱼油。",
        "黑色的岩石上有一座灯塔，灯里烧核桃油，离渔村很近。",
    ),
    Note(
        "ja",
        (
            "灯台は1871年に技師オドリンが完成させた。",
            "黒い岩の上に立っていて、「遠くからも見える。」と村の人は言う。",
            "ランプにはクルミの油を使う。",
        ),
        ("灯台の説明", "高さ五十三メートル", "月曜日に開く", "守り人：ペリン"),
        "灯台は誰が完成させましたか。",
        "オドリン",
        "それは「オドリン」です。",
        "それはペリンです。",
        "1872年に完成した。",
        "クルミの油をランプに使う。",
        "ランプにはクジラの油を使う。",
        "黒い岩の上の灯台は村から見え、ランプにはクルミの油を使う。",
    ),
]

pytestmark = pytest.mark.parametrize("note", NOTES, ids=lambda note: note.language)


def test_units_of_a_note(note):
    heading, *items, key = note.lines
    assert language(note.text) == note.language
    assert sentences(note.text) == [heading, *note.prose, *items, key]


def test_chunks_of_a_note_end_with_a_unit(note):
    for chunk in split_text(note.text, len(note.text) // 2, list):
        assert any(chunk.endswith(unit) for unit in sentences(note.text))


def test_study_of_a_note(note):
    as_it_is = types.SimpleNamespace(
        **dict.fromkeys(("without_context", "with_context", "reply"), lambda t: t)
    )
    out = complete([Document("note", "", note.text)], as_it_is, 2, np.random.default_rng(0))
    assert {e.completion for e in out} >= set(note.prose)
    for e in out:
        cue = e.student.removeprefix("Complete the sentence: ")
        assert e.completion.startswith(cue) and 2 <= len(cue) < len(e.completion)
    assert is_about(note.question, note.prose[0])
    assert not is_about(note.question, note.prose[2]) and not is_about(note.answer, note.prose[0])
    assert ungrounded(note.question, note.text) == ungrounded(note.right, note.text) == []
    assert ungrounded(note.invented, note.text)


def test_grades_of_replies_about_a_note(note):
    assert contains_answer(note.right, note.answer)
    assert not contains_answer(note.wrong, note.answer)
    assert is_exact(f"„{note.answer}“", note.answer) and not is_exact(note.wrong, note.answer)


def test_rewards_of_a_note(note):
    said = note.prose[-1]
    assert agreement(note.paraphrase, said) and agreement(said, note.paraphrase)
    assert not agreement(note.changed, said) and not agreement(said, note.changed)
    assert not agreement(note.invented, note.prose[0])


def test_rejection_of_dreams_about_a_note(note):
    assert dream_rejection_reason(note.dream, note.text, [], RejectionConfig()) is None
    assert dream_rejection_reason(note.text, note.text, [], RejectionConfig()) == "copy"
    assert (
        dream_rejection_reason(note.dream, note.text, [note.dream], RejectionConfig())
        == "duplicate"
    )
    assert dream_rejection_reason(note.dream * 5, note.text, [], RejectionConfig()) == "loop"
    others = [other for other in NOTES if other.language != note.language]
    for other in others:
        why = dream_rejection_reason(other.dream, note.text, [], RejectionConfig())
        is_script_shared = {note.language, other.language} in ({"en", "de"}, {"zh", "ja"})
        assert why in (("language", "script", None) if is_script_shared else ("script",))
