"""What teacher and student are asked: one place for every prompt of a night.

A chat turn of the user is split where the document ends. The teacher's context is everything before
it (the turn's opening, the document), read once while awake; its prompts continue from there. The
student's prompts are whole turns without the document.
"""

from sleep_jax.data.documents import Document
from sleep_jax.interop.tokenizer import Tokenizer

_HOLE = "\x00"  # stands for the user's words while a chat template is rendered

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


class Prompts:
    """Token prompts over one tokenizer and its chat template."""

    def __init__(self, tokenizer: Tokenizer):
        turn = tokenizer.chat_text([{"role": "user", "content": _HOLE}])
        self._opening, self._closing = turn.split(_HOLE)
        self._tokenizer = tokenizer

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text))

    @property
    def opening(self) -> tuple[int, ...]:
        """What every turn of a user begins with."""
        return self._encode(self._opening)

    def context(self, document: Document) -> tuple[int, ...]:
        """What is read of a document while awake."""
        return self._encode(f"{self._opening}{document.title}\n\n{document.text}\n\n")

    def page(self, document: Document) -> tuple[int, ...]:
        """A document as it stands in the stream."""
        return self._encode(f"{document.title}\n\n{document.text}\n\n")

    def plain(self, text: str) -> tuple[int, ...]:
        """Text to be continued as it stands, outside any chat."""
        return self._encode(text)

    def beside(self, request: str) -> tuple[int, ...]:
        """A request to the model that has the document in its context."""
        return self._encode(request + self._closing)

    def alone(self, request: str) -> tuple[int, ...]:
        """The same request to the model without it."""
        return self._encode(self._opening + request + self._closing)

    def about(self, document: Document) -> tuple[int, ...]:
        """The request that a document, or a dream about it, is the reply to when it is learnt."""
        return self.alone(f"Tell me about {document.title}.")

    def question_about(self, sentence: str) -> tuple[int, ...]:
        """Plain text whose continuation is a question that the sentence answers."""
        shots = "".join(f"Sentence: {s}\nQuestion: {q}\n\n" for s, q in QUESTION_EXAMPLES)
        return self.plain(f"{shots}Sentence: {sentence}\nQuestion:")

    def reply(self, text: str) -> tuple[int, ...]:
        """A finished reply."""
        return (*self._encode(text), self._tokenizer.eos_ids[0])


def answer(question: str) -> str:
    """The request for an answer from the document in view."""
    return f"Using the text above, answer the question: {question}"
