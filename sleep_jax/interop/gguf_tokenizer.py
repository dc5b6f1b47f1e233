"""The tokenizer in the metadata of a GGUF file, read and written."""

import json
from typing import Any

import gguf
import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from sleep_jax.fields import Fields, shown
from sleep_jax.interop.chat_template import DATE
from sleep_jax.interop.gguf import GGUFFile
from sleep_jax.interop.tokenizer import Tokenizer
from sleep_jax.interop.tokenizer_files import checked

# How Llama 3 and Qwen 2 split a text into words; they differ in how digits are grouped.
_BEFORE_DIGITS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_AFTER_DIGITS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _words(digits: str):
    pattern = Regex(_BEFORE_DIGITS + digits + _AFTER_DIGITS)
    return [
        pre_tokenizers.Split(pattern, behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _smollm():
    return [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]


# llama.cpp's name of a pre-tokenizer, and its steps.
_PRE_TOKENIZERS = {
    "smollm": _smollm,
    "llama-bpe": lambda: _words(r"\p{N}{1,3}"),
    "qwen2": lambda: _words(r"\p{N}"),
}


def read_tokenizer(file: GGUFFile, *, thinking: bool = False, date: str = DATE) -> Tokenizer:
    """Builds the byte-level BPE tokenizer of a GGUF file.

    Args:
      file: the file.
      thinking, date: of the template, as for `ChatTemplate`.

    Raises:
      ValueError: the file has no tokenizer, one of an unsupported kind, or one whose parts
        contradict each other; or as `ChatTemplate`.
    """
    read = file.fields
    model, pre = read.text("tokenizer.ggml.model"), read.text("tokenizer.ggml.pre", None)
    if model != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise ValueError(
            f"{file.path} has tokenizer {shown(model)} with pre-tokenizer {shown(pre)}; supported: "
            f"'gpt2' (byte-level BPE) with {', '.join(_PRE_TOKENIZERS)}. Load the safetensors "
            "version of this model"
        )
    tokens = read.texts("tokenizer.ggml.tokens")
    backend = tokenizers.Tokenizer(_bpe(read, tokens, ignore_merges=pre == "llama-bpe"))
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(_PRE_TOKENIZERS[pre]())
    backend.decoder = decoders.ByteLevel()
    kinds = read.listing("tokenizer.ggml.token_type")
    if len(kinds) != len(tokens):
        raise ValueError(
            f"{file.path} has {len(tokens)} tokenizer.ggml.tokens and {len(kinds)} "
            "tokenizer.ggml.token_type, but each token needs one; convert the model again"
        )
    for token, kind in zip(tokens, kinds):
        if kind == gguf.TokenType.CONTROL:
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == gguf.TokenType.USER_DEFINED:
            backend.add_tokens([AddedToken(token, normalized=False)])

    def token_id(role):
        return read.whole(f"tokenizer.ggml.{role}_token_id", 0, len(tokens) - 1, None)

    roles = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    ids = {name: token_id(role) for name, role in roles.items()}
    # As in llama.cpp: texts of Llama 3 begin with the bos token even if the file does not say so.
    adds_bos, bos = read.flag("tokenizer.ggml.add_bos_token", pre == "llama-bpe"), token_id("bos")
    if adds_bos and bos is not None:
        try:
            backend.post_processor = processors.TemplateProcessing(
                single=f"{tokens[bos]} $A", special_tokens=[(tokens[bos], bos)]
            )
        except ValueError:
            read.refuse("tokenizer.ggml.bos_token_id", "the id of a token without white space")
    return checked(
        file.path,
        backend,
        special_tokens={name: tokens[i] for name, i in ids.items() if i is not None},
        eos_ids=[i for role in ("eot", "eom") if (i := token_id(role)) is not None],
        template=read.text("tokenizer.chat_template", None),
        template_name=f"tokenizer.chat_template in {file.path}",
        thinking=thinking,
        date=date,
    )


# Where the pre-tokenizers above differ: digits, contractions, punctuation, line breaks, spaces.
_SAMPLE = "In 1871 it's (Odrin's)  DON'T-stop, 12345.6!\n\n  Zürich\r\n naïve\t?x 東京2024年"


def metadata_of(tokenizer: Tokenizer, vocab: int) -> dict[str, Any]:
    """The metadata that `read_tokenizer` reads as this tokenizer.

    Args:
      tokenizer: a byte-level BPE.
      vocab: rows of the embedding; those without a token get one that no text has.

    Raises:
      ValueError: llama.cpp has no name for it.
    """
    described = json.loads(tokenizer.backend.to_str())
    model = described["model"]
    if model["type"] != "BPE" or not model.get("merges"):
        raise ValueError(
            f"the tokenizer is a {model['type']}"
            + ("" if model.get("merges") else " without merges")
            + ", which GGUF files cannot hold here; export with --to=hf"
        )
    tokens = [f"[PAD{i}]" for i in range(vocab)]
    kinds = [gguf.TokenType.UNUSED] * vocab
    for token, i in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        tokens[i], kinds[i] = token, gguf.TokenType.NORMAL
    for added in described["added_tokens"]:
        kind = "CONTROL" if added["special"] else "USER_DEFINED"
        kinds[added["id"]] = gguf.TokenType[kind]
    merges = [x if isinstance(x, str) else " ".join(x) for x in model["merges"]]
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _name_of_pre_tokenizer(tokenizer.backend),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": bool(tokenizer.text_start),
    }
    roles = {"bos": "bos_token", "padding": "pad_token", "unknown": "unk_token", "eos": "eos_token"}
    ids = {
        role: tokenizer.backend.token_to_id(tokenizer.special_tokens[name])
        for role, name in roles.items()
        if name in tokenizer.special_tokens
    }
    if tokenizer.text_start:
        ids["bos"] = tokenizer.text_start[0]
    ids.setdefault("eos", tokenizer.eos_ids[0])
    if tokenizer.eos_ids[0] != ids["eos"]:
        ids["eot"] = tokenizer.eos_ids[0]
    values |= {f"tokenizer.ggml.{role}_token_id": i for role, i in ids.items() if i is not None}
    if tokenizer.has_template:
        values["tokenizer.chat_template"] = tokenizer.template.source
    return values


def _name_of_pre_tokenizer(backend: tokenizers.Tokenizer) -> str:
    """llama.cpp's name of how a tokenizer splits a text into words."""

    def words(steps) -> list[str]:
        return [word for word, _ in steps.pre_tokenize_str(_SAMPLE)]

    if backend.pre_tokenizer is not None:
        own = words(backend.pre_tokenizer)
        for name, steps in _PRE_TOKENIZERS.items():
            if words(pre_tokenizers.Sequence(steps())) == own:
                return name
    raise ValueError(
        f"the tokenizer splits text as none of {', '.join(_PRE_TOKENIZERS)} does, the ones that "
        "can be written as GGUF; export with --to=hf"
    )


def _bpe(read: Fields, tokens: list[str], *, ignore_merges: bool) -> models.BPE:
    """A BPE model; each merge must join two tokens of the vocabulary to a third."""
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if vocab[token] != i)
        raise ValueError(
            f"{read.where}: tokenizer.ggml.tokens has {shown(twice)} twice; list each once"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in read.texts("tokenizer.ggml.merges")]
    for i, pair in enumerate(merges):
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise ValueError(
                f"{read.where}: tokenizer.ggml.merges[{i}]={shown(' '.join(pair))}; give two "
                "tokens of the vocabulary that join to a third"
            )
    return models.BPE(vocab, merges, ignore_merges=ignore_merges)
