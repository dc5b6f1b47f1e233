"""Text to token ids and back, and chats through the model's own template.

Needs `tokenizers` and `jinja2` alone; writes what transformers' `apply_chat_template` writes. Text
is text: the name of a special token in it, such as `<|im_end|>`, is read letter by letter and means
nothing.
"""

import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tokenizers

from sleep_jax.fields import Fields, read_object, reason, shown
from sleep_jax.interop.chat_template import DATE, END_OF_THOUGHT, THINK, ChatTemplate, Piece

# Tokens that end a turn or a text, in the families this library reads.
ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")
ID_FILES = ("generation_config.json", "config.json")  # of a folder, which say ids that end a turn


class Tokenizer:
    """A model's tokenizer and chat template.

    Attributes:
      backend: the `tokenizers.Tokenizer` beneath.
      special_tokens: what the chat template may name: `bos_token`, `eos_token`, ...
      eos_ids: every id that ends a turn; the first is the one to write: that of the template.
      pad_id: the id to pad with.
      bos_id: the id that is called the start of a text, or None. Not every model wants it: see
        `text_start`.
      text_start: ids that a plain text begins with, as the tokenizer's post-processor has it:
        Llama 3's `<|begin_of_text|>`, nothing for Qwen or SmolLM2. `encode` does not add them.
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
        template_name: str = "the chat template",
        thinking: bool = False,
        date: str = DATE,
    ):
        """Wraps a backend.

        Args:
          backend: the trained tokenizer; its truncation and padding are switched off.
          special_tokens: names (`bos_token`, `eos_token`, `pad_token`) to tokens.
          eos_ids: ids that end a turn, as the model's files say; those of `ENDS` follow.
          pad_id: default: the `pad_token`, else the first end.
          template: Jinja source of the chat template.
          template_name, thinking, date: of the template, as for `ChatTemplate`.

        Raises:
          ValueError: nothing ends a turn, so sampling could not stop; the template does not write
            chats.
        """
        backend.no_truncation()
        backend.no_padding()
        self.backend = backend
        self.special_tokens = dict(special_tokens or {})
        self.vocab_size = backend.get_vocab_size(with_added_tokens=True)
        self.bos_id = self._id("bos_token")
        self.text_start = _text_start(backend)
        self._template = None
        if template is not None:
            self._template = ChatTemplate(
                template,
                name=template_name,
                special_tokens=self.special_tokens,
                thinking=thinking,
                date=date,
            )
        added = {i: t for i, t in backend.get_added_tokens_decoder().items() if t.content.strip()}
        specials = {t.content: i for i, t in added.items() if t.special}
        self._controls = frozenset(specials.values())
        if self._template is not None:  # also Qwen 3's <think>, which is not marked as special
            written = "".join(self._template.around())
            self._controls |= added.keys() & set(self._encoding(written).ids)
        eos = self._id("eos_token")
        known = [specials[token] for token in ENDS if token in specials]
        ends = dict.fromkeys([*([] if eos is None else [eos]), *eos_ids, *known])
        turn_end = self._turn_end(frozenset(ends))
        ends = dict.fromkeys([*([] if turn_end is None else [turn_end]), *ends])
        if not ends:
            raise ValueError(
                "the tokenizer has no end-of-turn token: set `eos_token` in tokenizer_config.json "
                "or `eos_token_id` in generation_config.json"
            )
        self.eos_ids: tuple[int, ...] = tuple(ends)
        pad_id = self._id("pad_token") if pad_id is None else pad_id
        self.pad_id: int = self.eos_ids[0] if pad_id is None else pad_id
        self._end_of_thought = self._thought_token(END_OF_THOUGHT)
        self._thought = self._thought_token(THINK)

    def _id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.backend.token_to_id(token)

    def _encoding(self, text: str) -> tokenizers.Encoding:
        return self.backend.encode(text, add_special_tokens=False)

    def _turn_end(self, ends: frozenset[int]) -> int | None:
        """The token by which the template ends a reply; None where it writes nothing there."""
        if self._template is None:
            return None
        after = self._template.around().after
        for token in self._encoding(after).ids:
            if token in self._controls | ends:
                return token
        if after.strip():
            raise ValueError(
                f"{self._template.name} ends a reply with {shown(after)}, which holds no special "
                "token of the tokenizer: sampling could not stop there"
            )
        return None

    def _thought_token(self, token: str) -> int | None:
        token_id = self.backend.token_to_id(token)
        if token_id is None and self._template is not None and self._template.thinking:
            raise ValueError(
                f"model.thinking=True, but {token} is no token of the tokenizer, so no thought "
                "could be told from its reply; set model.thinking=False"
            )
        return token_id

    @property
    def template(self) -> ChatTemplate:
        """The chat template.

        Raises:
          ValueError: there is none.
        """
        if self._template is None:
            raise ValueError(
                "this tokenizer has no chat template (no chat_template.jinja, no `chat_template` "
                "in tokenizer_config.json, no `tokenizer.chat_template` in the GGUF file): load an "
                "instruct model, or encode plain text"
            )
        return self._template

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; nothing is added, special tokens are not recognised in it."""
        return self.encode_pieces([Piece(text, True)])

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of the text that pieces make up; special tokens are recognised in what a
        template wrote alone."""
        encoding = self._encoding("".join(piece.text for piece in pieces))
        if self._controls.isdisjoint(encoding.ids):
            return encoding.ids
        words = list(_spans(pieces))
        cuts = [
            start + 1  # a name that is cut behind its first letter is read as text
            for token, (start, end) in zip(encoding.ids, encoding.offsets)
            if token in self._controls
            and end - start > 1
            and any(first <= start < last for first, last in words)
        ]
        if not cuts:
            return encoding.ids
        ends = [0, *cuts, sum(len(piece.text) for piece in pieces)]
        parts = (_between(pieces, a, b) for a, b in itertools.pairwise(ends))
        return [token for part in parts for token in self.encode_pieces(part)]

    def encode_reply(self, text: str) -> list[int]:
        """Token ids of a finished reply as the template writes it, up to the end of its turn: what
        follows the prompt."""
        *reply, after = self.template.reply(text)
        encoding = self._encoding(after.text)
        for token, (_, end) in zip(encoding.ids, encoding.offsets):
            if token == self.eos_ids[0]:
                return self.encode_pieces([*reply, Piece(after.text[:end], False)])
        return [*self.encode_pieces(reply), self.eos_ids[0]]  # the template leaves it open

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids (a sequence or an array of rank 1), special tokens left out."""
        return self.backend.decode(np.asarray(ids, np.int64).tolist(), skip_special_tokens=True)

    def reply_start(self, ids: Sequence[int]) -> int:
        """How many tokens of a reply are the thought before its words; all of them where the
        thought has no end."""
        ids = np.asarray(ids, np.int64).tolist()
        if self._end_of_thought in ids:
            return len(ids) - ids[::-1].index(self._end_of_thought)
        closing = "" if self._template is None else self._template.around().closing
        is_open = closing.rfind(THINK) > closing.rfind(END_OF_THOUGHT)
        return len(ids) if is_open or self._thought in ids else 0

    def reply_text(self, ids: Sequence[int]) -> str:
        """The words of a reply: no special tokens, no thought, no white space around them."""
        return self.decode(ids[self.reply_start(ids) :]).strip()

    def chat_text(
        self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True, **options
    ) -> str:
        """A chat as the model's template writes it; arguments and what is raised are those of
        `ChatTemplate.render`."""
        return self.template.render(
            messages, add_generation_prompt=add_generation_prompt, **options
        )

    def chat(
        self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True, **options
    ) -> list[int]:
        """Token ids of `chat_text`; the words of the messages are text."""
        return self.encode_pieces(
            self.template.pieces(messages, add_generation_prompt=add_generation_prompt, **options)
        )


