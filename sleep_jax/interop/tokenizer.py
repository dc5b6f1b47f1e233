"""Text to token ids and back, and chats through the model's own template.

Needs `tokenizers` and `jinja2` alone; renders what transformers' `apply_chat_template` renders.
"""

import datetime
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import jinja2
import jinja2.ext
import jinja2.sandbox
import numpy as np
import tokenizers

# Tokens that end a turn or a text, in the families this library reads.
ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")


class Tokenizer:
    """A model's tokenizer and chat template.

    Attributes:
      backend: the `tokenizers.Tokenizer` beneath.
      special_tokens: what the chat template may name: `bos_token`, `eos_token`, ...
      template: Jinja source of the chat template, or None.
      eos_ids: every id that ends a turn; the first is the one to write.
      pad_id: the id to pad with.
      bos_id: the id that starts a text, or None. `encode` does not add it; a chat template does,
        where the model wants it.
      vocab_size: ids the tokenizer knows. A model's vocabulary may be padded beyond it.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        eos_ids: Iterable[int] = (),
        pad_id: int | None = None,
        template: str | None = None,
    ):
        """Wraps a backend.

        Args:
          backend: the trained tokenizer; its truncation and padding are switched off.
          special_tokens: names (`bos_token`, `eos_token`, `pad_token`) to tokens.
          eos_ids: ids that end a turn, as the model's files say; those of `ENDS` follow.
          pad_id: default: the `pad_token`, else the first end.
          template: Jinja source of the chat template.

        Raises:
          ValueError: nothing ends a turn, so sampling could not stop.
        """
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.template = template
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.bos_id = self._id("bos_token")

        eos = self._id("eos_token")
        specials = {
            t.content: i for i, t in backend.get_added_tokens_decoder().items() if t.special
        }
        known = [specials[token] for token in ENDS if token in specials]
        ends = dict.fromkeys([*([] if eos is None else [eos]), *eos_ids, *known])
        if not ends:
            raise ValueError(
                "the tokenizer has no end-of-turn token: set `eos_token` in tokenizer_config.json "
                "or `eos_token_id` in generation_config.json"
            )
        self.eos_ids: tuple[int, ...] = tuple(ends)
        pad_id = self._id("pad_token") if pad_id is None else pad_id
        self.pad_id: int = self.eos_ids[0] if pad_id is None else pad_id
        self._compiled = None if template is None else _environment().from_string(template)

    def _id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.backend.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; nothing is added, special tokens in the text are recognised."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids (a sequence or an array of rank 1), special tokens left out."""
        return self.backend.decode(np.asarray(ids, np.int64).tolist(), skip_special_tokens=True)

    def chat_text(
        self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True, **options
    ) -> str:
        """A chat as the model's template writes it.

        Args:
          messages: `{"role": ..., "content": ...}` in order. A template may add a system message
            of its own when none is given, as SmolLM2's does.
          add_generation_prompt: end with the header of the assistant's next turn.
          **options: whatever else the template reads, e.g. `enable_thinking=False`.

        Raises:
          ValueError: the tokenizer has no chat template.
          jinja2.TemplateError: the template refuses these messages.
        """
        if self._compiled is None:
            raise ValueError(
                "this tokenizer has no chat template (no chat_template.jinja, no `chat_template` "
                "in tokenizer_config.json, no `tokenizer.chat_template` in the GGUF file): load an "
                "instruct model, or encode plain text"
            )
        variables = {"tools": None, "documents": None, **self.special_tokens, **options}
        return self._compiled.render(
            messages=list(messages), add_generation_prompt=add_generation_prompt, **variables
        )

    def chat(
        self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True, **options
    ) -> list[int]:
        """Token ids of `chat_text`."""
        return self.encode(
            self.chat_text(messages, add_generation_prompt=add_generation_prompt, **options)
        )


def read_tokenizer(folder: pathlib.Path) -> Tokenizer:
    """The tokenizer of a Hugging Face model folder.

    Args:
      folder: holds `tokenizer.json`; `tokenizer_config.json`, `chat_template.jinja`,
        `generation_config.json` and `config.json` are read where present.

    Raises:
      FileNotFoundError: there is no `tokenizer.json`.
      ValueError: a file cannot be parsed.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer.json in {folder}; save one with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"cannot parse {path}: {error}") from error

    config = _read_json(folder / "tokenizer_config.json")
    eos_ids, pad_id = [], None
    for name in ("generation_config.json", "config.json"):
        ids = _read_json(folder / name)
        eos = ids.get("eos_token_id")
        eos_ids += eos if isinstance(eos, list) else [] if eos is None else [eos]
        pad_id = ids.get("pad_token_id") if pad_id is None else pad_id
    special_tokens = {}
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = config.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            special_tokens[role] = token
    return Tokenizer(
        backend,
        special_tokens=special_tokens,
        eos_ids=eos_ids,
        pad_id=None if "pad_token" in special_tokens else pad_id,
        template=_template(folder, config),
    )


def _template(folder: pathlib.Path, config: dict) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        template = {t["name"]: t["template"] for t in template}.get("default")
    return template


def _read_json(path: pathlib.Path) -> dict:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"cannot parse {path}: {error}") from error


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says, for loss masks; in text it is nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """The environment that chat templates are written for (transformers `apply_chat_template`)."""

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        # Jinja's own filter escapes HTML.
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    # Templates come with the weights: they are someone else's code, so they run in a sandbox.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment
