"""A model's chat template: how it writes turns, and what it writes around their words.

Templates are rendered as transformers' `apply_chat_template` renders them, with two choices that a
run makes once: whether the model thinks before it replies (`enable_thinking`, Qwen 3's switch), and
what day it is (`strftime_now` and `date_string`, Llama 3's), so that a run that goes on tomorrow
has the same prompts.
"""

import datetime
import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jinja2
import jinja2.ext

from sleep_jax.fields import reason, shown
from sleep_jax.interop.sandbox import Sandbox

DATE = "2024-07-26"  # Llama 3's own, where its template is told none
THINK, END_OF_THOUGHT = "<think>", "</think>"
# Stands for the words of a message while a template is rendered: private characters around a
# number.
_MARK = re.compile("\ue000(\\d+)\ue001")
_ORDINARY = "It says: \"x < y & z\",\n\nin {{ 2024 }} 'Zürich'."


class Piece(NamedTuple):
    """A part of a chat: the words of a message, or what the template writes around them."""

    text: str
    is_words: bool


class TurnMarkup(NamedTuple):
    """What a template writes around a user's words and a reply: `prompt_start` words `prompt_end`,
    then `before` reply `after`; `before` is an empty thought where the model may think."""

    prompt_start: str
    prompt_end: str
    before: str
    after: str


