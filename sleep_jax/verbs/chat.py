"""`chat RUN`: a conversation with the model of a run, in its own chat template."""

import argparse
import dataclasses
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax

from sleep_jax import lifecycle
from sleep_jax.continuation import load_continued
from sleep_jax.data.documents import Document, Source, read_source
from sleep_jax.errors import UnrecoverableError
from sleep_jax.interop.prompts import document_text
from sleep_jax.report.headline import headline
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import summarise
from sleep_jax.runtime.progress import say
from sleep_jax.verbs import forget
from sleep_jax.verbs.speaking import (
    Speaker,
    add_sampling_arguments,
    load_speaker,
    show_slots,
    show_streamed,
)

PROMPT = "> "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds how replies are drawn."""
    parser.description = (
        "A conversation with the model of a run, in its own chat template. Ctrl-C ends a reply, "
        "Ctrl-D or /quit the chat."
    )
    listed = [f"  {f'{name} {x.needs}':<14}{x.about}" for name, x in COMMANDS.items()]
    parser.epilog = "\n".join(["in the chat:", *listed])
    parser.add_argument("--slots", action="store_true", help="after each reply, which slots spoke")
    add_sampling_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Chats until the user leaves.

    Raises:
      ValueError, OSError: as `load_speaker`.
    """
    chat = Chat(arguments, load_speaker(arguments))
    if sys.stdin.isatty():
        import readline  # noqa: F401  (line editing and history in `input`)

        say(f"{arguments.run}, after {chat.speaker.saved.phase}. /help lists what else there is.")
    while (line := _line()) is not None:
        try:
            if line.startswith("/"):
                if not chat.obey(line):
                    return
            elif line:
                chat.say(line)
        except (ValueError, OSError, UnrecoverableError) as error:
            say(f"error: {error}")


def _line() -> str | None:
    """What the user writes; None at the end."""
    try:
        return input(PROMPT if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None


@dataclasses.dataclass
class Chat:
    """A conversation.

    Attributes:
      arguments: of the command line.
      speaker: whose model replies.
      messages: of the chat template, so far.
      read: documents that the next message will begin with.
      of_today: all documents that were read since the last night.
      is_before: the model before its first night replies.
    """

    arguments: argparse.Namespace
    speaker: Speaker
    messages: list[dict[str, str]] = dataclasses.field(default_factory=list)
    read: list[Document] = dataclasses.field(default_factory=list)
    of_today: list[Document] = dataclasses.field(default_factory=list)
    is_before: bool = False

    def say(self, text: str) -> None:
        """Sends a message, and prints the reply as it is drawn.

        Raises:
          ValueError: the conversation has become longer than the model was trained on.
        """
        content = "".join(map(document_text, self.read)) + text
        messages = [*self.messages, {"role": "user", "content": content}]
        prompt = self.speaker.saved.tokenizer.chat(messages)
        reader = self.speaker.before if self.is_before else self.speaker.now
        rng = jax.random.fold_in(jax.random.key(self.arguments.seed), len(messages))
        drawn: list[int] = []
        try:
            tokens = (drawn.append(token) or token for token in reader.reply(prompt, rng))
            show_streamed(self.speaker.text(tokens))
        except KeyboardInterrupt:
            print(" ...")
        reply = self.speaker.saved.tokenizer.reply_text(drawn)
        self.messages = [*messages, {"role": "assistant", "content": reply}]
        self.read = []
        if self.arguments.slots and drawn and not self.is_before:
            show_slots(self.speaker.slots(prompt, drawn))

    def obey(self, line: str) -> bool:
        """Does what a command asks for; returns whether the chat goes on.

        Raises:
          ValueError, OSError: the command does not exist, or cannot be done.
        """
        name, _, rest = line.partition(" ")
        if name == "/quit":
            return False
        if name not in COMMANDS:
            raise ValueError(f"{name}: no such command; there is {', '.join(COMMANDS)}")
        command = COMMANDS[name]
        if bool(rest.strip()) != bool(command.needs):
            raise ValueError(f"{name} has to be followed by {command.needs or 'nothing'}")
        command.do(self, rest.strip())
        return True


def _read(chat: Chat, path: str) -> None:
    documents = read_source(path).documents
    for document in documents:
        tokens = len(chat.speaker.saved.tokenizer.encode(document_text(document)))
        say(f"{document.title}: {tokens:,} tokens, in view from your next message on")
    chat.read += documents
    chat.of_today += documents


def _sleep(chat: Chat, _: str) -> None:
    """A night over what was read in this chat, as another day of the run."""
    if not chat.of_today:
        raise ValueError("there is nothing to sleep over; /read FILE first")
    workdir, phase = chat.arguments.run, chat.speaker.saved.phase
    source = Source(tuple(chat.of_today), f"{len(chat.of_today)} documents of a chat", "chat")
    experiment = load_continued(workdir, source)
    say(f"sleeping; after Ctrl-C, `launch.py --continue={workdir}` goes on with it")
    chat.speaker = None  # its arrays make room
    try:
        state = lifecycle.run(experiment, workdir)
        summary = summarise(experiment, state)
        say(headline(summary["scores"], summary["verdict"]))
        say(f"report: {write_report(workdir, summary)}")
        phase = "-1"
    finally:
        chat.arguments.phase = phase
        chat.speaker = load_speaker(chat.arguments)
    chat.messages, chat.read, chat.of_today = [], [], []
    say("the day is over: nothing is in view any more")


def _toggle(chat: Chat, _: str) -> None:
    chat.is_before = not chat.is_before
    when = "before its first night" if chat.is_before else f"after {chat.speaker.saved.phase}"
    say(f"the model {when} replies from here on")


def _forget(chat: Chat, days: str) -> None:
    forget.forget(chat.arguments.run, days)
    say("reading the model again; the chat goes on with it")
    chat.arguments.phase = "-1"
    chat.speaker = load_speaker(chat.arguments)


def _begin_anew(chat: Chat, _: str) -> None:
    chat.messages, chat.read = [], []
    say("nothing is in view any more")


def _help(chat: Chat, _: str) -> None:
    say(*(f"{f'{name} {x.needs}':<14}{x.about}" for name, x in COMMANDS.items()))


class Command(NamedTuple):
    """A command of the chat: what has to follow it, what it is for, and what does it."""

    needs: str
    about: str
    do: Callable[[Chat, str], None]


COMMANDS = {
    "/read": Command("FILE", "a document comes into view, with your next message", _read),
    "/before": Command("", "the model before its first night replies, or again as it is", _toggle),
    "/sleep": Command("", "a night over what was read in this chat, as a day of the run", _sleep),
    "/forget": Command("DAY", "the slot of a day is zeroed (as the verb forget)", _forget),
    "/new": Command("", "the conversation begins anew", _begin_anew),
    "/help": Command("", "this list", _help),
    "/quit": Command("", "ends the chat, as Ctrl-D does", lambda chat, _: None),
}
