"""What teacher and student are asked: one place for every prompt of a night.

A chat turn of the user is split where the document ends. The teacher's context is everything before
it (the turn's opening, the document), read once while awake; its prompts continue from there. The
student's prompts are whole turns without the document.
"""

from sleep_jax.data.documents import Document
from sleep_jax.interop.tokenizer import Tokenizer

# Worked examples that show a base or a small chat model what a question about a sentence is.
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


RECITE = "Repeat the text above word for word."


def as_read(document: Document) -> str:
    """The text of a document with its title, as it is read."""
    return f"{document.title}\n\n{document.text}\n\n"


class Prompts:
    """Token prompts over one tokenizer and its chat template: all that is around the words is as
    the template writes it, and the words themselves are text, whatever they are."""

    def __init__(self, tokenizer: Tokenizer):
        self._template = tokenizer.template
        self._tokenizer = tokenizer

    def _encode(self, pieces) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode_pieces(pieces))

    @property
    def shared_prefix(self) -> tuple[int, ...]:
        """What every turn of a user begins with."""
        return self._encode(self._template.begun(""))

    def context(self, document: Document) -> tuple[int, ...]:
        """What is read of a document while awake."""
        return self._encode(self._template.begun(as_read(document)))

    def page(self, document: Document) -> tuple[int, ...]:
        """A document as it stands in the stream."""
        return self.plain(as_read(document))

    def plain(self, text: str) -> tuple[int, ...]:
        """Text to be continued as it stands, outside any chat, begun as the model's texts are."""
        return (*self._tokenizer.text_start, *self._tokenizer.encode(text))

    def with_context(self, request: str) -> tuple[int, ...]:
        """A request to the model that has the document in its context."""
        return self._encode(self._template.ended(request))

    def without_context(self, request: str) -> tuple[int, ...]:
        """The same request to the model without it."""
        return self._encode(self._template.user(request))

    def about(self, document: Document) -> tuple[int, ...]:
        """The request that a document, or a dream about it, is the reply to when it is learnt."""
        return self.without_context(f"Tell me about {document.title}.")

    def question_about(self, sentence: str) -> tuple[int, ...]:
        """Plain text whose continuation is a question that the sentence answers."""
        shots = "".join(f"Sentence: {s}\nQuestion: {q}\n\n" for s, q in QUESTION_EXAMPLES)
        return self.plain(f"{shots}Sentence: {sentence}\nQuestion:")

    def reply(self, text: str) -> tuple[int, ...]:
        """A finished reply, an empty thought before it where the model may think."""
        return tuple(self._tokenizer.encode_reply(text))

    def said(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """What a model wrote as a reply, its thought left empty."""
        if not (start := self._tokenizer.reply_start(tokens)):
            return tokens
        words = self.reply(self._tokenizer.reply_text(tokens))
        is_finished = bool(tokens[start:]) and tokens[-1] in self._tokenizer.eos_ids
        return words if is_finished else words[:-1]


def answer(question: str) -> str:
    """The request for an answer from the document in view."""
    return f"Using the text above, answer the question: {question}"
