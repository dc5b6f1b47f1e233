"""Classification by a language model: requests for a label, and labels read from replies. The same
words for all methods, with examples in view or closed book.
"""

from collections.abc import Sequence

from sleep_jax.data.class_sets import Labelled
from sleep_jax.data.documents import Document
from sleep_jax.data.examples import PromptCompletion
from sleep_jax.evals.metrics import contains_answer, exact_match
from sleep_jax.interop.prompts import Prompts


def label_request(text: str) -> str:
    """The request for the label of a text."""
    return f"Text: {text}\nWhich class does the text belong to? Reply with its name alone."


def label_pairs(prompts: Prompts, examples: Sequence[Labelled]) -> list[PromptCompletion]:
    """Closed book: labels as replies to requests, as (prompt, reply) tokens to fine-tune on."""
    return [
        (prompts.without_context(label_request(x.text)), prompts.reply(x.label)) for x in examples
    ]


def examples_document(examples: Sequence[Labelled]) -> Document:
    """Labelled examples as a document to have in view."""
    shown = "\n\n".join(f"Text: {x.text}\nClass: {x.label}" for x in examples)
    return Document("examples", "Examples", shown)


def label_in(reply: str, labels: Sequence[str]) -> str | None:
    """The label that a reply consists of, or the longest that it contains as whole words, the first
    of several; None: it has none."""
    if exact := [x for x in labels if exact_match(reply, x)]:
        return exact[0]
    return max((x for x in labels if contains_answer(reply, x)), key=len, default=None)
