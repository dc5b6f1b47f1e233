"""Learn: a dream that earned a reward is learnt (ReST-EM, Singh et al. 2024)."""

from collections.abc import Mapping, Sequence

from sleep_jax.data.documents import Document
from sleep_jax.dreaming.templates import Template
from sleep_jax.dreaming.write import Dream
from sleep_jax.seeding.prompts import Prompts
from sleep_jax.seeding.sequences import Exchange


def about(document: Document, prompts: Prompts) -> tuple[int, ...]:
    """The request that a dream, or the passage itself, is the reply to when it is learnt."""
    return prompts.alone(f"Tell me about {document.title}.")


def lessons(
    dreams: Sequence[Dream],
    documents: Sequence[Document],
    prompts: Prompts,
    templates: Mapping[str, Template],
) -> list[Exchange]:
    """What a rewarded dream teaches: to write such dreams with the document in view, and, unless it
    is a recipe, to know what it says without."""
    out = []
    for dream in dreams:
        document, template = documents[dream.document], templates[dream.template]
        teacher = writing = template.tokens(prompts, document)
        if template.is_beside:
            writing = (*prompts.context(document), *teacher)
        asked = {"write": writing} | (
            {} if dream.is_recipe else {"dream": about(document, prompts)}
        )
        for kind, student in asked.items():
            in_view = dream.document if template.is_beside else None
            exchange = Exchange(in_view, student, teacher, dream.tokens, kind, supervised=True)
            out.append(exchange)
    return out
