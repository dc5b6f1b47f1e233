"""The frozen initial model as a judge: does one text say the same as another, yes or no.

The score is logit(Yes) - logit(No) of the first token of its reply, the smaller of both orders of
the pair, so that (a, b) is accepted only where (b, a) is, too. The calibrated threshold
(`calibration`) compensates for a model that prefers one of the two words.
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

REQUEST = (  # of four wordings the best with SmolLM2-135M (experiments/judges)
    "A student was asked to repeat this sentence in other words:\n{a}\n"
    "The student wrote:\n{b}\n"
    "Is that correct? Answer Yes or No."
)
SHORTEST = 128  # smallest width of prompts, in tokens, so that few programs are compiled
ROWS = 8  # prompts in a batch


@jax.jit(static_argnames=("cfg",))
def logit_gaps(cfg: DecoderConfig, variables, tokens, mask, words):
    """logit(words[0]) - logit(words[1]) of the token after each prompt, float32 [rows].

    Args:
      cfg, variables: the model.
      tokens, mask: int32 [rows, time]; the mask is 1 on the tokens of a prompt.
      words: int32 [2].
    """
    hidden = Decoder(cfg).apply(variables, tokens, mask)
    last = jnp.take_along_axis(hidden, mask.sum(1)[:, None, None] - 1, axis=1)[:, 0]
    logits = matmul(last, lm_head(cfg, variables["params"])[:, words])
    return logits[:, 0] - logits[:, 1]


class YesNoModel:
    """The initial model as it answers questions with yes or no."""

    def __init__(self, cfg: DecoderConfig, params, tokenizer: Tokenizer):
        """Binds the model.

        Args:
          cfg, params: the base; the memory of `cfg` is not used.
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
                "the judging model must answer yes or no, but the tokenizer begins 'Yes' and 'No' "
                "with the same token; choose another seeding.judge or dreaming.scorer"
            )

    def logit_gap(self, requests: Sequence[str]) -> np.ndarray:
        """logit(Yes) - logit(No) as the first token of the reply to each request, float32 [n]."""
        template = self._tokenizer.template.without_thought
        prompts = [self._tokenizer.encode_pieces(template(text)) for text in requests]
        width = bucket(max(map(len, prompts), default=0), SHORTEST)
        gaps = [np.zeros(0, np.float32)]
        for start in range(0, len(prompts), ROWS):
            chosen = prompts[start : start + ROWS]
            tokens, mask = pad(chosen + chosen[:1] * (ROWS - len(chosen)), width)
            rows = logit_gaps(self._cfg, self._variables, tokens, mask, self._words)
            gaps.append(to_host(rows)[: len(chosen)])
        return np.concatenate(gaps)


class YesNoScore:
    """Scores pairs of texts by the model's answers, which are cached by ordered pair."""

    def __init__(self, cfg: DecoderConfig, params, tokenizer: Tokenizer):
        """Binds the model; arguments and errors are those of `YesNoModel`."""
        self._model = YesNoModel(cfg, params, tokenizer)
        self._cache: dict[tuple[str, str], float] = {}

    def __call__(self, candidates: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """The smaller logit gap of both orders of each pair: float32 [n]."""
        pairs = list(zip(candidates, references))
        orders = [*pairs, *((b, a) for a, b in pairs)]
        new = [pair for pair in dict.fromkeys(orders) if pair not in self._cache]
        self._cache.update(zip(new, self.logit_gap(new).tolist()))
        gaps = np.array([self._cache[pair] for pair in orders], np.float32)
        return gaps.reshape(2, -1).min(axis=0)

    def logit_gap(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """logit(Yes) - logit(No) for ordered pairs, float32 [n]; not cached."""
        return self._model.logit_gap([REQUEST.format(a=a, b=b) for a, b in pairs])


def initial_config(cfg: DecoderConfig) -> DecoderConfig:
    """The config of the base with a single slot, so that its layers are stacked as in `cfg`."""
    if not cfg.memory.levels:
        return cfg
    one_slot = MemoryConfig((LevelConfig(slots=1, rank=1),), layers=cfg.memory.layers)
    return cfg.replace(memory=one_slot)


def zeroed_slot(cfg: DecoderConfig) -> dict:
    """Collections of an `initial_config` whose slot is inactive; {} without memory."""
    if not cfg.memory.levels:
        return {}
    shape = {"layers": cfg.layers, "width": cfg.width, "hidden": cfg.hidden}
    memory, slots = init_memory(jax.random.key(0), cfg.memory, **shape)
    return {"memory": memory, "slots": slots}
