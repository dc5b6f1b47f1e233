"""A chat: its own template, documents that come into view, and commands."""

import argparse

import pytest

from sleep_jax.evals.recall import greedy_replies
from sleep_jax.runtime.progress import printable
from sleep_jax.verbs.chat import Chat
from sleep_jax.verbs.main import main
from sleep_jax.verbs.speaking import load_speaker


def arguments_of(workdir, **changes):
    given = {"run": str(workdir), "phase": "-1", "seed": 0, "slots": False, "max_tokens": 6}
    given |= {"temperature": 0.0, "top_k": 0, "top_p": 1.0}
    return argparse.Namespace(**given | changes)


@pytest.fixture
def chat(three_days):
    arguments = arguments_of(three_days.workdir)
    return Chat(arguments, load_speaker(arguments))


def reply(run, messages, state=None):
    """The greedy reply to messages of a chat, read at once."""
    e = run.experiment
    variables = (state or run.states[-1]).variables(e.params)
    tokens = e.tokenizer.chat(messages)
    [text] = greedy_replies(e.cfg, variables, e.tokenizer, [tokens], max_new_tokens=6, batch=1)
    return text


def shown_by(capsys):
    """What was printed, a line."""
    return capsys.readouterr().out.removesuffix("\n")


def test_chat_replies_to_all_that_was_said(three_days, chat, capsys):
    messages = []
    for text in ("Who built it?", "And where?"):
        chat.say(text)
        messages.append({"role": "user", "content": text})
        expected = reply(three_days, messages)
        messages.append({"role": "assistant", "content": expected})
        assert shown_by(capsys) == printable(expected)
    assert chat.messages == messages


def test_chat_compiles_nothing_from_its_second_message_on(chat, compilations):
    chat.say("One?")
    before = len(compilations)
    for text in ("Two?", "Three, which is longer?"):
        chat.say(text)
    chat.obey("/before")
    chat.say("Four?")
    assert len(compilations) == before


def test_document_that_was_read_begins_the_next_message(three_days, chat, tmp_path, capsys):
    (tmp_path / "ferry.md").write_text("# The ferry\n\nIt leaves at 6:40.")
    chat.obey(f"/read {tmp_path}/ferry.md")
    assert "tokens, in view from your next message on" in capsys.readouterr().out
    chat.say("When?")
    content = chat.messages[0]["content"]
    assert "It leaves at 6:40." in content and content.endswith("\n\nWhen?")
    assert shown_by(capsys) == printable(reply(three_days, chat.messages[:1]))
    chat.say("Why?")
    assert chat.messages[2]["content"] == "Why?"


def test_before_lets_the_first_model_reply_and_again(three_days, chat, capsys):
    chat.obey("/before")
    assert "before its first night" in capsys.readouterr().out
    chat.say("Who?")
    base = three_days.states[-1].without_memory()
    assert shown_by(capsys) == printable(reply(three_days, chat.messages[:1], base))
    chat.obey("/before")
    assert "after evaluate-3 replies" in capsys.readouterr().out


def test_interrupt_ends_the_reply_and_keeps_what_was_said(chat, monkeypatch, capsys):
    whole = chat.speaker.text

    def interrupted(tokens):
        yield next(whole(tokens))
        raise KeyboardInterrupt

    monkeypatch.setattr(chat.speaker, "text", interrupted)
    chat.say("Who?")
    assert capsys.readouterr().out.endswith(" ...\n") and len(chat.messages) == 2
    monkeypatch.undo()
    chat.say("Where?")
    assert len(chat.messages) == 4


def test_chat_goes_on_after_a_day_was_forgotten(life, capsys):
    workdir, _ = life
    arguments = arguments_of(workdir)
    chat = Chat(arguments, load_speaker(arguments))
    chat.obey("/forget 3")
    assert "day 3 (Page 3): taken back" in capsys.readouterr().out
    assert chat.speaker.saved.phase == "forget"
    chat.say("Who?")


def test_commands_that_are_wrong_say_what_is_right(chat):
    with pytest.raises(ValueError, match="/nap: no such command; there is /read"):
        chat.obey("/nap")
    with pytest.raises(ValueError, match="/read has to be followed by FILE"):
        chat.obey("/read")
    with pytest.raises(ValueError, match="/new has to be followed by nothing"):
        chat.obey("/new day")
    assert not chat.obey("/quit") and chat.obey("/help")


def test_chat_reads_lines_until_the_end(three_days, monkeypatch, capsys):
    lines = iter(["Hello.", "", "/forget 9", "/new"])

    def line(_):
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", line)
    assert main(["chat", str(three_days.workdir), "--max-tokens=3"]) == 0
    shown = capsys.readouterr().out
    assert "error: day 9: there is no such day" in shown
    assert shown.endswith("nothing is in view any more\n")
