"""Learn: a dream that earned a reward is learnt (ReST-EM, Singh et al. 2024)."""

from collections.abc import Sequence

from sleep_jax.data.documents import Document
from sleep_jax.dreaming.write import INSTRUCTIONS, Dream
from sleep_jax.seeding.prompts import Prompts
from sleep_jax.seeding.sequences import Exchange


def about(document: Document, prompts: Prompts) -> tuple[int, ...]:
    """The request that a dream, or the passage itself, is the reply to when it is learnt."""
    return prompts.alone(f"Tell me about {document.title}.")


def lessons(
    dreams: Sequence[Dream], documents: Sequence[Document], prompts: Prompts
) -> list[Exchange]:
    """What a rewarded dream teaches: to write such dreams with the document in view, and to know
    what it says without."""
    out = []
    for dream in dreams:
        document = documents[dream.document]
        teacher = prompts.beside(INSTRUCTIONS[dream.instruction])
        writing = (*prompts.context(document), *teacher)
        for kind, student in (("write", writing), ("dream", about(document, prompts))):
            exchange = Exchange(
                dream.document, student, teacher, dream.tokens, kind, supervised=True
            )
            out.append(exchange)
    return out
