"""A `generate` whose completions are given by a test."""

import numpy as np

from sleep_jax.sampling.generate import Completion


def scripted(patch, module, tokenizer, *calls):
    """Replaces `generate` of a module by one that returns given texts.

    Args:
      patch: pytest's monkeypatch.
      module: whose `generate` is replaced.
      tokenizer: of the texts.
      calls: for each call a list of groups of texts; a text that ends in dots is cut off there.

    Returns:
      A list that grows by the arguments of each call.
    """
    recorded, remaining = [], list(calls)

    def generate(cfg, sampling, variables, prompts, rng, **options):
        groups = remaining.pop(0)
        assert len(groups) == len(prompts)
        recorded.append({"sampling": sampling, "prompts": prompts, **options})
        return [[completion(text) for text in group] for group in groups]

    def completion(text):
        is_finished = not text.endswith("...")
        ids = tokenizer.encode(text.removesuffix("..."))
        ids += tokenizer.eos_ids[:1] * is_finished
        return Completion(tuple(ids), np.zeros(len(ids)), is_finished)

    patch.setattr(module, "generate", generate)
    return recorded
