"""Write: the model, with a document in view, puts it into its own words (paper 4, step 1).

Where its memory is routed, one more expert of each router, drawn at random for every token after
the first, mixes unrelated knowledge in. No other phase draws one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sleep_jax.data.documents import Document
from sleep_jax.dreaming.rejection import REASONS, Rejection, flaw, recipe_flaw
from sleep_jax.dreaming.templates import FORMS, Template, TemplateChoice, chosen_templates
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import MIN_TEMPERATURE, SamplingConfig
from sleep_jax.settings import Settings, part, setting


@dataclasses.dataclass(frozen=True)
class WritingConfig(Settings, section="dreaming"):
    """How dreams are written.

    Attributes:
      templates: what is asked for, each of every document.
      rejection: what is no dream.
      thought: tokens that a thought may take, beside those of its dream; 0: the model replies at
        once.

    Raises:
      ValueError: a field has no such value.
    """

    templates: tuple[Template, ...] = part(TemplateChoice, chosen_templates)
    count: int = setting(2, "dreams per document and template", least=1)
    temperature: float = setting(
        0.8, "temperature of dreams; 0: greedy", least=MIN_TEMPERATURE, also=(0,)
    )
    top_p: float = setting(
        1.0, "mass of the likeliest tokens that dreams are drawn from", least=1e-6, most=1
    )
    max_new_tokens: int = setting(96, "longest dream, in tokens", least=1)
    random_expert: bool = setting(
        False, "one more expert a token at random; needs the sigmoid router and memory.top_k"
    )
    rejection: Rejection = part(Rejection)
    thought: int = 0

    def longest(self, form: str) -> int:
        """Most tokens of a dream that a template of such a form asks for; a text that is continued
        has no thought before it."""
        return self.max_new_tokens + (0 if form == "plain" else self.thought)

    @property
    def longest_dream(self) -> int:
        """Most tokens of any dream."""
        return max(self.longest(template.form) for template in self.templates)

    @property
    def calls(self) -> tuple[tuple[str, ...], ...]:
        """The forms of templates whose dreams are sampled together."""
        return (("beside",), ("chat",), ("plain",)) if self.thought else (("beside",), FORMS[1:])

    def sampling(self, eos_ids: tuple[int, ...], form: str = "chat") -> SamplingConfig:
        """The sampler's settings for templates of such a form."""
        return SamplingConfig(
            self.longest(form),
            eos_ids,
            self.temperature,
            top_p=self.top_p,
            num_generations=self.count,
        )


@dataclasses.dataclass(frozen=True)
class Dream:
    """Synthetic data about one document.

    Attributes:
      document: index of its document.
      template: name of the template it was written to.
      tokens: its completion tokens, thought and end of turn included.
      text: its words.
      is_recipe: they are a configuration object (`dreaming.recipe`), no knowledge.
      log_probs: of its tokens when they were drawn.
    """

    document: int
    template: str
    tokens: tuple[int, ...]
    text: str
    is_recipe: bool = False
    log_probs: tuple[float, ...] = ()

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Dream":
        """The dream that `dataclasses.asdict` made JSON-able."""
        return cls(**record | {name: tuple(record[name]) for name in ("tokens", "log_probs")})


@dataclasses.dataclass(frozen=True)
class Written:
    """What came of writing.

    Attributes:
      dreams: those that are dreams.
      count: how many were written in all.
      rejected: of the others, how many by reason (`rejection.REASONS`).
    """

    dreams: tuple[Dream, ...]
    count: int
    rejected: dict[str, int]


def write(
    cfg: DecoderConfig,
    config: WritingConfig,
    variables,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    context,
    rng,
    expert_rng=None,
    chosen: Sequence[int] | None = None,
    earlier: Mapping[int, Sequence[str]] | None = None,
    draw=None,
) -> Written:
    """Writes dreams about documents.

    Args:
      cfg, variables: the model as it is now.
      config: how.
      tokenizer: its tokenizer.
      documents, context: what was read, and its cache with one row a document.
      rng: PRNG key of the sampling.
      expert_rng: that of the random expert; used where `config.random_expert`.
      chosen: indices of those to dream about; None: all.
      earlier: by document, what was dreamt about it before.
      draw: in place of `generate`; it may know what was drawn before.
    """
    prompts, templates = Prompts(tokenizer), config.templates
    chosen = range(len(documents)) if chosen is None else chosen
    asked = [(i, t) for i in chosen for t in templates]
    drawn: dict[tuple[int, str], list] = {}
    for call, forms in enumerate(config.calls):
        mine = [(i, t) for i, t in asked if t.form in forms]
        groups = (draw or generate)(
            cfg,
            config.sampling(tokenizer.eos_ids, forms[0]),
            variables,
            [t.tokens(prompts, documents[i]) for i, t in mine],
            jax.random.fold_in(rng, len(asked) + call - 1) if call else rng,
            context=None if call else context,
            documents=[i for i, _ in mine],
            expert_rng=expert_rng if config.random_expert else None,
        )
        drawn |= {(i, t.name): group for (i, t), group in zip(mine, groups)}
    rejected = dict.fromkeys(REASONS, 0)
    kept: list[Dream] = []
    for i, template in asked:
        page, is_recipe = f"{documents[i].title} {documents[i].text}", template.writes == "recipe"
        for completion in drawn[i, template.name]:
            text = tokenizer.reply_text(completion.tokens)
            known = [x.text for x in kept if x.document == i and x.is_recipe == is_recipe]
            if is_recipe:
                reason = recipe_flaw(text, known, config.rejection)
            else:
                known += (earlier or {}).get(i, ())
                reason = flaw(text, page, known, config.rejection)
            if reason:
                rejected[reason] += 1
            else:
                drawn_at = tuple(completion.log_probs.tolist())
                kept.append(Dream(i, template.name, completion.tokens, text, is_recipe, drawn_at))
    return Written(tuple(kept), sum(map(len, drawn.values())), rejected)
