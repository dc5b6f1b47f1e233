"""A model's chat template: the text of a chat, and the markup that it writes around messages.

Templates are rendered as transformers' `apply_chat_template` renders them, with two choices that a
run makes once: whether the model thinks before it replies (`enable_thinking`, Qwen 3's switch), and
today's date (`strftime_now` and `date_string`, Llama 3's), so that a run that is resumed tomorrow
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

DATE = "2024-07-26"  # Llama 3's default, where its template is given no date
THINK, END_OF_THOUGHT = "<think>", "</think>"
# Placeholder for the content of a message while a template is rendered: a number between private
# characters.
_PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")
_TEST_MESSAGE = "It says: \"x < y & z\",\n\nin {{ 2024 }} 'Zürich'."


class Piece(NamedTuple):
    """A part of a chat: content of a message (text as it is), or markup of the template."""

    text: str
    is_content: bool


class TurnMarkup(NamedTuple):
    """Markup of one exchange: `user_start` request `user_end` `reply_start` reply `reply_end`.

    `user_end` ends with the header of the reply; `reply_start` is an empty thought where the model
    may think, else empty.
    """

    user_start: str
    user_end: str
    reply_start: str
    reply_end: str


class ChatTemplate:
    """A compiled template, checked to render a user turn and a reply to it.

    Attributes:
      name: the file or field that it comes from.
      thinking: the model thinks before it replies.
      source: Jinja.
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
        """Compiles a template and renders a test chat with it.

        Args:
          source: Jinja.
          name: the file or field, for errors.
          special_tokens: variables that it may use: `bos_token`, `eos_token`, ...
          thinking: value of `enable_thinking`.
          date: value of today's date, as YYYY-MM-DD.

        Raises:
          ValueError: it is not valid Jinja, raises, or omits, repeats or changes the content of a
            message; or `thinking` does not fit the template.
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
        except Exception as error:  # Jinja's, or of Python, which compiles the code Jinja generates
            line = getattr(error, "lineno", None)
            raise ValueError(
                f"{name} is no valid template: {reason(error)}"
                + (f" (line {line})" if line else "")
            ) from error
        self.markup = functools.lru_cache(maxsize=256)(self._markup)
        self._check()

    def render(
        self, messages: Sequence[Mapping], *, add_generation_prompt: bool = True, **options
    ) -> str:
        """The text of a chat.

        Args:
          messages: `{"role": ..., "content": ...}` in order. A template may add a default system
            message when none is given, as SmolLM2's does.
          add_generation_prompt: end with the header of the assistant's next turn.
          **options: further variables of the template, e.g. `enable_thinking=False`.

        Raises:
          ValueError: the template fails on these messages.
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
        except Exception as error:  # templates are untrusted programs: they may raise anything
            roles = ", ".join(str(m.get("role")) for m in messages)
            why = f"{type(error).__name__}: {reason(error)}"
            raise ValueError(f"{self.name} cannot write a chat of {roles}: {why}") from error

    def pieces(self, messages: Sequence[Mapping], **options) -> list[Piece]:
        """The same as `render` in pieces: markup and content, alternating.

        The template sees a placeholder in place of the content, between the white space at its
        ends, which templates trim.
        """
        with_placeholders, contents = [], []
        for message in messages:
            content = message.get("content")
            if isinstance(content, str):
                lead, core, trail = _split_white_space(content)
                message = {**message, "content": f"{lead}\ue000{len(contents)}\ue001{trail}"}
                contents.append(core)
            with_placeholders.append(message)
        parts = _PLACEHOLDER.split(self.render(with_placeholders, **options))
        return [
            Piece(contents[int(part)], True) if i % 2 else Piece(part, False)
            for i, part in enumerate(parts)
        ]

    def _markup(self, lead: str = "", trail: str = "") -> TurnMarkup:
        """The markup around content with the white space `lead` before and `trail` after it."""
        content = f"{lead}.{trail}"
        user = {"role": "user", "content": content}
        chat = [user, {"role": "assistant", "content": content}]
        start, _, end = (piece.text for piece in self.pieces([user]))
        _, _, between, _, after = (x.text for x in self.pieces(chat, add_generation_prompt=False))
        return TurnMarkup(start, end, between.removeprefix(end), after)

    def open_user_turn(self, text: str) -> list[Piece]:
        """A user turn that begins with `text`, without its end."""
        lead = _split_white_space(text)[0]
        return [Piece(self.markup(lead).user_start, False), Piece(text[len(lead) :], True)]

    def close_user_turn(self, text: str) -> list[Piece]:
        """The rest of a user turn, which ends with `text`, and the header of the reply."""
        trail = _split_white_space(text)[2]
        content = text[: len(text) - len(trail)]
        return [Piece(content, True), Piece(self.markup(trail=trail).user_end, False)]

    def user_turn(self, text: str) -> list[Piece]:
        """A user turn and the header of the reply."""
        lead, core, trail = _split_white_space(text)
        markup = self.markup(lead, trail)
        return [
            Piece(markup.user_start, False),
            Piece(core, True),
            Piece(markup.user_end, False),
        ]

    def without_thought(self, text: str) -> list[Piece]:
        """A user turn, the header of the reply and an empty thought: the reply follows at once."""
        empty_thought = self.markup().reply_start if self.thinking else ""
        return [*self.user_turn(text), Piece(empty_thought, False)]

    def reply(self, text: str) -> list[Piece]:
        """A reply and all that the template writes after it."""
        lead, core, trail = _split_white_space(text)
        markup = self.markup(lead, trail)
        return [Piece(markup.reply_start, False), Piece(core, True), Piece(markup.reply_end, False)]

    def _check(self) -> None:
        """Raises the ValueErrors of `__init__`."""
        user = {"role": "user", "content": _TEST_MESSAGE}
        chat = [user, {"role": "assistant", "content": _TEST_MESSAGE}]
        prompt = self.pieces([user])
        exchange = self.pieces(chat, add_generation_prompt=False)
        for role, pieces, expected in (("user", prompt, 1), ("assistant", exchange, 2)):
            count = sum(piece.is_content for piece in pieces)
            if count != expected:
                verb = "repeats" if count > expected else "omits"
                raise ValueError(f"{self.name} {verb} the content of the {role} message")
        rendered = self.render(chat, add_generation_prompt=False)
        if "".join(piece.text for piece in exchange) != rendered:
            raise ValueError(
                f"{self.name} changes the content of a message: it writes {shown(rendered)}"
            )
        prompt_end, between = prompt[-1].text, exchange[2].text
        if exchange[0] != prompt[0] or not between.startswith(prompt_end):
            raise ValueError(
                f"{self.name} ends a prompt with {shown(prompt_end)}, but writes {shown(between)} "
                "before a reply: the prompts of training and sampling would differ"
            )
        self._check_thinking(prompt_end)

    def _check_thinking(self, prompt_end: str) -> None:
        if self.thinking and END_OF_THOUGHT not in self.source:
            raise ValueError(
                f"model.thinking=True, but {self.name} has no {THINK}; set model.thinking=False"
            )
        if not self.thinking and prompt_end.rfind(THINK) > prompt_end.rfind(END_OF_THOUGHT):
            raise ValueError(
                f"model.thinking=False, but {self.name} always opens {THINK}; set "
                "model.thinking=True"
            )


def _split_white_space(text: str) -> tuple[str, str, str]:
    """(leading white space, text, trailing white space)."""
    core = text.strip()
    if not core:
        return text, "", ""
    start = text.index(core)
    return text[:start], core, text[start + len(core) :]


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks assistant text for loss masks; it renders as nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(today: datetime.datetime) -> jinja2.Environment:
    """The Jinja environment of transformers' `apply_chat_template`, in a sandbox."""

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
