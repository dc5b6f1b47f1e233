"""Greedy replies and log-probabilities of a GGUF file by llama.cpp, from its shared library.

A process of its own (`ask`) loads the library: a library that does not fit this interface can end
it, not ours. The library is what prebuilt releases, Homebrew and the npm packages
`@node-llama-cpp/...` hold; its interface is https://github.com/ggml-org/llama.cpp/blob/master/include/llama.h
"""

import ctypes
import glob
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

_PATTERNS = ("libllama.so*", "libllama.v*.so", "libllama*.dylib", "llama.dll")
_OPAQUE = 4096  # bytes, more than llama.cpp's structs of parameters have


class LlamaCppError(ValueError):
    """llama.cpp could not be loaded, or did not answer."""


def find_library(given: str | None = None) -> pathlib.Path | None:
    """The shared library of llama.cpp.

    Args:
      given: the library, or a folder in or below which it lies; None: looks at the variable
        LLAMA_CPP, in ./node_modules and beside the programs of llama.cpp on the PATH.

    Returns:
      Its path; None where none was found.

    Raises:
      FileNotFoundError: there is none at the given place.
    """
    given = given or os.environ.get("LLAMA_CPP")
    if given:
        path = pathlib.Path(given).expanduser()
        if found := (path if path.is_file() else _below(path)):
            return found
        raise FileNotFoundError(f"no llama.cpp library ({', '.join(_PATTERNS)}) in {given}")
    programs = [shutil.which(name) for name in ("llama-cli", "llama-server")]
    folders = [pathlib.Path(p).resolve().parent for p in programs if p]
    places = ["node_modules/@node-llama-cpp", *folders, *(x.parent / "lib" for x in folders)]
    return next((found for place in places if (found := _below(pathlib.Path(place)))), None)


def _below(folder: pathlib.Path) -> pathlib.Path | None:
    for pattern in _PATTERNS:
        if matches := glob.glob(str(folder / "**" / pattern), recursive=True):
            return pathlib.Path(sorted(matches, key=len)[0])
    return None


