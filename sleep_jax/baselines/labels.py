"""Classification by a language model: requests for a label, and labels read from replies. The same
words for all methods, with examples in view or closed book.
"""

from collections.abc import Sequence

from sleep_jax.data.class_sets import Labelled
from sleep_jax.data.documents import Document
from sleep_jax.data.examples import PromptCompletion
from sleep_jax.evals.metrics import contains_answer, exact_match
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer


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


def examples_chat(tokenizer: Tokenizer, examples: Sequence[Labelled]) -> tuple[int, ...]:
    """Labelled examples as turns of a chat that have been, requests and replies, to have in view:
    tokens of a context. A small model names a class after these that it does not name after
    `examples_document`."""
    pieces = tokenizer.template.pieces(_turns(examples), add_generation_prompt=False)
    return tuple(tokenizer.encode_pieces(pieces))


def chat_request(
    tokenizer: Tokenizer, text: str, examples: Sequence[Labelled] = ()
) -> tuple[int, ...]:
    """The request for the label of a text as the next turn of such a chat, after more examples:
    tokens."""
    turns = _turns([Labelled("a", "b")])
    before = tokenizer.template.pieces(turns, add_generation_prompt=False)
    asked = {"role": "user", "content": label_request(text)}
    whole = tokenizer.template.pieces([*turns, *_turns(examples), asked])
    return tuple(tokenizer.encode_pieces(whole)[len(tokenizer.encode_pieces(before)) :])


def _turns(examples: Sequence[Labelled]) -> list[dict[str, str]]:
    return [
        {"role": role, "content": content}
        for x in examples
        for role, content in (("user", label_request(x.text)), ("assistant", x.label))
    ]


def label_in(reply: str, labels: Sequence[str]) -> str | None:
    """The label that a reply consists of, or the longest that it contains as whole words, the first
    of several; None: it has none."""
    if exact := [x for x in labels if exact_match(reply, x)]:
        return exact[0]
    return max((x for x in labels if contains_answer(reply, x)), key=len, default=None)
