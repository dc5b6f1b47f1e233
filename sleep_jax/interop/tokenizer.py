"""Text to token ids and back, and chats through the model's own template.

Needs `tokenizers` and `jinja2` alone; writes what transformers' `apply_chat_template` writes. Text
is text: the name of a special token in it, such as `<|im_end|>`, is read letter by letter and means
nothing.
"""

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tokenizers

from sleep_jax.fields import shown
from sleep_jax.interop.chat_template import DATE, END_OF_THOUGHT, THINK, ChatTemplate, Piece

# Tokens that end a turn or a text, in the families this library reads.
ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")


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

    @functools.cached_property
    def line_end_ids(self) -> tuple[int, ...]:
        """Every id whose text holds a line break; that of Llama 3 and Qwen may begin with the end
        of a sentence, as one token of a question mark and two line breaks does."""
        texts = self.backend.decode_batch([[i] for i in range(self.vocab_size)])
        return tuple(i for i, text in enumerate(texts) if "\n" in text)

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
        closing = "" if self._template is None else self._template.around().prompt_end
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
