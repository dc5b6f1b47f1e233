"""Text to token ids and back, and chats through the model's own template.

Needs only `tokenizers` and `jinja2`; renders what transformers' `apply_chat_template` renders. The
name of a special token in a text, such as `<|im_end|>`, is encoded as ordinary characters, never as
the special token.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tokenizers

from sleep_jax.fields import shown
from sleep_jax.interop.chat_template import DATE, END_OF_THOUGHT, THINK, ChatTemplate, Piece

# Tokens that end a turn or a text, in the supported families.
END_TOKENS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")


class Tokenizer:
    """A model's tokenizer and chat template.

    Attributes:
      backend: the `tokenizers.Tokenizer`.
      special_tokens: variables of the chat template: `bos_token`, `eos_token`, ...
      eos_ids: every id that ends a turn; the first is the one that the template writes.
      pad_id: the id to pad with.
      bos_id: the id of `bos_token`, or None. Not every model's texts begin with it: see
        `text_start`.
      text_start: ids that the tokenizer's post-processor puts before a plain text: Llama 3's
        `<|begin_of_text|>`, nothing for Qwen or SmolLM2. `encode` does not add them.
      vocab_size: number of ids of the tokenizer. A model's vocabulary may be padded beyond it.
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
          special_tokens: tokens by role (`bos_token`, `eos_token`, `pad_token`).
          eos_ids: ids that end a turn, from the model's files; those of `END_TOKENS` follow.
          pad_id: default: the id of `pad_token`, else the first of `eos_ids`.
          template: Jinja source of the chat template.
          template_name, thinking, date: of the template, as for `ChatTemplate`.

        Raises:
          ValueError: no token ends a turn, so sampling could not stop; or as `ChatTemplate`.
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
            markup = "".join(self._template.markup())
            self._controls |= added.keys() & set(self._encoding(markup).ids)
        eos = self._id("eos_token")
        known = [specials[token] for token in END_TOKENS if token in specials]
        end_ids = dict.fromkeys([*([] if eos is None else [eos]), *eos_ids, *known])
        turn_end = self._turn_end(frozenset(end_ids))
        end_ids = dict.fromkeys([*([] if turn_end is None else [turn_end]), *end_ids])
        if not end_ids:
            raise ValueError(
                "the tokenizer has no end-of-turn token: set `eos_token` in tokenizer_config.json "
                "or `eos_token_id` in generation_config.json"
            )
        self.eos_ids: tuple[int, ...] = tuple(end_ids)
        pad_id = self._id("pad_token") if pad_id is None else pad_id
        self.pad_id: int = self.eos_ids[0] if pad_id is None else pad_id
        self._end_of_thought = self._thought_token(END_OF_THOUGHT)
        self._thought = self._thought_token(THINK)

    def _id(self, role: str) -> int | None:
        token = self.special_tokens.get(role)
        return None if token is None else self.backend.token_to_id(token)

    def _encoding(self, text: str) -> tokenizers.Encoding:
        return self.backend.encode(text, add_special_tokens=False)

    def _turn_end(self, end_ids: frozenset[int]) -> int | None:
        """The id with which the template ends a reply; None where it writes nothing there."""
        if self._template is None:
            return None
        reply_end = self._template.markup().reply_end
        for token in self._encoding(reply_end).ids:
            if token in self._controls | end_ids:
                return token
        if reply_end.strip():
            raise ValueError(
                f"{self._template.name} ends a reply with {shown(reply_end)}, which holds no "
                "special token of the tokenizer: sampling could not stop there"
            )
        return None

    def _thought_token(self, token: str) -> int | None:
        token_id = self.backend.token_to_id(token)
        if token_id is None and self._template is not None and self._template.thinking:
            raise ValueError(
                f"model.thinking=True, but {token} is no token of the tokenizer, so the thought "
                "could not be told apart from the reply; set model.thinking=False"
            )
        return token_id

    @functools.cached_property
    def line_end_ids(self) -> tuple[int, ...]:
        """Every id whose text holds a line break. Those of Llama 3 and Qwen may hold more, e.g. one
        token for a question mark and two line breaks.
        """
        texts = self.backend.decode_batch([[i] for i in range(self.vocab_size)])
        return tuple(i for i, text in enumerate(texts) if "\n" in text)

    @functools.cached_property
    def word_ids(self) -> tuple[int, ...]:
        """Every id whose text is letters alone: a word, or the beginning or end of one."""
        texts = self.backend.decode_batch([[i] for i in range(self.vocab_size)])
        is_word = [
            text.strip().isalpha() and i not in self._controls for i, text in enumerate(texts)
        ]
        return tuple(i for i, chosen in enumerate(is_word) if chosen)

    @property
    def has_template(self) -> bool:
        """Whether it has a chat template."""
        return self._template is not None

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
        """Token ids of a text, without a start token; names of special tokens are plain text."""
        return self.encode_pieces([Piece(text, True)])

    def encode_pieces(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of the joined pieces; special tokens are recognised in markup only, not in
        content.
        """
        encoding = self._encoding("".join(piece.text for piece in pieces))
        if self._controls.isdisjoint(encoding.ids):
            return encoding.ids
        contents = list(_content_spans(pieces))
        cuts = [
            start + 1  # the name of a special token, cut after its first letter, is plain text
            for token, (start, end) in zip(encoding.ids, encoding.offsets)
            if token in self._controls
            and end - start > 1
            and any(first <= start < last for first, last in contents)
        ]
        if not cuts:
            return encoding.ids
        ends = [0, *cuts, sum(len(piece.text) for piece in pieces)]
        parts = (_between(pieces, a, b) for a, b in itertools.pairwise(ends))
        return [token for part in parts for token in self.encode_pieces(part)]

    def encode_reply(self, text: str) -> list[int]:
        """Token ids of a finished reply, as it follows the prompt, with its end of turn."""
        *reply, reply_end = self.template.reply(text)
        encoding = self._encoding(reply_end.text)
        for token, (_, end) in zip(encoding.ids, encoding.offsets):
            if token == self.eos_ids[0]:
                return self.encode_pieces([*reply, Piece(reply_end.text[:end], False)])
        return [*self.encode_pieces(reply), self.eos_ids[0]]  # the template leaves it open

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids (a sequence or an array of rank 1), special tokens left out."""
        return self.backend.decode(np.asarray(ids, np.int64).tolist(), skip_special_tokens=True)

    def reply_start(self, ids: Sequence[int]) -> int:
        """Number of tokens of the thought before a reply; all of them where it does not end."""
        ids = np.asarray(ids, np.int64).tolist()
        if self._end_of_thought in ids:
            return len(ids) - ids[::-1].index(self._end_of_thought)
        prompt_end = "" if self._template is None else self._template.markup().user_end
        is_open = prompt_end.rfind(THINK) > prompt_end.rfind(END_OF_THOUGHT)
        return len(ids) if is_open or self._thought in ids else 0

    def reply_text(self, ids: Sequence[int]) -> str:
        """The text of a reply, without special tokens, thought and surrounding white space."""
        return self.decode(ids[self.reply_start(ids) :]).strip()

    def chat_text(
        self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True, **options
    ) -> str:
        """The text of a chat; arguments and errors as of `ChatTemplate.render`."""
        return self.template.render(
            messages, add_generation_prompt=add_generation_prompt, **options
        )

    def chat(
        self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True, **options
    ) -> list[int]:
        """Token ids of `chat_text`; special tokens are recognised in its markup only."""
        return self.encode_pieces(
            self.template.pieces(messages, add_generation_prompt=add_generation_prompt, **options)
        )


def _text_start(backend: tokenizers.Tokenizer) -> tuple[int, ...]:
    """The ids that the post-processor puts before a text."""
    if not backend.num_special_tokens_to_add(is_pair=False):
        return ()
    bare = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    starts = range(len(whole) - len(bare) + 1)
    at = next((i for i in starts if whole[i : i + len(bare)] == bare), 0)
    return tuple(whole[:at])


def _content_spans(pieces: Sequence[Piece]):
    """(start, end) of each content piece in the joined text."""
    at = 0
    for piece in pieces:
        if piece.is_content:
            yield at, at + len(piece.text)
        at += len(piece.text)


def _between(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """The pieces of the joined text between two offsets."""
    out, at = [], 0
    for piece in pieces:
        part = piece.text[max(start - at, 0) : max(stop - at, 0)]
        out.append(Piece(part, piece.is_content))
        at += len(piece.text)
    return out
