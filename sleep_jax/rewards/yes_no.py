"""The frozen initial model as a judge: asked whether two texts say the same, in both orders.

The score is logit(yes) - logit(no) of the first word of its reply, the smaller of both orders, so
that a pair is accepted only where (a, b) and (b, a) both are. A model that likes to say yes says it
to every pair: the threshold, found on the probe (`calibration`), takes that bias out.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import init_memory
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.models.linear import matmul
from sleep_jax.models.sharding import to_host

REQUEST = (  # of four wordings the one by which SmolLM2-135M tells most (experiments/judges)
    "A student was asked to repeat this sentence in other words:\n{a}\n"
    "The student wrote:\n{b}\n"
    "Is that correct? Answer Yes or No."
)
SHORTEST = 128  # tokens that a prompt is padded to at least: few programs
ROWS = 8  # prompts in a batch


@jax.jit(static_argnames=("cfg",))
def lean_rows(cfg: DecoderConfig, variables, tokens, mask, words):
    """logit(words[0]) - logit(words[1]) of the token after each prompt, float32 [rows]."""
    hidden = Decoder(cfg).apply(variables, tokens, mask)
    last = jnp.take_along_axis(hidden, mask.sum(1)[:, None, None] - 1, axis=1)[:, 0]
    logits = matmul(last, lm_head(cfg, variables["params"])[:, words])
    return logits[:, 0] - logits[:, 1]


class Asked:
    """What the model, as it was before any sleep, leans to when asked for a yes or a no."""

    def __init__(self, cfg: DecoderConfig, params, tokenizer: Tokenizer):
        """Binds the model.

        Args:
          cfg, params: the base; what `cfg` says of memory is left out.
          tokenizer: with a chat template.

        Raises:
          ValueError: yes and no begin with the same token.
        """
        self._cfg = initial_config(cfg)
        self._variables = {"params": params} | zeroed_slot(self._cfg)
        self._tokenizer = tokenizer
        self._words = np.array([tokenizer.encode(word)[0] for word in ("Yes", "No")])
        if self._words[0] == self._words[1]:
            raise ValueError(
                "a model that judges says yes or no, but the tokenizer begins 'Yes' and 'No' with "
                "the same token; choose another seeding.judge or dreaming.scorer"
            )

    def lean(self, requests: Sequence[str]) -> np.ndarray:
        """logit(yes) - logit(no) as the first word of the reply to each, float32 [n]."""
        encode, begin = self._tokenizer.encode_pieces, self._tokenizer.template.without_thought
        prompts = [encode(begin(text)) for text in requests]
        width = bucket(max(map(len, prompts), default=0), SHORTEST)
        out = []
        for start in range(0, len(prompts), ROWS):
            chosen = prompts[start : start + ROWS]
            tokens, mask = pad(chosen + chosen[:1] * (ROWS - len(chosen)), width)
            leans = lean_rows(self._cfg, self._variables, tokens, mask, self._words)
            out.append(to_host(leans)[: len(chosen)])
        return np.concatenate([np.zeros(0, np.float32), *out])


class YesNo:
    """Scores pairs by what the model answers; asks about no pair of texts twice."""

    def __init__(self, cfg: DecoderConfig, params, tokenizer: Tokenizer):
        """Binds the model; arguments and what is raised are those of `Asked`."""
        self._asked = Asked(cfg, params, tokenizer)
        self._held: dict[tuple[str, str], float] = {}

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """The smaller lean of both orders: float32 [n]."""
        pairs = list(zip(candidates, references))
        orders = [*pairs, *((b, a) for a, b in pairs)]
        new = [pair for pair in dict.fromkeys(orders) if pair not in self._held]
        self._held.update(zip(new, self.lean(new).tolist()))
        leans = np.array([self._held[pair] for pair in orders], np.float32)
        return leans.reshape(2, -1).min(axis=0)

    def lean(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """logit(yes) - logit(no) for ordered pairs, float32 [n]; always asks the model."""
        return self._asked.lean([REQUEST.format(a=a, b=b) for a, b in pairs])


def initial_config(cfg: DecoderConfig) -> DecoderConfig:
    """The base beside one zeroed slot, which keeps its layers stacked as `cfg` has them."""
    if not cfg.memory.levels:
        return cfg
    one_slot = MemoryConfig((LevelConfig(slots=1, rank=1),), layers=cfg.memory.layers)
    return cfg.replace(memory=one_slot)


def zeroed_slot(cfg: DecoderConfig) -> dict:
    """The collections of that slot; none where there is no memory."""
    if not cfg.memory.levels:
        return {}
    shape = {"layers": cfg.layers, "width": cfg.width}
    memory, slots = init_memory(jax.random.key(0), cfg.memory, **shape)
    return {"memory": memory, "slots": slots}
