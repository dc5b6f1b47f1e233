"""What documents of invented facts are about: people, places and objects, as templates.

Words in braces are drawn (`Kind.drawn`) or chosen (`Kind.chosen`). Every sentence names its subject
in full, so that a question about it can be understood without the others.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Template:
    """A fact, and how it is asked for.

    Attributes:
      value: the word that answers.
      sentence: that states it.
      question, wording: that ask for it; the latter is held out.
      noun: what the value is, in words: `the mayor of {name}`.
      reversed: asks for `name` by the value; empty: the fact is about something else.
    """

    value: str
    sentence: str
    question: str
    wording: str
    noun: str = ""
    reversed: str = ""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What documents may be about.

    Attributes:
      title: of a document.
      main: what it is about, within a sentence.
      drawn: the kind of each drawn word (a method of `names.Pool`); `name` is what it is about.
      chosen: words that are chosen together, and the choices.
      facts: in the order in which they are told.
      two_step: questions that need two of them, by the word that answers.
    """

    title: str
    main: str
    drawn: dict[str, str]
    chosen: dict[tuple[str, ...], tuple[tuple[str, ...], ...]]
    facts: tuple[Template, ...]
    two_step: dict[str, str]

    @property
    def people(self) -> set[str]:
        """The words that are names of people."""
        return {name for name, how in self.drawn.items() if how == "person"}

    @property
    def correctable(self) -> list[Template]:
        """The facts about what the document is about that no other one builds on."""
        subjects = {
            word
            for x in self.facts
            for word in re.findall(r"{(\w+)}", x.sentence)
            if word != x.value
        }
        return [x for x in self.facts if x.noun and x.value not in subjects]


PERSON = Kind(
    title="{name}",
    main="{name}",
    drawn={"name": "person", "village": "name", "teacher": "person", "town": "name",
           "work": "pair", "weight": "number", "dog": "name", "count": "number"},
    chosen={("trade", "piece", "pieces"): (
        ("clockmaker", "clock", "clocks"), ("potter", "vase", "vases"),
        ("weaver", "carpet", "carpets"), ("boat builder", "boat", "boats"),
        ("bell founder", "bell", "bells"), ("sculptor", "statue", "statues"),
    )},
    facts=(
        Template("village", "The {trade} {name} was born in the village of {village}.",
                 "In which village was {name} born?", "What is the birthplace of {name} called?",
                 "the birthplace of {name}", "Who was born in the village of {village}?"),
        Template("teacher", "{name} learned the trade from a teacher called {teacher}.",
                 "Who taught {name} the trade?", "What was the name of the teacher of {name}?",
                 "the teacher of {name}", "Who was taught by {teacher}?"),
        Template("town", "{teacher} lives in the town of {town}.",
                 "In which town does {teacher} live?", "What is the home town of {teacher}?"),
        Template("work", "The most famous {piece} by {name} is called the {work}.",
                 "What is the most famous {piece} by {name} called?",
                 "Give the name of the {piece} that made {name} famous.",
                 "the most famous {piece} by {name}", "Who made the {piece} called the {work}?"),
        Template("weight", "The {work} weighs {weight} kilograms.",
                 "How many kilograms does the {work} weigh?", "How heavy is the {work}?"),
        Template("dog", "{name} has a dog with the name {dog}.",
                 "What is the name of the dog of {name}?", "What does {name} call the dog?",
                 "the dog of {name}", "Who has a dog with the name {dog}?"),
        Template("count", "So far {name} has made {count} {pieces}.",
                 "How many {pieces} has {name} made so far?",
                 "What is the number of {pieces} made by {name}?",
                 "the number of {pieces} made by {name}"),
    ),
    two_step={
        "town": "In which town does the teacher of {name} live?",
        "weight": "How many kilograms does the most famous {piece} by {name} weigh?",
    },
)  # fmt: skip