def _text_start(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    """What the post-processor puts before a text."""
    if not backend.num_special_tokens_to_add(is_pair=False):
        return ()
    bare = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    starts = range(len(whole) - len(bare) + 1)
    at = next((i for i in starts if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:at])


def _spans(pieces: Sequence[Piece]):
    """Where words begin and end in the text that pieces make up."""
    at = 0
    for piece in pieces:
        if piece.is_words:
            yield at, at + len(piece.text)
        at += len(piece.text)


def _between(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """The pieces of a part of that text."""
    out, at = [], 0
    for piece in pieces:
        part = piece.text[max(start - at, 0) : max(stop - at, 0)]
        out.append(Piece(part, piece.is_words))
        at += len(piece.text)
    return out


def read_tokenizer(folder: pathlib.Path, *, thinking: bool = False, date: str = DATE) -> Tokenizer:
    """The tokenizer of a Hugging Face model folder.

    Args:
      folder: holds `tokenizer.json`; `tokenizer_config.json`, `chat_template.jinja`,
        `generation_config.json` and `config.json` are read where present.
      thinking, date: of the template, as for `ChatTemplate`.

    Raises:
      FileNotFoundError: there is no `tokenizer.json`.
      ValueError: a file cannot be parsed, or the chat template does not write chats.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no tokenizer.json in {folder}; save one with "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(...)`"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:
        _pass_on(error)
        raise ValueError(f"cannot parse {path}: {reason(error)}; download it again") from error

    config = _read_optional(folder / "tokenizer_config.json")
    eos_ids, pad_id = [], None
    for name in ID_FILES:
        read = _read_optional(folder / name)
        eos_ids += ids_of(read, "eos_token_id")
        pad_id = read.whole("pad_token_id", -1, default=None) if pad_id is None else pad_id
    special_tokens = {}
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        is_entry = isinstance(config.get(role), Mapping)
        read, field = (config.section(role), "content") if is_entry else (config, role)
        token = read.text(field, None)
        if token is None:
            continue
        if role in ("bos_token", "eos_token") and backend.token_to_id(token) is None:
            read.refuse(field, f"a token that {path.name} has")
        special_tokens[role] = token
    template, template_name = _template(folder, config)
    return checked(
        path,
        backend,
        special_tokens=special_tokens,
        eos_ids=eos_ids,
        pad_id=None if "pad_token" in special_tokens or pad_id == -1 else pad_id,
        template=template,
        template_name=template_name,
        thinking=thinking,
        date=date,
    )


def checked(path: pathlib.Path, backend: tokenizers.Tokenizer, **parts) -> Tokenizer:
    """The tokenizer of these parts, once it has been seen to work.

    Args:
      path: the file that the backend was read from.
      backend, **parts: of `Tokenizer`.

    Raises:
      ValueError: as `Tokenizer`, naming the file; or plain text cannot be encoded.
    """
    try:
        tokenizer = Tokenizer(backend, **parts)
        tokenizer.decode(tokenizer.encode("A day, and a night."))
        return tokenizer
    except ValueError as error:
        where = "" if str(path.parent) in str(error) else f"{path}: "
        raise ValueError(f"{where}{error}") from error
    except BaseException as error:
        _pass_on(error)
        raise ValueError(
            f"{path}: its tokenizer fails on plain text ({reason(error)}); download it again"
        ) from error


def _pass_on(error: BaseException) -> None:
    """Raises what is no failure of the library, which has bare exceptions and panics of Rust; these
    have a class that cannot be imported."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def ids_of(read: Fields, name: str) -> list[int]:
    """The ids of a field: one, a list of them, or none."""
    value = read.get(name)
    entries = value if isinstance(value, list) else [value]
    ids = [Fields({name: entry}, read.where).whole(name, default=None) for entry in entries]
    return [id for id in ids if id is not None]


def _template(folder: pathlib.Path, config: Fields) -> tuple[str | None, str]:
    """The chat template, and where it comes from."""
    path = folder / "chat_template.jinja"
    if path.exists():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8 text ({error}); download it again") from error
    if isinstance(config.get("chat_template"), list):  # several named templates
        named = config.objects("chat_template")
        template = {each.text("name"): each.text("template") for each in named}.get("default")
    else:
        template = config.text("chat_template", None)
    return template, f"chat_template in {config.where}"


def _read_optional(path: pathlib.Path) -> Fields:
    return read_object(path) if path.exists() else Fields({}, str(path))
