"""Languages: detection, stop words, negations, and scripts without spaces.

The rule of detection is simple: kana are Japanese, other Chinese characters Chinese, a script with
one main language is that language, and Latin letters are English unless the text has more German
stop words than English ones.
"""

import collections
import re
import unicodedata

# Written without spaces between words, so that each character counts as one.
UNSEGMENTED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
HAN = "\u3005\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KATAKANA = "\u30a1-\u30fa\u30fc-\u30ff"
UNSPACED = f"{UNSEGMENTED}\u3040-\u30ff{HAN}"
MIN_KANA = 0.05  # least share of kana among kana and Chinese characters in Japanese
_CJK = frozenset(("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"))
_LANGUAGE_OF = {
    "ARABIC": "ar",
    "ARMENIAN": "hy",
    "BENGALI": "bn",
    "CYRILLIC": "ru",
    "DEVANAGARI": "hi",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "HANGUL": "ko",
    "HEBREW": "he",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
}

# Stop words: articles, pronouns, prepositions, conjunctions, auxiliaries and question words.
_STOP_WORDS = {
    "en": """a about after again all also am an and any are as at be because been before being
    between both but by can could did do does doing down each few for from further had has have
    having he her here hers him his how i if in into is it its just long many may me might more most
    much must my no nor not of off on once only or other our out over own same shall she should so
    some such than that the their them then there these they this those through to too under until
    up upon us very was we were what when where whether which while who whom whose why will with
    would you your""",
    "de": """aber alle allem allen aller alles als also am an auch auf aus bei beim bin bis bist da
    damit dann das dass dem den denn der des die dies diese diesem diesen dieser dieses doch du
    durch ein eine einem einen einer eines er es für gegen hat hatte hatten habe haben ich ihm ihn
    ihnen ihr ihre ihrem ihren ihrer im in ins ist ja jede jedem jeden jeder jedes kann können man
    mit nach noch nun nur ob oder sehr sein seine seinem seinen seiner seit sich sie sind so soll
    sowie über um und uns unser unter vom von vor war waren warum was wegen weil welche welchem
    welchen welcher welches wem wen wenn wer werden wessen wie wieso wir wird wo woher wohin wurde
    wurden würde zu zum zur zwischen""",
    "ru": """а без более бы был была были было быть в вам вас весь во вот все всё вы где да для до
    его ее её если есть ещё же за зачем и из или им их к как какая какие какое какой какую ко когда
    кого кому который которая которые которое кто куда ли между меня мне мы на над нам нас него нее
    неё ней но о об он она они оно от откуда по под почему при про с сколько со так также там те тем
    то тоже только тот ты у уже чего чей чем через что чтобы чья чьё эта эти это этот я""",
    "zh": " ".join(
        "的了是在有和与及或也都就而但被把从到对为以于由之其这那它他她"
        "我你们个吗呢吧啊么什谁哪几何怎多少着过地得很上下中里因所後前后"
    ),
    "ja": "何 誰 私 彼 人 時 中 者 的",
}
_DETERMINERS = """
der die das den dem des ein eine einen einem einer eines kein keine keinen keinem keiner im am ins
ans zum zur vom beim welche welcher welches welchen welchem diese dieser dieses diesen diesem jede
jeder jedes jeden jedem seine seinen seinem seiner ihre ihren ihrem ihrer
"""
DETERMINERS = frozenset(_DETERMINERS.split())  # before German nouns
_NEGATIONS = {
    "en": r"\b(?:not(?!\s+only\b)|no(?!\.\s*\d)|never|none|nobody|nothing|nowhere|neither|without"
    r"|cannot|lack(?:s|ed|ing)?|unable|fail(?:s|ed)?\s+to|\w+n['’]t)\b",
    "de": r"\b(?:nicht(?!\s+nur\b)|nein|kein(?:e[mnrs]?)?|nie(?:mals|mand\w*)?|nichts|ohne"
    r"|weder)\b",
    "ru": r"\b(?:не(?!\s+только\b)|нет|ни|никогда|никто|ничего|без|нельзя)\b",
    "zh": r"不(?![仅僅但只论論管过過])|没|沒|无|無|未|勿|别(?![人的])|非(?!常)",
    "ja": r"ない|なかった|なく[て、]|ませ|ず[に、。]|いいえ|無",
}
NEGATIONS = {name: re.compile(words, re.IGNORECASE) for name, words in _NEGATIONS.items()}
STOP_WORDS = {name: frozenset(words.split()) for name, words in _STOP_WORDS.items()}
CASED = frozenset(("en", "de", "ru", "el", "hy"))  # capitals mark names
FREE_ORDER = frozenset(("ru",))  # case endings mark subject and object
# Stop words of one of the two languages only, and not French words.
_ENGLISH = STOP_WORDS["en"] - STOP_WORDS["de"]
_GERMAN = STOP_WORDS["de"] - STOP_WORDS["en"]
_GERMAN -= {"bin", "den", "des", "du", "es", "hat", "man", "nun", "war"}


def scripts(text: str) -> collections.Counter:
    """The number of letters of each script in a text, by Unicode's names; kana and Chinese
    characters count as one script, CJK.
    """
    letters = filter(str.isalpha, unicodedata.normalize("NFKC", text))
    names = (unicodedata.name(letter, "?").split()[0] for letter in letters)
    return collections.Counter("CJK" if name in _CJK else name for name in names)


def language(text: str) -> str:
    """The ISO 639 code of a text's main language; "en" where it is not clear."""
    [(script, count)] = scripts(text).most_common(1) or [("LATIN", 0)]
    if script == "CJK":
        return "ja" if len(re.findall("[\u3041-\u30ff]", text)) > MIN_KANA * count else "zh"
    if script != "LATIN":
        return _LANGUAGE_OF.get(script, "en")
    words = re.findall(r"[^\W\d_]+", text.casefold())
    german, english = (sum(w in listed for w in words) for listed in (_GERMAN, _ENGLISH))
    return "de" if german > english else "en"


def stop_words(name: str) -> frozenset[str]:
    """The stop words of a language (ISO 639 code); empty where none are listed."""
    return STOP_WORDS.get(name, frozenset())


_RUSSIAN_ENDING = re.compile(
    "(?<=[а-я]{3})(?:[ия]ми|ами|[иы]ми|[ео]го|[ео]му|[иы]?е[йм]|[ао]в|[аоыяи]х|[аоыяи]м|[оиы]й|"
    "[ая]я|[оеыи]е|[ую]ю|[аяоеыиуюьй])$"
)


def stem(word: str, name: str) -> str:
    """A folded word without its case ending, in Russian; else the word."""
    return _RUSSIAN_ENDING.sub("", word) if name == "ru" else word