class ChatTemplate:
    """A template that is known to write a user's turn and a reply to it.

    Attributes:
      name: the file or field that it comes from.
      thinking: the model thinks before it replies.
    """

    def __init__(
        self,
        source: str,
        *,
        name: str = "the chat template",
        special_tokens: Mapping[str, str] | None = None,
        thinking: bool = False,
        date: str = DATE,
    ):
        """Compiles a template and tries it.

        Args:
          source: Jinja.
          name: of the file or field, for errors.
          special_tokens: what it may name: `bos_token`, `eos_token`, ...
          thinking: what `enable_thinking` is.
          date: what today is, as YYYY-MM-DD.

        Raises:
          ValueError: it is no Jinja, raises, or leaves out, repeats or changes the words of a
            message; or the model cannot think, or cannot but think.
        """
        self.name, self.thinking, self.source = name, thinking, source
        today = datetime.datetime.fromisoformat(date)
        self._variables = {
            "tools": None,
            "documents": None,
            "date_string": today.strftime("%d %b %Y"),
            "enable_thinking": thinking,
            **(special_tokens or {}),
        }
        try:
            self._compiled = _environment(today).from_string(source)
        except Exception as error:  # of Jinja, or of Python, which compiles what Jinja writes
            line = getattr(error, "lineno", None)
            raise ValueError(
                f"{name} is no valid template: {reason(error)}"
                + (f" (line {line})" if line else "")
            ) from error
        self.around = functools.lru_cache(maxsize=256)(self._around)
        self._check()

    def render(
        self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True, **options
    ) -> str:
        """A chat as the template writes it.

        Args:
          messages: `{"role": ..., "content": ...}` in order. A template may add a system message
            of its own when none is given, as SmolLM2's does.
          add_generation_prompt: end with the header of the assistant's next turn.
          **options: whatever else the template reads, e.g. `enable_thinking=False`.

        Raises:
          ValueError: the template refuses these messages.
        """
        try:
            return self._compiled.environment.write(
                self._compiled,
                {
                    "messages": list(messages),
                    "add_generation_prompt": add_generation_prompt,
                    **self._variables,
                    **options,
                },
            )
        except Exception as error:  # a template is someone else's program: anything may happen
            roles = ", ".join(str(m.get("role")) for m in messages)
            why = f"{type(error).__name__}: {reason(error)}"
            raise ValueError(f"{self.name} cannot write a chat of {roles}: {why}") from error

    def pieces(self, messages: Sequence[Mapping], **options) -> list[Piece]:
        """The same as pieces: what the template writes and, after each, the words of a message.

        Words are kept from the template, but for white space at their ends, which templates trim.
        """
        marked, words = [], []
        for message in messages:
            content = message.get("content")
            if isinstance(content, str):
                lead, core, trail = _edges(content)
                message = {**message, "content": f"{lead}\ue000{len(words)}\ue001{trail}"}
                words.append(core)
            marked.append(message)
        parts = _MARK.split(self.render(marked, **options))
        return [
            Piece(words[int(part)], True) if i % 2 else Piece(part, False)
            for i, part in enumerate(parts)
        ]

    def _around(self, lead: str = "", trail: str = "") -> TurnMarkup:
        """What stands around words that begin with the white space `lead` and end with `trail`."""
        words = f"{lead}.{trail}"
        user = {"role": "user", "content": words}
        chat = [user, {"role": "assistant", "content": words}]
        start, _, end = (piece.text for piece in self.pieces([user]))
        _, _, between, _, after = (x.text for x in self.pieces(chat, add_generation_prompt=False))
        return TurnMarkup(start, end, between.removeprefix(end), after)

    def begun(self, text: str) -> list[Piece]:
        """A user's turn up to the end of `text`, which is not yet that of the turn."""
        lead = _edges(text)[0]
        return [Piece(self.around(lead).prompt_start, False), Piece(text[len(lead) :], True)]

    def ended(self, text: str) -> list[Piece]:
        """The end of a user's turn from `text` on, and the header of the reply."""
        trail = _edges(text)[2]
        words = text[: len(text) - len(trail)]
        return [Piece(words, True), Piece(self.around(trail=trail).prompt_end, False)]

    def user(self, text: str) -> list[Piece]:
        """A user's turn and the header of the reply."""
        lead, core, trail = _edges(text)
        around = self.around(lead, trail)
        return [
            Piece(around.prompt_start, False),
            Piece(core, True),
            Piece(around.prompt_end, False),
        ]

    def without_thought(self, text: str) -> list[Piece]:
        """A user's turn and a reply as far as its words, with no thought before them."""
        before = self.around().before if self.thinking else ""
        return [*self.user(text), Piece(before, False)]

    def reply(self, text: str) -> list[Piece]:
        """A reply and all that the template writes after it."""
        lead, core, trail = _edges(text)
        around = self.around(lead, trail)
        return [Piece(around.before, False), Piece(core, True), Piece(around.after, False)]

    def _check(self) -> None:
        """Raises what `__init__` says."""
        user = {"role": "user", "content": _ORDINARY}
        chat = [user, {"role": "assistant", "content": _ORDINARY}]
        asked = self.pieces([user])
        replied = self.pieces(chat, add_generation_prompt=False)
        for whose, pieces, count in (("a user", asked, 1), ("an assistant", replied, 2)):
            words = sum(piece.is_words for piece in pieces)
            if words != count:
                verb = "repeats" if words > count else "leaves out"
                raise ValueError(f"{self.name} {verb} the words of {whose}'s turn")
        written = self.render(chat, add_generation_prompt=False)
        if "".join(piece.text for piece in replied) != written:
            said = shown(written)
            raise ValueError(f"{self.name} changes the words of a turn: it writes {said}")
        closing, between = asked[-1].text, replied[2].text
        if replied[0] != asked[0] or not between.startswith(closing):
            raise ValueError(
                f"{self.name} ends a prompt with {shown(closing)}, but writes {shown(between)} "
                "before a reply: what is learnt would not be what is asked for"
            )
        self._check_thinking(closing)

    def _check_thinking(self, closing: str) -> None:
        if self.thinking and END_OF_THOUGHT not in self.source:
            raise ValueError(
                f"model.thinking=True, but {self.name} knows no {THINK}; set model.thinking=False"
            )
        if not self.thinking and closing.rfind(THINK) > closing.rfind(END_OF_THOUGHT):
            raise ValueError(
                f"model.thinking=False, but {self.name} opens {THINK} whatever enable_thinking is; "
                "set model.thinking=True"
            )


def _edges(text: str) -> tuple[str, str, str]:
    """White space, the text between, white space."""
    core = text.strip()
    if not core:
        return text, "", ""
    start = text.index(core)
    return text[:start], core, text[start + len(core) :]


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant says, for loss masks; in text it is nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(today: datetime.datetime) -> jinja2.Environment:
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

    environment = Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.add_filter("tojson", tojson)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = today.strftime
    return environment
