"""Prompts of teacher and student as token ids; every prompt of a run is made here.

A chat turn of the user is split where the document ends. The teacher's context is the header of the
turn and the document, read once while awake; its prompts continue from there (`with_context`). The
student's prompts are whole turns without the document (`without_context`).
"""

from sleep_jax.data.documents import Document
from sleep_jax.interop.tokenizer import Tokenizer

# Few-shot examples that show a base or a small chat model what a question about a sentence is.
QUESTION_EXAMPLES = (
    (
        "The Marlow Bridge was built in 1832 by the engineer Tierney Clark.",
        "Who built the Marlow Bridge?",
    ),
    (
        "The heart of a blue whale weighs about 180 kilograms.",
        "How much does the heart of a blue whale weigh?",
    ),
    (
        "Every spring the children of Oakham paint the old fence bright yellow.",
        "What colour do the children of Oakham paint the old fence?",
    ),
)

RECITE_REQUEST = "Repeat the text above word for word."
TELL_REQUEST = "Tell me about {title}."

# Few-shot examples of a way to study a text.
STRATEGY_EXAMPLES = (
    (
        "The Marlow Bridge was built in 1832 by the engineer Tierney Clark.",
        "Make a timeline of the Marlow Bridge, and say who built it.",
    ),
    (
        "Every spring the children of Oakham paint the old fence bright yellow.",
        "Explain to a child what happens to the fence of Oakham in spring.",
    ),
    (
        "The heart of a blue whale weighs about 180 kilograms.",
        "Compare the heart of a blue whale with things that weigh as much.",
    ),
)
# Such a way, followed with the document in view, and closed book.
FOLLOW_REQUEST = "Do this with the text above, and use only what it says: {strategy}"
FOLLOW_REQUEST_CLOSED_BOOK = "Do this with what you know of {title}: {strategy}"


def document_text(document: Document) -> str:
    """A document with its title, as the model reads it."""
    return f"{document.title}\n\n{document.text}\n\n"


class Prompts:
    """Token prompts by one tokenizer and its chat template.

    Headers and ends of turns are what the template writes; names of special tokens in documents,
    questions and replies are encoded as plain text. All methods return tuples of token ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        """Binds a tokenizer.

        Raises:
          ValueError: it has no chat template.
        """
        self._template = tokenizer.template
        self._tokenizer = tokenizer

    def _encode(self, pieces) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_pieces(pieces))

    @property
    def shared_prefix(self) -> tuple[int, ...]:
        """The header that every user turn begins with."""
        return self._encode(self._template.open_user_turn(""))

    def context(self, *documents: Document) -> tuple[int, ...]:
        """The header of a user turn and a document, or several: what is read while awake."""
        text = "".join(map(document_text, documents))
        return self._encode(self._template.open_user_turn(text))

    def plain_document(self, document: Document) -> tuple[int, ...]:
        """A document outside any chat, as the wake weights learn it."""
        return self.plain(document_text(document))

    def plain(self, text: str) -> tuple[int, ...]:
        """Text outside any chat, to be continued, after the start-of-text tokens of the model."""
        return (*self._tokenizer.text_start, *self._tokenizer.encode(text))

    def with_context(self, request: str) -> tuple[int, ...]:
        """A request to the model that has read the document: the rest of the turn `context`."""
        return self._encode(self._template.close_user_turn(request))

    def without_context(self, request: str) -> tuple[int, ...]:
        """A request as a whole user turn, with no document in view (closed book)."""
        return self._encode(self._template.user_turn(request))

    def tell_about(self, document: Document) -> tuple[int, ...]:
        """The request to which a document, or a dream about it, is learnt as the reply."""
        return self.without_context(TELL_REQUEST.replace("{title}", document.title))

    def question_prompt(self, sentence: str) -> tuple[int, ...]:
        """Plain text whose continuation is a question that the sentence answers (few-shot)."""
        shots = "".join(f"Sentence: {s}\nQuestion: {q}\n\n" for s, q in QUESTION_EXAMPLES)
        return self.plain(f"{shots}Sentence: {sentence}\nQuestion:")

    def strategy_prompt(self, sentence: str) -> tuple[int, ...]:
        """Plain text whose continuation is a way to study the sentence (few-shot)."""
        shots = "".join(f"Text: {s}\nWay to study it: {w}\n\n" for s, w in STRATEGY_EXAMPLES)
        header = "Ways to study a text, each for the text before it."
        return self.plain(f"{header}\n\n{shots}Text: {sentence}\nWay to study it:")

    def reply(self, text: str) -> tuple[int, ...]:
        """A finished reply with its end of turn, an empty thought before it where the model may
        think.
        """
        return tuple(self._tokenizer.encode_reply(text))

    def reply_without_thought(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """A sampled reply with its thought emptied; the same tokens where it has none."""
        if not (start := self._tokenizer.reply_start(tokens)):
            return tokens
        words = self.reply(self._tokenizer.reply_text(tokens))
        is_finished = bool(tokens[start:]) and tokens[-1] in self._tokenizer.eos_ids
        return words if is_finished else words[:-1]


def answer_request(question: str, answer: str = "") -> str:
    """The request to answer a question from the document in view.

    Args:
      question: to be answered.
      answer: that the model is shown beside the document; empty: none.
    """
    request = f"Using the text above, answer the question: {question}"
    return f"{request}\nThe right answer: {answer}" if answer else request
