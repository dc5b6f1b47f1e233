"""Pairs that the rules of agreement must accept or reject, written by hand."""

import pytest

from sleep_jax.rewards.agreement import agreement, ungrounded

SAME = [
    ("The bridge has seven arches.", "There are 7 arches in the bridge."),
    ("The Hollow Tower is 1,250 metres tall.", "At 1250 metres, the Hollow Tower is tall."),
    ("Marwick Bridge was built in 1931.", "The bridge of Marwick was built in the year 1931."),
    ("Ada Lovelace wrote the first program.", "The first program was written by Lovelace."),
    ("One of the keepers is called Tomas.", "A keeper is called Tomas."),
    ("The museum isn't open on Mondays.", "On Mondays the museum is not open."),
    ("The lamp is neither red nor green.", "The lamp is not red or green."),
    ("Zürich's harbour freezes in winter.", "In winter, the harbour of Zurich freezes."),
    (
        "The well is dug by hand, and it is twenty-one metres deep.",
        "It is a hand-dug well, 21 m deep.",
    ),
    ("The well is 8 km from here.", "From here the well is eight kilometers away."),
    ("The keeper fed the goat.", "The goat was fed by the keeper."),
    ("The capital of the valley is Oslen.", "Oslen is the capital of the valley."),
    ("Dr. Reyes wrote it.", "Doctor Ana Reyes wrote it."),
    ("It happened at the harbour.", "It happened in the harbour."),
    ("It is old. It is big.", "It is big. It is old."),
    ("He ate figs and honey.", "He ate honey and figs."),
]
CHANGED = [
    ("The tower is 61 m tall.", "The tower is 341 m tall."),
    ("The bridge has seven arches.", "The bridge has eight arches."),
    ("It was built in Marwick in 1931.", "It was built in Marwick."),
    ("It was painted by Ines Calder.", "It was painted by Tomas Calder."),
    ("The capital of the valley is Oslen.", "The capital of the valley is Berrow."),
    ("Paris is the capital of the country.", "Lyon is the capital of the country."),
    ("She moved to New York.", "She moved to New Jersey."),
    ("The capital is paris.", "The capital is Lyon."),
    ("The museum is open on Mondays.", "The museum is not open on Mondays."),
    ("The gate can be opened.", "The gate can’t be opened."),
    ("It is not red. It is not big.", "It is not red. It is big."),
    ("The third king built it.", "The fourth king built it."),
    ("There is one bridge over the river.", "There are two bridges over the river."),
    ("It was -5 degrees.", "It was 5 degrees."),
    ("The lid is 5 cm wide.", "In width, the lid is five inches."),  # units
    ("The box weighs 3 kg.", "The box weighs 3 pounds."),
    ("The gate is made of oak.", "The gate is made of iron."),  # one frame
    ("The king taught the page.", "The page taught the king."),
    ("The road runs from Marwick to Oslen.", "The road runs from Oslen to Marwick."),
    ("Ines Calder followed Ada Reyes.", "Ada Reyes followed Ines Calder."),
    ("The bell is rung at noon.", "The bell is rung at noon and at dusk."),  # a tail
]
# Where a mark, a zero, an order or a capital is all that differs.
SIGNS_CHANGED = [
    ("The fee is $5.", "The fee is €5."),
    ("The fee is $3.50.", "The fee is €3.50."),
    ("The fee is USD 3.50.", "The fee is EUR 3.50."),
    ("The road is 5.0 km long.", "The road is 5.0 miles long."),
    ("O+ donor", "O- donor"),
    ("Vitamin A", "Vitamin B"),
    ("Release 3.10", "Release 3.1"),
    ("The id is 11111111111111111111111111111112", "The id is 11111111111111111111111111111113"),
    ("It is Vitamin A.", "It is Vitamin B."),
    ("He has blood group O+.", "He has blood group O-."),
    ("She got an A+.", "She got an A."),
    ("She got an A.", "She got an A-."),
    ("It is written in C++.", "It is written in C."),
    ("It is written in C#.", "It is written in C++."),
    ("Plan A", "Plan B"),
    ("They chose plan A.", "They chose plan B."),
    ("Type 1", "Type 2"),
    ("pH < 7", "pH > 7"),
    ("north", "south"),
    ("the iron", "oak"),
    ("The pH is 7.", "The pH is 8."),
    ("The score was 3:10.", "The score was 3:1."),
    ("The score was 3:10.", "The score was 10:3."),
    ("The host is 10.0.0.1.", "The host is 10.0.1.0."),
    ("Use version 1.20.3.", "Use version 1.2.3."),
    ("The room is at -5 °C.", "The room is at 5 °C."),
    ("It is −5 degrees outside.", "Outside it is 5 degrees."),
    ("5 percent of them left.", "5 of them left."),
    ("Interest is 5%.", "Interest is 5."),
    ("Henry IV was king.", "Henry VI was king."),
    ("chapter iv", "chapter vi"),
    ("The dose is <5 mg.", "The dose is >5 mg."),
    ("10² men came.", "102 men came."),
    ("It was built on 3 May 1931.", "It was built on 3 June 1931."),
    ("The date is 2024-05-01.", "The date is 2024-01-05."),
    ("It is dated 3/10/2020.", "It is dated 10/3/2020."),
    ("Call 555-1234.", "Call 555-1243."),
    ("The fee is 5 dollars.", "The fee is 5 euros."),
    ("It costs £5.", "It costs $5."),
    ("It costs ₱5.", "It costs ฿5."),
    ("Hepatitis A", "Hepatitis C"),
    ("He takes vitamin A daily.", "He takes vitamin C daily."),
    ("The file is 5 MB.", "The file is 5 GB."),
    ("It goes 60 km/h.", "It goes 60 mph."),
    ("Python 3.10 is used.", "The used one is Python 3.1."),
    ("B♭ major", "B major"),
    ("Rh+", "Rh-"),
    ("The key is F#.", "The key is F."),
    ("Grade A-", "Grade A+"),
    ("The area is 5 m².", "The area is 5 m³."),
    ("The range is 5-10.", "The range is 5-11."),
    ("-$5", "$5"),
    ("1/2", "2/1"),
]
SIGNS_SAME = [
    ("The fee is $5.", "The fee is 5 dollars."),
    ("The fee is $3.50.", "The fee is USD 3.5."),
    ("It had magnitude 7.0.", "Magnitude 7.0 it had."),
    ("Magnitude 7.0", "magnitude 7"),
    ("It costs €5.", "5 euros is what it costs."),
    ("Release 3.10", "3.10"),
    ("Python 3.10 is used.", "It uses Python 3.10."),
    ("It is 3.50 m wide.", "It is 3.5 m wide."),
    ("«Paris»", "Paris"),
    ("„Paris“", "Paris"),
    ("It is 1260°C.", "It is 1260 °C."),
    ("It is 60 ℃ hot.", "It is 60 degrees Celsius hot."),
    ("12 % left.", "Twelve percent left."),
    ("The museum isn’t open.", "The museum isn't open."),
    ("well‑known", "well-known"),
    ("The answer is A.", "A"),
    ("A. Paris", "Paris"),
    ("vitamin A", "Vitamin A"),
    ("Vitamin a", "vitamin A"),
    ("He earned $5 million.", "He earned 5,000,000 dollars."),
    ("The dose is <5 mg.", "The dose is less than 5 mg."),
    ("An A+ was what she got.", "She got an A+."),
    ("It is dated 3/10/2020.", "The date on it is 3/10/2020."),
    ("The score was 3:10.", "3:10 was the score."),
    ("Zürich", "Zurich"),
    ("１２３", "123"),
    ("The café opens at 7:30.", "At 7:30 the cafe opens."),
    ("• Paris", "Paris"),
    ("10² men", "10^2 men"),
    ("Once upon a time, in Oslen", "Once upon a time in Oslen"),
]
# German, Russian, Chinese, Japanese.
LANGUAGES_CHANGED = [
    ("Der Turm ist 53 StepTimer hoch.", "Der Turm ist 54 StepTimer hoch."),
    ("Das Museum ist montags geöffnet.", "Das Museum ist montags nicht geöffnet."),
    ("Die Hauptstadt ist Oslen.", "Die Hauptstadt ist Marwick."),
    ("Anna baute die Mühle.", "Bert baute die Mühle."),
    ("Маяк построил Баскейл.", "Маяк построил Орлов."),
    ("Музей открыт по понедельникам.", "Музей не открыт по понедельникам."),
    ("Башня высотой 53 м.", "Башня высотой 35 м."),
    ("答案是东京。", "答案是大阪。"),
    ("东京", "大阪"),
    ("首都是东京。", "大阪是首都。"),
    ("塔高53米。", "塔高54米。"),
    ("博物馆星期一开放。", "博物馆星期一不开放。"),
    ("首都は東京です。", "首都は大阪です。"),
    ("塔は1871年に完成した。", "塔は1872年に完成した。"),
    ("博物館は月曜日に開いている。", "博物館は月曜日に開いていない。"),
    ("スミスが建てた。", "ジョンが建てた。"),
    ("塔高五十三米。", "塔高五十四米。"),
]
LANGUAGES_SAME = [
    ("Die Mühle wurde 1832 von Anna gebaut.", "Anna baute 1832 die Mühle."),
    ("Der Turm ist 53 m hoch.", "53 m hoch ist der Turm."),
    ("Маяк построил Баскейл в 1871 году.", "В 1871 году Баскейл построил маяк."),
    ("答案是东京。", "东京是答案。"),
    ("答案是东京。", "答案是：东京！"),
    ("塔高53米。", "这座塔有53米高。"),
    ("塔は1871年に完成した。", "1871年に塔が完成した。"),
    ("首都は東京です。", "東京が首都です。"),
    ("“你好”", "「你好」"),
    ("东京", "答案是东京。"),
    ("塔高五十三米。", "塔高53米。"),
    ("一八七一年完成。", "1871年完成。"),
]
SHORT_SAME = [("Marwick", "In Marwick."), ("Seven.", "7"), ("Ada Lovelace", "Lovelace")]
SHORT_CHANGED = [("Marwick", "Oslen"), ("oslen", "Marwick"), ("Seven.", "8"), ("Yes.", "No.")]
UNRELATED = [
    ("The bakery opens at dawn.", "Copper conducts electricity well."),
    ("He likes to swim in the lake.", "the committee approved the budget"),
    ("It rains often in spring.", "They repaired the old piano."),
]


