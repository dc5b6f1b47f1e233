"""Programs that run a model, by which exports are compared: this one, transformers, llama.cpp."""

import importlib.metadata
import importlib.util
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np

from sleep_jax.data.batches import pad
from sleep_jax.evals.continuations import continuation_scores
from sleep_jax.interop import llama_cpp
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig

BATCH = 32  # replies at a time
Tokens = Sequence[int]


class Program(Protocol):
    """A program with a model loaded, and with its base: the same model without memory."""

    name: str

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """The tokens of each question as a user's turn."""

    def replies(self, prompts: Sequence[Tokens], max_new_tokens: int) -> list[list[int]]:
        """Greedy replies, each with the token that ended it."""

    def log_probs(self, prompts: Sequence[Tokens], replies: Sequence[Tokens]) -> list[np.ndarray]:
        """Log-probability of every token of each reply, in nats."""

    def base_log_probs(
        self, prompts: Sequence[Tokens], replies: Sequence[Tokens]
    ) -> list[np.ndarray] | None:
        """The same by the base; None where the program was given none."""


class OwnProgram:
    """This program.

    Attributes:
      name: of it.
    """

    def __init__(
        self, cfg: DecoderConfig, variables, base: tuple[DecoderConfig, Any] | None, tokenizer
    ):
        """Takes a model, its base (config, variables) or None, and their tokenizer."""
        self.name = f"sleep_jax {importlib.metadata.version('sleep_jax')}"
        self._model, self._base, self._tokenizer = (cfg, variables), base, tokenizer

    def prompts(self, questions):
        return [user_turn(self._tokenizer, question) for question in questions]

    def replies(self, prompts, max_new_tokens):
        cfg, variables = self._model
        sampling = SamplingConfig(max_new_tokens, self._tokenizer.eos_ids, temperature=0.0)
        drawn = generate(cfg, sampling, variables, prompts, jax.random.key(0), batch=BATCH)
        return [[*completion.tokens] for [completion] in drawn]

    def log_probs(self, prompts, replies):
        return _log_probs(*self._model, prompts, replies)

    def base_log_probs(self, prompts, replies):
        return self._base and _log_probs(*self._base, prompts, replies)


def _log_probs(cfg, variables, prompts, replies) -> list[np.ndarray]:
    scores = continuation_scores(cfg, variables, [*zip(prompts, replies)])
    return [score.log_probs for score in scores]


def user_turn(tokenizer: Tokenizer, question: str) -> list[int]:
    """A question as a whole user turn, or as plain text where there is no chat template."""
    if not tokenizer.has_template:
        return [*tokenizer.text_start, *tokenizer.encode(question)]
    return tokenizer.encode_pieces(tokenizer.template.user_turn(question))


class TransformersProgram:
    """transformers, on the CPU.

    Attributes:
      name: of it.
    """

    def __init__(self, folder: pathlib.Path, hidden: int, options: dict[str, Any]):
        """Loads a folder.

        Args:
          folder: in Hugging Face layout.
          hidden: width of the base's FFN, whose units come first.
          options: variables of the chat template.
        """
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.name = f"transformers {transformers.__version__}"
        self._hidden, self._options = hidden, options
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()

    @staticmethod
    def is_installed() -> bool:
        """Whether it can be used here."""
        return all(importlib.util.find_spec(name) for name in ("transformers", "torch"))

    def prompts(self, questions):
        chats = [[{"role": "user", "content": question}] for question in questions]
        if self._tokenizer.chat_template is None:
            return [self._tokenizer(question)["input_ids"] for question in questions]
        how = {"add_generation_prompt": True, "return_dict": True, **self._options}
        return [self._tokenizer.apply_chat_template(x, **how)["input_ids"] for x in chats]

    def replies(self, prompts, max_new_tokens):
        import torch

        eos = self._model.generation_config.eos_token_id
        ends = {*eos} if isinstance(eos, list) else {eos}
        out = []
        for start in range(0, len(prompts), BATCH):
            rows = prompts[start : start + BATCH]
            tokens, mask = pad(rows, max(map(len, rows)), side="left")
            tokens, mask = (torch.tensor(x, dtype=torch.long) for x in (tokens, mask))
            drawn = self._model.generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
            )
            for row in drawn[:, tokens.shape[1] :].tolist():
                end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
                out.append(row[:end])
        return out

    def log_probs(self, prompts, replies):
        import torch

        out = []
        for prompt, reply in zip(prompts, replies):
            tokens = torch.tensor([[*prompt, *reply]])
            with torch.no_grad():
                logits = self._model(tokens).logits[0, len(prompt) - 1 : -1].float()
            scores = torch.log_softmax(logits, -1)[torch.arange(len(reply)), list(reply)]
            out.append(scores.numpy())
        return out

    def base_log_probs(self, prompts, replies):
        import torch

        downs = [layer.mlp.down_proj.weight for layer in self._model.model.layers]
        kept = [down[:, self._hidden :].clone() for down in downs]
        with torch.no_grad():
            for down in downs:
                down[:, self._hidden :] = 0
            scores = self.log_probs(prompts, replies)
            for down, columns in zip(downs, kept):
                down[:, self._hidden :] = columns
        return scores


