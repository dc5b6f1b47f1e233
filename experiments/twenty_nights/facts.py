"""Short documents of invented facts, and what is asked about them.

    recall      each fact by its subject
    wording     the same in other words
    two-step    needs two facts of the document: the town of someone's teacher
    reversed    asks for the subject by what was said about it

and about a fact that a later document corrects and those that it leaves

    new         the corrected fact, in both wordings, by its new value
    stale       the same by its old value
    unchanged   recall of the others

    python experiments/twenty_nights/facts.py --seed 10 --count 3 --out facts.jsonl
    python launch.py --config=PRESET --config.data.documents=facts.jsonl --config.data.episodes=3

writes documents with the questions of the first two kinds, and reads them. All follows from the
seed: documents of two seeds share no name and no number.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Sequence

from kinds import KINDS, Kind, Template
from names import Pool


@dataclasses.dataclass(frozen=True)
class Question:
    """A question about a document.

    Attributes:
      kind: see above.
      text: as it is asked.
      answers: that are right; the first is the full one.
    """

    kind: str
    text: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Text:
    """A document of invented facts.

    Attributes:
      id: unique in a run.
      kind: of what it is about.
      words: what stands for the words in braces of its templates, values among them, by name.
      inserted: sentences that state no fact, each with the number of sentences before it.
    """

    id: str
    kind: Kind
    words: dict[str, str]
    inserted: tuple[tuple[int, str], ...] = ()

    def fill(self, template: str) -> str:
        """A template with its words, begun with a capital."""
        text = template.format_map(self.words)
        return text[:1].upper() + text[1:]

    @property
    def title(self) -> str:
        """What the document is about."""
        return self.fill(self.kind.title)

    @property
    def sentences(self) -> list[str]:
        """One for each fact, and those that are inserted."""
        out = [self.fill(x.sentence) for x in self.kind.facts]
        for place, sentence in self.inserted:
            out.insert(place, sentence)
        return out

    def answers(self, name: str) -> tuple[str, ...]:
        """What is right where a word of this name is asked for; of a person, the surname, too."""
        value = self.words[name]
        return (value, value.split()[-1]) if name in self.kind.people else (value,)

    @property
    def questions(self) -> list[Question]:
        """All kinds of them, those of a kind in the order of the facts."""
        facts, main = self.kind.facts, self.answers("name")
        asked = [("recall", x.question, self.answers(x.value)) for x in facts]
        asked += [("wording", x.wording, self.answers(x.value)) for x in facts]
        two_step = self.kind.two_step.items()
        asked += [("two-step", text, self.answers(value)) for value, text in two_step]
        asked += [("reversed", x.reversed, main) for x in facts if x.reversed]
        return [Question(kind, self.fill(text), answers) for kind, text, answers in asked]

    def to_record(self) -> dict:
        """As a line of a JSONL file of documents (`sleep_jax.data.jsonl_documents`)."""
        asked = [(self, fact) for fact in self.kind.facts]
        return _record(self.id, self.title, self.sentences, asked)


@dataclasses.dataclass(frozen=True)
class Correction:
    """A document that corrects one fact of an earlier one, and leaves the rest.

    Attributes:
      before: the earlier document.
      after: the same with the new value.
      fact: that is corrected.
    """

    before: Text
    after: Text
    fact: Template

    @property
    def id(self) -> str:
        """Of the document that says so."""
        return f"{self.before.id}-corrected"

    @property
    def sentences(self) -> list[str]:
        """The new value twice, the old one never."""
        fill = self.after.fill
        return [
            fill(
                f"an earlier text about {self.before.kind.main} was wrong about {self.fact.noun}."
            ),
            fill(self.fact.sentence),
            fill(f"{self.fact.noun} is {{{self.fact.value}}}."),
            fill(f"all else that was said about {self.before.kind.main} is right."),
        ]

    @property
    def questions(self) -> list[Question]:
        """`new` and `stale`: the corrected fact in both wordings, answered by either value;
        `unchanged`: recall of all others."""
        wordings = (self.fact.question, self.fact.wording)
        values = {"new": self.after, "stale": self.before}
        changed = [
            Question(kind, self.before.fill(x), text.answers(self.fact.value))
            for kind, text in values.items()
            for x in wordings
        ]
        others = [
            Question("unchanged", self.before.fill(x.question), self.before.answers(x.value))
            for x in self.before.kind.facts
            if x != self.fact
        ]
        return changed + others

    def to_record(self) -> dict:
        """As `Text.to_record`; its questions are about the corrected fact."""
        title = self.after.fill(f"A correction about {self.before.kind.main}")
        return _record(self.id, title, self.sentences, [(self.after, self.fact)])


def _record(id: str, title: str, sentences: Sequence[str], asked) -> dict:
    questions = [
        {
            "question": text.fill(fact.question),
            "paraphrase": text.fill(fact.wording),
            "answer": text.answers(fact.value)[0],
            "aliases": [*text.answers(fact.value)[1:]],
        }
        for text, fact in asked
    ]
    return {"id": id, "title": title, "text": " ".join(sentences), "questions": questions}


def invent(pool: Pool, count: int, stem: str = "facts") -> list[Text]:
    """Documents about people, places and objects in turn.

    Args:
      pool: of names, which are taken out of it.
      count: how many.
      stem: of their ids.
    """
    kinds = [KINDS[i % len(KINDS)] for i in range(count)]
    return [Text(f"{stem}-{i}", kind, _words(kind, pool)) for i, kind in enumerate(kinds, 1)]


def _words(kind: Kind, pool: Pool) -> dict[str, str]:
    words = {name: pool.draw(how) for name, how in kind.drawn.items()}
    for names, choices in kind.chosen.items():
        words |= dict(zip(names, pool.choose(choices)))
    return words


def correct(texts: Sequence[Text], pool: Pool) -> list[Correction]:
    """A correction of each document: one fact about what it is about, that no other one builds
    on."""
    out = []
    for text in texts:
        fact = pool.choose(text.kind.correctable)
        value = pool.draw(text.kind.drawn[fact.value])
        after = dataclasses.replace(text, words=text.words | {fact.value: value})
        out.append(Correction(text, after, fact))
    return out


def write(path: pathlib.Path, documents: Sequence[Text | Correction]) -> pathlib.Path:
    """Writes documents to a JSONL file that a run reads; returns its path."""
    lines = [json.dumps(x.to_record()) + "\n" for x in documents]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def main() -> None:
    """Writes documents of a seed, one a line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--count", type=int, default=20, help="documents [%(default)s]")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the JSONL file")
    arguments = parser.parse_args()
    write(arguments.out, invent(Pool(arguments.seed), arguments.count))


if __name__ == "__main__":
    main()