@pytest.mark.parametrize("pair", SAME + SHORT_SAME + SIGNS_SAME + LANGUAGES_SAME)
def test_agreement_accepts_paraphrases_in_both_orders(pair):
    assert agreement(*pair) and agreement(*reversed(pair))


@pytest.mark.parametrize("pair", CHANGED + SHORT_CHANGED + SIGNS_CHANGED + LANGUAGES_CHANGED)
def test_agreement_rejects_a_changed_fact_in_both_orders(pair):
    assert not agreement(*pair) and not agreement(*reversed(pair))


def test_agreement_is_reflexive():
    signs = SIGNS_SAME + SIGNS_CHANGED + LANGUAGES_SAME + LANGUAGES_CHANGED
    for text, other in SAME + CHANGED + SHORT_SAME + SHORT_CHANGED + UNRELATED + signs:
        assert agreement(text, text) and agreement(other, other)
        assert ungrounded(text, text) == []


@pytest.mark.parametrize("mark", ["\u0301", "\u20e3", "´", "\ufe0f", "’"])
def test_agreement_ignores_marks_without_letters(mark):
    """Such as an accent by itself, which occurs in sampled text."""
    assert agreement(f"The gate is of {mark} oak", "The gate is of oak")


def test_agreement_ignores_list_numbers():
    assert agreement("1. The bridge is old.\n2. It is long.", "The bridge is old. It is long.")


