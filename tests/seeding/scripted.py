"""A model that writes what a test has it write."""

import numpy as np

from sleep_jax.sampling.generate import Completion


def scripted(patch, module, tokenizer, *calls):
    """Has `generate` of a module write given texts, one list of groups for each call; one that ends
    in dots is cut off there. Returns where the calls are recorded."""
    seen, remaining = [], list(calls)

    def generate(cfg, sampling, variables, prompts, rng, **options):
        written = remaining.pop(0)
        assert len(written) == len(prompts)
        seen.append({"sampling": sampling, "prompts": prompts, **options})
        return [[completion(text) for text in group] for group in written]

    def completion(text):
        is_finished = not text.endswith("...")
        ids = tokenizer.encode(text.removesuffix("..."))
        ids += tokenizer.eos_ids[:1] * is_finished
        return Completion(tuple(ids), np.zeros(len(ids)), is_finished)

    patch.setattr(module, "generate", generate)
    return seen
