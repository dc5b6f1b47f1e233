"""A model as lm-evaluation-harness (Gao et al., the package lm_eval) asks it: log-likelihoods of
continuations, of whole texts, and generated texts.

Texts are encoded, truncated and cut as its own backend `hf` does it, so that scores are the same as
those of an export in transformers, to rounding.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)

from sleep_jax.config import RunConfig
from sleep_jax.evals.continuations import continuation_scores, sorted_batches
from sleep_jax.interop.chat_template import Piece
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.progress import phase_progress, say
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig

BATCH = 32  # requests at a time
MOST_NEW_TOKENS = 256  # where a task does not say, as backend `hf`
# How a task may ask for generated texts; anything else is an error.
SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "until", "max_gen_toks")


class HarnessModel(TemplateLM):
    """A model that lm_eval can ask.

    Attributes:
      name: of the model, for progress; empty: there is one only.
      task: what is measured, for progress.
    """

    def __init__(
        self,
        cfg: DecoderConfig,
        variables,
        tokenizer: Tokenizer,
        *,
        name: str = "",
        batch: int = BATCH,
        thought_tokens: int = 0,
        seed: int = 0,
        quiet: bool | None = None,
    ):
        """Takes a model.

        Args:
          cfg: the decoder, in scanned form.
          variables: its collections.
          tokenizer: of the model.
          name: of the model, for progress.
          batch: requests at a time, at most.
          thought_tokens: longest thought before a reply, which is left out of it; 0: it does not
            think.
          seed: of draws, where a task samples.
          quiet: show no progress; None: as the variable SLEEP_JAX_QUIET says.
        """
        super().__init__()
        self.name, self.task = name, "evaluate"
        self._cfg, self._variables, self._own_tokenizer = cfg, variables, tokenizer
        self._batch, self._thought_tokens = batch, thought_tokens
        self._seed, self._quiet = seed, quiet
        self._has_warned = False
        self._token_texts: list[str] | None = None

    # Tokens.

    @property
    def eot_token_id(self) -> int:
        """The id of `eos_token`."""
        tokenizer = self._own_tokenizer
        token = tokenizer.special_tokens.get("eos_token")
        return tokenizer.eos_ids[0] if token is None else tokenizer.backend.token_to_id(token)

    @property
    def prefix_token_id(self) -> int:
        """What a text without anything before it follows: `bos_token`, or else `eos_token`."""
        bos_id = self._own_tokenizer.bos_id
        return self.eot_token_id if bos_id is None else bos_id

    @property
    def max_length(self) -> int:
        """Positions of the model."""
        return self._cfg.max_position

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs
    ) -> list[int]:
        """Token ids of a text, in which names of special tokens are special tokens; they begin with
        what the tokenizer puts before a text, unless the text has it or `add_special_tokens` is
        False.
        """
        tokens = self._own_tokenizer.encode_pieces([Piece(string, False)])
        start = [*self._own_tokenizer.text_start]
        if add_special_tokens is False or tokens[: len(start)] == start:
            return tokens
        return [*start, *tokens]

    @property
    def tokenizer_name(self) -> str:
        """Of the cache of requests."""
        return f"sleep_jax-{self._own_tokenizer.vocab_size}"

    @property
    def has_template(self) -> bool:
        """Whether it has a chat template."""
        return self._own_tokenizer.has_template

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The source of the chat template; empty where it is not used."""
        return self._own_tokenizer.template.source if chat_template else ""

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The text of a chat; without `add_generation_prompt` its last message goes on."""
        try:
            text = self._chat_text(chat_history, add_generation_prompt)
        except ValueError:  # a template without a role for instructions
            others = [x for x in chat_history if x["role"] != "system"]
            if len(others) == len(chat_history):
                raise
            text = self._chat_text(others, add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"].strip()
        return text[: text.rindex(last) + len(last)]

    def _chat_text(self, messages, add_generation_prompt: bool) -> str:
        return self._own_tokenizer.chat_text(messages, add_generation_prompt=add_generation_prompt)

    def _last(self, tokens: list[int], most: int) -> list[int]:
        """The last tokens of a text, with one warning that others were cut off."""
        if len(tokens) > most and not self._has_warned:
            self._has_warned = True
            say(
                f"{self.task}: a text of {len(tokens)} tokens is longer than the {most} that the "
                "model takes here; the beginnings of such texts are cut off"
            )
        return tokens[-most:]

    def _bar(self, total: int, unit: str):
        name = f"{self.task}, {self.name}" if self.name else self.task
        return phase_progress(name, total, unit, quiet=self._quiet)

    # Requests.

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False):
        """(log-likelihood in nats, whether it is what greedy decoding gives) of continuations."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **kwargs):
        results = self._of_pairs([(before, after) for _, before, after in requests])
        for (text, _, _), result in zip(requests, results):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, result)
        return results

    def _of_pairs(self, pairs) -> list[tuple[float, bool]]:
        if any(not after for _, after in pairs):
            raise ValueError("a task asks for the likelihood of an empty continuation")
        most = self.max_length + 1  # the last token is predicted, and not read
        texts = []
        for before, after in pairs:
            kept = self._last([*before, *after], most)
            cut = max(1, len(kept) - len(after))
            texts.append((kept[:cut], kept[cut:]))
        with self._bar(len(texts), "text") as bar:
            scores = continuation_scores(
                self._cfg, self._variables, texts, batch=self._batch, on_batch=bar.advance
            )
        return [
            (float(np.sum(x.log_probs, dtype=np.float64)), bool(x.is_greedy.all())) for x in scores
        ]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False):
        """Log-likelihood in nats of whole texts, in windows of `max_length` tokens."""
        windows = [
            [
                utils.make_disjoint_window(window)
                for window in utils.get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        scores = iter(self._of_pairs([pair for pairs in windows for pair in pairs]))
        totals = [sum(next(scores)[0] for _ in pairs) for pairs in windows]
        for request, total in zip(requests, totals):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generated texts, each cut before the first of its stop strings."""
        alike: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(i)
        texts = [""] * len(requests)
        with self._bar(len(requests), "prompt") as bar:
            for chosen in alike.values():
                prompts = [self.tok_encode(requests[i].args[0]) for i in chosen]
                how = requests[chosen[0]].args[1]
                for i, text in zip(chosen, self._generated(prompts, how, bar.advance)):
                    texts[i] = text
                    self.cache_hook.add_partial("generate_until", requests[i].args, text)
        return texts

    def _generated(
        self, prompts: list[list[int]], how: dict[str, Any], on_batch: Callable[[int], None]
    ) -> list[str]:
        """Texts generated in one way, `generation_kwargs` of a task."""
        tokenizer = self._own_tokenizer
        sampling, until = self._sampling(how)
        room = self.max_length - sampling.max_new_tokens
        if room < 1:
            raise ValueError(
                f"a task asks for max_gen_toks={sampling.max_new_tokens}, and the model takes "
                f"{self.max_length} tokens with the prompt; lower it"
            )
        prompts = [self._last(prompt, room) for prompt in prompts]
        texts, key = [""] * len(prompts), jax.random.key(self._seed)
        lengths = [len(prompt) + sampling.max_new_tokens for prompt in prompts]
        for number, (chosen, rows, width) in enumerate(sorted_batches(lengths, self._batch)):
            filled = chosen + [chosen[0]] * (rows - len(chosen))
            drawn = generate(
                self._cfg,
                sampling,
                self._variables,
                [prompts[i] for i in filled],
                jax.random.fold_in(key, number),
                width=width - sampling.max_new_tokens,
                batch=rows,
            )
            for i, [completion] in zip(chosen, drawn):
                words = completion.tokens[tokenizer.reply_start(completion.tokens) :]
                texts[i] = postprocess_generated_text(tokenizer.decode(words), until, None)
            on_batch(len(chosen))
        return texts

    def _sampling(self, how: dict[str, Any]) -> tuple[SamplingConfig, list[str]]:
        """How to sample, and the strings that end a text; a token that holds one of them ends it,
        too."""
        how = normalize_gen_kwargs(how, MOST_NEW_TOKENS)
        if unknown := [name for name in how if name not in SAMPLING]:
            raise ValueError(f"a task generates with {unknown[0]!r}; known are {SAMPLING}")
        tokenizer = self._own_tokenizer
        eos = tokenizer.backend.id_to_token(self.eot_token_id)
        until = handle_stop_sequences(how.get("until"), eos)
        stops = [] if self._thought_tokens else self._tokens_with(until)
        sampling = SamplingConfig(
            max_new_tokens=how["max_gen_toks"] + self._thought_tokens,
            eos_ids=(*dict.fromkeys([*tokenizer.eos_ids, *stops]),),
            temperature=how["temperature"] if how["do_sample"] else 0.0,
            top_k=how.get("top_k") or 0,
            top_p=how.get("top_p") or 1.0,
        )
        return sampling, until

    def _tokens_with(self, texts: Sequence[str]) -> list[int]:
        """Every token id whose text holds one of some texts."""
        if self._token_texts is None:
            ids = [[i] for i in range(self._own_tokenizer.vocab_size)]
            self._token_texts = self._own_tokenizer.backend.decode_batch(ids)
        parts = [text for text in texts if text]
        return [i for i, whole in enumerate(self._token_texts) if any(x in whole for x in parts)]


def thought_tokens(settings: RunConfig) -> int:
    """The longest thought of a run's model, in tokens; 0: it does not think."""
    return settings.model.thought_tokens if settings.model.thinking else 0
