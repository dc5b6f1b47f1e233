"""Write: the model, with a document in its context, puts it into its own words (paper 4, step 1).

The paper's extra random expert needs a router. Here every active slot is on: none is left to add.
"""

import dataclasses
import re
from collections.abc import Sequence

from sleep_jax.data.documents import Document
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.config import DecoderConfig
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.prompts import Prompts

# SEAL's instruction (Zweiger et al. 2025, knowledge incorporation) and variants of it.
INSTRUCTIONS = {
    "implications": "List several facts that follow from the text above, one a line.",
    "rewrite": "Rewrite the text above in different words. Keep every name and number.",
    "questions": "Write several questions about the text above, each followed by its answer.",
}


@dataclasses.dataclass(frozen=True)
class Dream:
    """Synthetic data about one document.

    Attributes:
      document: index of its document.
      instruction: name of the instruction it was written to.
      tokens: its completion tokens, end of turn included.
      text: its words.
    """

    document: int
    instruction: str
    tokens: tuple[int, ...]
    text: str


def degenerates(text: str) -> bool:
    """Whether a dream is empty or loops: a short text, or most of its four-word runs said
    before."""
    words = re.findall(r"\w+", text.lower())
    runs = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
    return len(words) < 5 or len(set(runs)) < len(runs) / 2


def write(
    cfg: DecoderConfig,
    variables,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    context,
    *,
    instructions: Sequence[str],
    count: int,
    temperature: float,
    max_new_tokens: int,
    rng,
) -> tuple[list[Dream], int]:
    """Writes dreams about every document.

    Args:
      cfg, variables: the model as it is now.
      tokenizer: its tokenizer.
      documents, context: what was read, and its cache with one row a document.
      instructions: names of `INSTRUCTIONS` to write to.
      count: dreams per document and instruction.
      temperature, max_new_tokens: of the sampling.
      rng: PRNG key.

    Returns:
      (dreams, written): the distinct dreams that did not degenerate, and how many were written in
      all.

    Raises:
      ValueError: an instruction has no such name.
    """
    if unknown := [name for name in instructions if name not in INSTRUCTIONS]:
        raise ValueError(
            f"dreaming.instructions has {unknown[0]!r}; choose from {', '.join(INSTRUCTIONS)}"
        )
    prompts = Prompts(tokenizer)
    asked = [(i, name) for i in range(len(documents)) for name in instructions]
    drawn = generate(
        cfg,
        SamplingConfig(max_new_tokens, tokenizer.eos_ids, temperature=temperature, group=count),
        variables,
        [prompts.beside(INSTRUCTIONS[name]) for _, name in asked],
        rng,
        context=context,
        documents=[i for i, _ in asked],
    )
    dreams: dict[tuple[int, str], Dream] = {}
    for (i, name), group in zip(asked, drawn):
        for completion in group:
            text = tokenizer.decode(completion.tokens).strip()
            if not degenerates(text):
                dreams.setdefault((i, text), Dream(i, name, completion.tokens, text))
    return list(dreams.values()), sum(map(len, drawn))
