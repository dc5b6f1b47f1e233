"""Models that differ in an adapter alone, evaluated together: their rows are one batch of one
program, the base is there once."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from sleep_jax.data.batches import bucket, equal_batches
from sleep_jax.data.examples import PromptCompletion, make_examples
from sleep_jax.evals.likelihood import log_probs
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.sharding import to_host
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig

score_tokens = functools.partial(jax.jit, static_argnames=("cfg",))(log_probs)


@dataclasses.dataclass(frozen=True)
class AdaptedModels:
    """Models over one base.

    Attributes:
      cfg, variables: the base, without `lora`.
      tokenizer: of all.
      adapters: the `lora` collection of all of them side by side, leaves [L, models, ...]; None:
        as many models as are asked for, all of them the base.
      max_new_tokens: longest reply.
      batch: most rows at a time; bounds memory.
    """

    cfg: DecoderConfig
    variables: Any
    tokenizer: Tokenizer
    adapters: Any = None
    max_new_tokens: int = 64
    batch: int = 64

    def wearing(self, adapters) -> "AdaptedModels":
        """The same base under other adapters."""
        return dataclasses.replace(self, adapters=adapters)

    def replies(self, prompts: Sequence[Sequence[Sequence[int]]]) -> list[list[str]]:
        """Greedy replies.

        Args:
          prompts: per model its token prompts, at least one.

        Returns:
          Per model its replies as text.
        """
        sampling = SamplingConfig(self.max_new_tokens, self.tokenizer.eos_ids, temperature=0.0)
        width = bucket(max(len(prompt) for own in prompts for prompt in own))
        out: list[list[str]] = [[] for _ in prompts]
        for models, variables, rows in self._together(prompts):
            drawn = generate(
                self.cfg,
                sampling,
                variables,
                [prompts[i][min(row, len(prompts[i]) - 1)] for i in models for row in range(rows)],
                jax.random.key(0),
                width=width,
                batch=self.batch,
            )
            for j, i in enumerate(models):
                own = drawn[j * rows :][: len(prompts[i])]
                out[i] = [self.tokenizer.reply_text(one.tokens) for [one] in own]
        return out

    def log_likelihoods(self, sequences: Sequence[Sequence[PromptCompletion]]) -> list[np.ndarray]:
        """Log-likelihood of what is scored after what is given.

        Args:
          sequences: per model its sequences, at least one.

        Returns:
          Per model float32 [sequences, 2]: nats, and tokens they are the sum over.
        """
        laid = make_examples(sequences, is_packed=False)
        tokens = np.asarray(laid.mask).sum(-1)
        nats = np.zeros(tokens.shape, np.float32)
        for models, variables, rows in self._together(sequences):
            for block in equal_batches(rows, max(1, self.batch // len(models))):
                where = np.ix_(models, block)
                mine = jax.tree.map(lambda x, where=where: x[where], laid)
                nats[where] = to_host(score_tokens(self.cfg, variables, mine)).sum(-1)
        return [
            np.stack([nats[i], tokens[i]], axis=-1)[: len(own)] for i, own in enumerate(sequences)
        ]

    def _together(self, asked: Sequence[Sequence]) -> Iterator[tuple[np.ndarray, Any, int]]:
        """(models, their variables, rows of each): as many models as a batch holds, every time
        the same number of them and of rows."""
        if empty := [i for i, own in enumerate(asked) if not own]:
            raise ValueError(f"model {empty[0]} is asked nothing; leave it out")
        rows = max(map(len, asked))
        blocks = equal_batches(len(asked), max(1, self.batch // rows))
        for models in blocks:
            variables = self.variables
            if self.adapters is not None:
                taken = self.adapters
                if len(blocks) > 1:
                    taken = jax.tree.map(lambda x, models=models: x[:, models], taken)
                variables = {**variables, "lora": taken}
            yield models, variables, rows