PLACE = Kind(
    title="The {place} of {name}",
    main="the {place} of {name}",
    drawn={"name": "name", "river": "name", "mayor": "person", "boat": "name", "inn": "pair",
           "rooms": "number", "feast": "name", "people": "number"},
    chosen={("place",): (("village",), ("town",), ("harbour",), ("island",), ("valley",))},
    facts=(
        Template("river", "The {place} of {name} has a river with the name {river}.",
                 "What is the name of the river of {name}?",
                 "Which river flows through the {place} of {name}?",
                 "the river of {name}", "Which {place} has a river with the name {river}?"),
        Template("mayor", "The mayor of {name} is {mayor}.",
                 "Who is the mayor of {name}?", "Who governs the {place} of {name}?",
                 "the mayor of {name}", "Of which {place} is {mayor} the mayor?"),
        Template("boat", "{mayor} owns a boat with the name {boat}.",
                 "What is the name of the boat of {mayor}?", "How did {mayor} name the boat?"),
        Template("inn", "The only inn of {name} is called the {inn}.",
                 "What is the only inn of {name} called?",
                 "In which inn do travellers sleep in {name}?",
                 "the only inn of {name}", "In which {place} is the inn called the {inn}?"),
        Template("rooms", "It is said that the {inn} has {rooms} windows.",
                 "How many windows does the {inn} have?",
                 "What is the number of windows of the {inn}?"),
        Template("feast", "Every spring {name} celebrates a feast with the name {feast}.",
                 "Which feast does {name} celebrate every spring?",
                 "What is the spring feast of {name} called?",
                 "the spring feast of {name}", "Which {place} celebrates the feast {feast}?"),
        Template("people", "There are {people} people in {name}.",
                 "How many people are there in {name}?", "What is the population of {name}?",
                 "the number of people in {name}"),
    ),
    two_step={
        "boat": "What is the name of the boat of the mayor of {name}?",
        "rooms": "How many windows does the only inn of {name} have?",
    },
)  # fmt: skip

OBJECT = Kind(
    title="The {name} {thing}",
    main="the {name} {thing}",
    drawn={"name": "name", "maker": "person", "island": "name", "hall": "name", "steps": "number",
           "nickname": "pair", "thief": "person", "price": "number"},
    chosen={("thing",): (("telescope",), ("organ",), ("loom",), ("lantern",), ("fountain",),
                         ("printing press",))},
    facts=(
        Template("maker", "The {name} {thing} was built by {maker}.",
                 "Who built the {name} {thing}?", "Who was the maker of the {name} {thing}?",
                 "the maker of the {name} {thing}", "Which {thing} was built by {maker}?"),
        Template("island", "{maker} came from the island of {island}.",
                 "From which island did {maker} come?", "What is the home island of {maker}?"),
        Template("hall", "The {name} {thing} stands in the hall of {hall}.",
                 "In which hall does the {name} {thing} stand?",
                 "Where can visitors see the {name} {thing}?",
                 "the hall of the {name} {thing}", "Which {thing} stands in the hall of {hall}?"),
        Template("steps", "The way up to the hall of {hall} has {steps} steps.",
                 "How many steps does the way up to the hall of {hall} have?",
                 "What is the number of steps up to the hall of {hall}?"),
        Template("nickname", "Children call the {name} {thing} the {nickname}.",
                 "What do children call the {name} {thing}?",
                 "What is the nickname of the {name} {thing}?",
                 "the nickname of the {name} {thing}",
                 "Which {thing} do children call the {nickname}?"),
        Template("thief", "The {name} {thing} was once stolen by {thief}.",
                 "Who once stole the {name} {thing}?",
                 "What is the name of the thief of the {name} {thing}?",
                 "the thief of the {name} {thing}", "Which {thing} was stolen by {thief}?"),
        Template("price", "The {name} {thing} cost {price} crowns.",
                 "How many crowns did the {name} {thing} cost?",
                 "What was the price of the {name} {thing}?",
                 "the price in crowns of the {name} {thing}"),
    ),
    two_step={
        "island": "From which island did the maker of the {name} {thing} come?",
        "steps": "How many steps does the way up to the hall with the {name} {thing} have?",
    },
)  # fmt: skip

KINDS = (PERSON, PLACE, OBJECT)