def ask(
    library: pathlib.Path,
    model: pathlib.Path,
    *,
    texts: Sequence[str] = (),
    prompts: Sequence[Sequence[int]] = (),
    max_new_tokens: int = 0,
    replies: Sequence[Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Asks a model on the CPU.

    Args:
      library: of llama.cpp.
      model: a GGUF file.
      texts: to be tokenized, special tokens included.
      prompts: token prompts to be answered greedily, where `max_new_tokens` is above 0.
      max_new_tokens: longest reply.
      replies: to `prompts`, whose log-probabilities are wanted; None: none.

    Returns:
      {`tokens`: of each text, `replies`: of each prompt, with the token that ended it, `log_probs`:
      of each token of each reply, in nats}.

    Raises:
      LlamaCppError: it failed; says how.
    """
    job = {
        "library": str(library.resolve()),
        "model": str(model),
        "texts": [*texts],
        "prompts": [[*map(int, x)] for x in prompts],
        "max_new_tokens": max_new_tokens,
        "replies": None if replies is None else [[*map(int, x)] for x in replies],
    }
    command = [sys.executable, "-m", __name__]
    # It cuts the lines that it logs anywhere, also within a character.
    how = {"capture_output": True, "encoding": "utf-8", "errors": "replace"}
    ran = subprocess.run(command, input=json.dumps(job), **how)
    if ran.returncode:
        lines = ran.stderr.strip().splitlines() or [f"status {ran.returncode}"]
        raise LlamaCppError(f"llama.cpp ({library}) failed on {model}: {lines[-1]}")
    return json.loads(ran.stdout)


class _Parameters(ctypes.Structure):
    """Parameters as llama.cpp fills and takes them, by value. Their layout changes between
    versions: only the first numbers, which do not, are known here."""

    _fields_ = [("numbers", ctypes.c_uint32 * 4), ("rest", ctypes.c_byte * _OPAQUE)]


class _Batch(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    ]


class _Model:
    """A model that is loaded, with a context of one sequence."""

    def __init__(self, library: str, model: str, length: int):
        self._llama = llama = ctypes.CDLL(library)
        self._load_backends(pathlib.Path(library).parent)
        pointer, parameters = ctypes.c_void_p, _Parameters
        for name, result, *arguments in (
            ("llama_backend_init", None),
            ("llama_model_default_params", parameters),
            ("llama_model_load_from_file", pointer, ctypes.c_char_p, parameters),
            ("llama_context_default_params", parameters),
            ("llama_init_from_model", pointer, pointer, parameters),
            ("llama_set_n_threads", None, pointer, ctypes.c_int32, ctypes.c_int32),
            ("llama_model_get_vocab", pointer, pointer),
            ("llama_vocab_n_tokens", ctypes.c_int32, pointer),
            ("llama_vocab_is_eog", ctypes.c_bool, pointer, ctypes.c_int32),
            ("llama_get_memory", pointer, pointer),
            ("llama_memory_clear", None, pointer, ctypes.c_bool),
            ("llama_batch_init", _Batch, *[ctypes.c_int32] * 3),
            ("llama_decode", ctypes.c_int32, pointer, _Batch),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), pointer, ctypes.c_int32),
            (
                "llama_tokenize",
                *(ctypes.c_int32, pointer, ctypes.c_char_p, ctypes.c_int32),
                *(ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool),
            ),
        ):
            function = getattr(llama, name)
            function.restype, function.argtypes = result, arguments
        llama.llama_backend_init()
        loaded = llama.llama_model_load_from_file(
            os.fsencode(model), llama.llama_model_default_params()
        )
        if not loaded:
            raise SystemExit("it cannot load the model")
        self._vocab = llama.llama_model_get_vocab(loaded)
        self._vocab_size = llama.llama_vocab_n_tokens(self._vocab)
        with_context = llama.llama_context_default_params()
        if [*with_context.numbers[:2]] != [512, 2048]:
            raise SystemExit("its parameters are not those of llama.h: n_ctx=512, n_batch=2048")
        with_context.numbers[0] = with_context.numbers[1] = max(length, 512)
        self._context = llama.llama_init_from_model(loaded, with_context)
        if not self._context:
            raise SystemExit(f"it has no memory for a context of {length} tokens")
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
        llama.llama_set_n_threads(self._context, threads, threads)
        self._batch = llama.llama_batch_init(max(length, 512), 0, 1)

    @staticmethod
    def _load_backends(folder: pathlib.Path) -> None:
        """Loads the backends that lie beside the library, where they are apart from it."""
        for path in sorted(folder.glob("libggml.*")):
            ggml = ctypes.CDLL(str(path))
            if hasattr(ggml, "ggml_backend_load_all_from_path"):
                ggml.ggml_backend_load_all_from_path(os.fsencode(folder))
                return

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text, special tokens among it recognised, none added."""
        encoded = text.encode()
        out = (ctypes.c_int32 * (len(encoded) + 8))()
        arguments = (encoded, len(encoded), out, len(out), False, True)
        return out[: self._llama.llama_tokenize(self._vocab, *arguments)]

    def reply(self, prompt: Sequence[int], most: int) -> list[int]:
        """The greedy reply to a prompt, with the token that ended it."""
        self._forget()
        out, fed = [], prompt
        for at in range(most):
            start = 0 if not at else len(prompt) + at - 1
            token = int(self._logits(fed, start, [len(fed) - 1])[0].argmax())
            out.append(token)
            if self._llama.llama_vocab_is_eog(self._vocab, token):
                break
            fed = [token]
        return out

    def log_probs(self, prompt: Sequence[int], reply: Sequence[int]) -> list[float]:
        """Log-probability of every token of a reply."""
        self._forget()
        tokens = [*prompt, *reply]
        logits = self._logits(tokens[:-1], 0, range(len(prompt) - 1, len(tokens) - 1))
        logits = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        rows = np.arange(len(reply))
        return (logits[rows, list(reply)] - np.log(np.exp(logits).sum(axis=1))).tolist()

    def _forget(self) -> None:
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)

    def _logits(self, tokens: Sequence[int], start: int, wanted: Sequence[int]) -> np.ndarray:
        """Next-token logits [wanted, vocab] after these tokens, which stand from `start` on."""
        batch, wanted = self._batch, [*wanted]
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, i in wanted
        if status := self._llama.llama_decode(self._context, batch):
            raise SystemExit(f"llama_decode returned {status}")
        rows = [self._llama.llama_get_logits_ith(self._context, i) for i in wanted]
        return np.stack([np.ctypeslib.as_array(row, (self._vocab_size,)).copy() for row in rows])


def main() -> None:
    """Answers the job on stdin, of `ask`, on stdout."""
    job = json.load(sys.stdin)
    replies = job["replies"]
    lengths = [len(prompt) + job["max_new_tokens"] for prompt in job["prompts"]]
    lengths += [len(p) + len(r) for p, r in zip(job["prompts"], replies or ())]
    model = _Model(job["library"], job["model"], max(lengths, default=1) + 1)
    answer: dict[str, Any] = {"tokens": [model.tokens(text) for text in job["texts"]]}
    if most := job["max_new_tokens"]:
        answer["replies"] = [model.reply(prompt, most) for prompt in job["prompts"]]
    if replies is not None:
        answer["log_probs"] = [*map(model.log_probs, job["prompts"], replies)]
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