SOURCE = """Marwick Bridge crosses the river Tell. It was built by Ines Calder in 1931 and has
seven arches; 1,250 people watched the opening. A lamp keeper lives beside the north gate."""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Calder finished the bridge in 1931, with 7 arches and 1250 guests.", []),
        ("What did Ines Calder build? The Bridge of Marwick. I think it was 1931.", []),
        ("Question: Who lives there?\nAnswer: The Lamp Keeper, near the North Gate.", []),
        ("1. The river is the Tell.\n2. Builders came from far away.", []),
        ('One of the arches is old. "Engineers were proud," said Calder\'s men.', []),
        ("It was built by Tomas Calder in 1932.", ["tomas", "1932"]),
        ("The bridge near Oslen has nine arches, and Oslen is proud.", ["oslen", "9"]),
        ("Dr. Reyes of New Marwick wrote that.", ["reyes", "new"]),
    ],
)
def test_ungrounded_names_and_numbers_in_english(text, expected):
    assert ungrounded(text, SOURCE) == expected


GERMAN = "Die Mühle steht am Bach. Anna Weber baute sie 1832. Sie wiegt ca. 53 kg und kostet 5 €."
RUSSIAN = "Маяк стоит на скале Ганнет. Его построил инженер Одрин Баскейл в 1871 году."


@pytest.mark.parametrize(
    ("text", "source", "expected"),
    [
        ("Welche Höhe hat die alte Mühle?", GERMAN, []),  # nouns after an article are not names
        ("Sie gehört Bert Maier.", GERMAN, ["bert", "maier"]),
        ("Sie kostet 5 $ und wiegt 35 kg.", GERMAN, ["35"]),
        ("Маяк был построен Одрином Баскейлом на скале Ганнета.", RUSSIAN, []),
        ("Его построил Орлов в 1872 году.", RUSSIAN, ["орлов", "1872"]),
        ("它建于一八七一年，高54米。", "灯塔高五十三米，1871年建成。", ["54"]),
        ("高さは五十三メートルです。", "灯台は1871年に完成した。高さは53メートル。", []),
        ("It is 3.10.", "Python 3.10 is out.", []),
        ("It is 3.1.", "Python 3.10 is out.", ["3.1"]),
    ],
)
def test_ungrounded_names_and_numbers_in_other_languages(text, source, expected):
    assert ungrounded(text, source) == expected
