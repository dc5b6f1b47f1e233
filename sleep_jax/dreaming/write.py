"""Writing of dreams: the model rewrites documents in its context (paper 4, step 1).

If its memory is routed, one more expert of each router can be added at random for every token after
the first, to mix in unrelated knowledge. No other phase does this.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from sleep_jax.data.documents import Document
from sleep_jax.dreaming.rejection import (
    REASONS,
    RejectionConfig,
    dream_rejection_reason,
    recipe_rejection_reason,
)
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
      templates: prompts, each used for every document.
      rejection: thresholds below which a text is not kept as a dream.
      thought_tokens: tokens of a thought, in addition to those of its dream; 0: no thought.

    Raises:
      ValueError: a field has no such value.
    """

    templates: tuple[Template, ...] = part(TemplateChoice, chosen_templates)
    num_generations: int = setting(2, "dreams per document and template", least=1)
    temperature: float = setting(
        0.8, "temperature of dreams; 0: greedy", least=MIN_TEMPERATURE, also=(0,)
    )
    top_p: float = setting(
        1.0, "nucleus sampling: probability mass of the tokens drawn from", least=1e-6, most=1
    )
    max_new_tokens: int = setting(96, "longest dream, in tokens", least=1)
    random_expert: bool = setting(
        False, "add a random expert per token; needs the sigmoid router and memory.top_k"
    )
    rejection: RejectionConfig = part(RejectionConfig)
    thought_tokens: int = 0

    def max_tokens(self, form: str) -> int:
        """Most tokens of a dream by a template of this form, thought included; plain text has no
        thought."""
        return self.max_new_tokens + (0 if form == "plain" else self.thought_tokens)

    @property
    def max_dream_tokens(self) -> int:
        """Most tokens of any dream, thought included."""
        return max(self.max_tokens(template.form) for template in self.templates)

    @property
    def sampling_calls(self) -> tuple[tuple[str, ...], ...]:
        """The calls of the sampler, each as the forms of templates whose dreams it samples."""
        if self.thought_tokens:
            return tuple((form,) for form in FORMS)
        return FORMS[:1], FORMS[1:]

    def sampling(self, eos_ids: tuple[int, ...], form: str = "chat") -> SamplingConfig:
        """The sampler's settings for templates of this form.

        Args:
          eos_ids: token ids that end a dream.
          form: one of `templates.FORMS`.
        """
        return SamplingConfig(
            self.max_tokens(form),
            eos_ids,
            self.temperature,
            top_p=self.top_p,
            num_generations=self.num_generations,
        )


@dataclasses.dataclass(frozen=True)
class Dream:
    """A text that the model wrote about a document.

    Attributes:
      document: index of the document.
      template: name of the template.
      tokens: the sampled token ids, thought and end of turn included.
      text: the text, without thought.
      is_recipe: the text is a training configuration (`dreaming.recipe`).
      log_probs: of the tokens under the sampler, in nats.
    """

    document: int
    template: str
    tokens: tuple[int, ...]
    text: str
    is_recipe: bool = False
    log_probs: tuple[float, ...] = ()

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Dream":
        """The dream of a record of `dataclasses.asdict` that went through JSON."""
        return cls(**record | {name: tuple(record[name]) for name in ("tokens", "log_probs")})


@dataclasses.dataclass(frozen=True)
class WrittenDreams:
    """The result of writing.

    Attributes:
      dreams: the texts that were kept.
      count: number of texts that were sampled.
      rejected: numbers of rejected texts by reason (`rejection.REASONS`).
    """

    dreams: tuple[Dream, ...]
    count: int
    rejected: dict[str, int]


def write_dreams(
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
) -> WrittenDreams:
    """Writes dreams about documents.

    Args:
      cfg, variables: the current model.
      config: templates, sampling and rejection.
      tokenizer: of the model.
      documents, context: what was read, and its cache with one row a document.
      rng: PRNG key of the sampler.
      expert_rng: PRNG key of the random expert, for `config.random_expert`.
      chosen: indices of the documents to dream about; None: all.
      earlier: by document, the texts of earlier dreams about it.
      draw: replaces `generate`, e.g. by one that resumes from a checkpoint.
    """
    prompts, templates = Prompts(tokenizer), config.templates
    chosen = range(len(documents)) if chosen is None else chosen
    requests = [(i, t) for i in chosen for t in templates]
    completions: dict[tuple[int, str], list] = {}
    for call, forms in enumerate(config.sampling_calls):
        in_call = [(i, t) for i, t in requests if t.form in forms]
        groups = (draw or generate)(
            cfg,
            config.sampling(tokenizer.eos_ids, forms[0]),
            variables,
            [t.tokens(prompts, documents[i]) for i, t in in_call],
            jax.random.fold_in(rng, len(requests) + call - 1) if call else rng,
            context=None if call else context,
            documents=[i for i, _ in in_call],
            expert_rng=expert_rng if config.random_expert else None,
        )
        completions |= {(i, t.name): group for (i, t), group in zip(in_call, groups)}
    rejected = dict.fromkeys(REASONS, 0)
    kept: list[Dream] = []
    for i, template in requests:
        document_text = f"{documents[i].title} {documents[i].text}"
        is_recipe = template.writes == "recipe"
        for completion in completions[i, template.name]:
            text = tokenizer.reply_text(completion.tokens)
            known = [x.text for x in kept if x.document == i and x.is_recipe == is_recipe]
            if is_recipe:
                reason = recipe_rejection_reason(text, known, config.rejection)
            else:
                known += (earlier or {}).get(i, ())
                reason = dream_rejection_reason(text, document_text, known, config.rejection)
            if reason:
                rejected[reason] += 1
            else:
                log_probs = tuple(completion.log_probs.tolist())
                kept.append(Dream(i, template.name, completion.tokens, text, is_recipe, log_probs))
    return WrittenDreams(tuple(kept), sum(map(len, completions.values())), rejected)
