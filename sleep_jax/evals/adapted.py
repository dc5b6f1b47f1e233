"""Evaluation of many models that share a base and differ only in a LoRA adapter, in one batch."""

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
    """One base model under many adapters.

    Attributes:
      cfg, variables: the base, without `lora`.
      tokenizer: of the base.
      adapters: the `lora` collection of all models, stacked: leaves [layers, models, ...]; None:
        every model is the base, and there are as many as the call has inputs for.
      max_new_tokens: longest reply, in tokens.
      batch: most rows at a time; bounds memory.
    """

    cfg: DecoderConfig
    variables: Any
    tokenizer: Tokenizer
    adapters: Any = None
    max_new_tokens: int = 64
    batch: int = 64

    def blocks(self, models: int, rows: int) -> np.ndarray:
        """Models that are evaluated together, as many as a batch holds: indices [blocks, models],
        every block of the same size.
        """
        return equal_batches(models, max(1, self.batch // rows))

    def row_blocks(self, models: int, rows: int) -> np.ndarray:
        """Rows of each of `models` that are scored together: indices [blocks, rows]."""
        return equal_batches(rows, max(1, self.batch // models))

    def with_adapters(self, adapters) -> "AdaptedModels":
        """The same base under other adapters, leaves [layers, models, ...]."""
        return dataclasses.replace(self, adapters=adapters)

    def replies(self, prompts: Sequence[Sequence[Sequence[int]]]) -> list[list[str]]:
        """Greedy replies.

        Args:
          prompts: per model its token prompts, at least one.

        Returns:
          Per model its replies as text, without thoughts.

        Raises:
          ValueError: a model has no prompt.
        """
        sampling = SamplingConfig(self.max_new_tokens, self.tokenizer.eos_ids, temperature=0.0)
        width = bucket(max(len(prompt) for model_prompts in prompts for prompt in model_prompts))
        out: list[list[str]] = [[] for _ in prompts]
        for models, variables, rows in self._batches(prompts):
            completions = generate(
                self.cfg,
                sampling,
                variables,
                [prompts[i][min(row, len(prompts[i]) - 1)] for i in models for row in range(rows)],
                jax.random.key(0),
                width=width,
                batch=self.batch,
            )
            for j, i in enumerate(models):
                groups = completions[j * rows :][: len(prompts[i])]
                out[i] = [self.tokenizer.reply_text(reply.tokens) for [reply] in groups]
        return out

    def log_likelihoods(self, sequences: Sequence[Sequence[PromptCompletion]]) -> list[np.ndarray]:
        """Log-likelihood of completions after their prompts.

        Args:
          sequences: per model its (prompt, completion) pairs, at least one.

        Returns:
          Per model float32 [sequences, 2]: the sum in nats, and the number of tokens in it.

        Raises:
          ValueError: a model has no sequence.
        """
        examples = make_examples(sequences, is_packed=False)
        tokens = np.asarray(examples.mask).sum(-1)
        nats = np.zeros(tokens.shape, np.float32)
        for models, variables, rows in self._batches(sequences):
            for block in self.row_blocks(len(models), rows):
                index = np.ix_(models, block)
                batch = jax.tree.map(lambda x, index=index: x[index], examples)
                nats[index] = to_host(score_tokens(self.cfg, variables, batch)).sum(-1)
        return [
            np.stack([nats[i], tokens[i]], axis=-1)[: len(pairs)]
            for i, pairs in enumerate(sequences)
        ]

    def _batches(self, inputs: Sequence[Sequence]) -> Iterator[tuple[np.ndarray, Any, int]]:
        """Yields (indices of models, their variables, rows of each model): batches of one shape."""
        if empty := [i for i, model_inputs in enumerate(inputs) if not model_inputs]:
            raise ValueError(f"model {empty[0]} has no input; leave it out")
        rows = max(map(len, inputs))
        blocks = self.blocks(len(inputs), rows)
        for models in blocks:
            variables = self.variables
            if self.adapters is not None:
                adapters = self.adapters
                if len(blocks) > 1:
                    adapters = jax.tree.map(lambda x, models=models: x[:, models], adapters)
                variables = {**variables, "lora": adapters}
            yield models, variables, rows