class PeftProgram(TransformersProgram):
    """PEFT on transformers; attributes and methods as of `TransformersProgram`."""

    def __init__(self, base: pathlib.Path, adapter: pathlib.Path, options: dict[str, Any]):
        """Loads the folders of a base, in Hugging Face layout, and of an adapter."""
        import peft

        super().__init__(base, 0, options)
        self.name = f"peft {peft.__version__}, {self.name}"
        with warnings.catch_warnings(action="ignore"):  # of what PEFT calls in transformers
            self._model = peft.PeftModel.from_pretrained(self._model, adapter).eval()

    @staticmethod
    def is_installed() -> bool:
        return TransformersProgram.is_installed() and bool(importlib.util.find_spec("peft"))

    def base_log_probs(self, prompts, replies):
        with self._model.disable_adapter():
            return self.log_probs(prompts, replies)


class ProgramBesideBase:
    """A program whose base is loaded apart, since its own weights are changed.

    Attributes:
      name: of it.
    """

    def __init__(self, program: Program, base: Program):
        """Takes the programs of a model and of its base."""
        self.name, self._base = program.name, base
        self.prompts, self.replies = program.prompts, program.replies
        self.log_probs = program.log_probs

    def base_log_probs(self, prompts, replies):
        return self._base.log_probs(prompts, replies)


class LlamaCppProgram:
    """llama.cpp, on the CPU.

    Attributes:
      name: of it.
    """

    def __init__(
        self, library: pathlib.Path, file: pathlib.Path, base: pathlib.Path, tokenizer: Tokenizer
    ):
        """Takes the library, the GGUF files of a model and of its base, and their tokenizer."""
        self.name = f"llama.cpp ({library.name})"
        self._library, self._file, self._base = library, file, base
        self._tokenizer = tokenizer

    def prompts(self, questions):
        def text(question):
            if not self._tokenizer.has_template:
                return question
            pieces = self._tokenizer.template.user_turn(question)
            return "".join(piece.text for piece in pieces)

        asked = llama_cpp.ask(self._library, self._file, texts=[*map(text, questions)])
        starts = [] if self._tokenizer.has_template else [*self._tokenizer.text_start]
        return [[*starts, *tokens] for tokens in asked["tokens"]]

    def replies(self, prompts, max_new_tokens):
        how = {"prompts": prompts, "max_new_tokens": max_new_tokens}
        return llama_cpp.ask(self._library, self._file, **how)["replies"]

    def log_probs(self, prompts, replies):
        return self._scores(self._file, prompts, replies)

    def base_log_probs(self, prompts, replies):
        return self._scores(self._base, prompts, replies)

    def _scores(self, file, prompts, replies):
        asked = llama_cpp.ask(self._library, file, prompts=prompts, replies=replies)
        return [*map(np.asarray, asked["log_probs"])]
