"""In-context learning is the open book of a run; labels of replies."""

import dataclasses

import jax
import pytest
from tiny_run import tiny_config

from sleep_jax.baselines.in_context import InContextConfig, replies_in_view
from sleep_jax.baselines.labels import (
    chat_request,
    examples_chat,
    examples_document,
    label_in,
    label_pairs,
    label_request,
)
from sleep_jax.baselines.model import base_model
from sleep_jax.data.class_sets import Labelled
from sleep_jax.data.documents import Document
from sleep_jax.evals.recall import greedy_replies
from sleep_jax.experiment import load_experiment
from sleep_jax.interop.prompts import Prompts, answer_request
from sleep_jax.memory.slots import init_memory
from sleep_jax.phases.evaluate import ask
from sleep_jax.phases.run_state import reader


@pytest.fixture(scope="module")
def experiment():
    """Its weights are large enough for replies to differ; memory begins at the second layer."""
    config = tiny_config()
    config.memory.layers = "last_quarter"
    experiment = load_experiment(config)
    assert "trunk" in experiment.cfg.stacks
    return dataclasses.replace(experiment, params=jax.tree.map(lambda x: 3 * x, experiment.params))


@pytest.fixture(scope="module")
def model(experiment):
    return base_model(experiment)


@pytest.mark.slow
def test_replies_in_view_are_those_of_the_open_book(experiment, model):
    day = experiment.days[0]
    questions = [(q.document, q.text) for q in day.questions]
    cfg = experiment.cfg
    memory, slots = init_memory(
        jax.random.key(0), cfg.memory, layers=cfg.layers, width=cfg.width, hidden=cfg.hidden
    )
    variables = {"params": experiment.params, "memory": memory, "slots": slots}
    teacher = reader(experiment, cfg, variables, day.documents)
    want = ask(experiment, teacher.variables, questions, teacher.context)
    for views_per_call in (1, 16):
        got = replies_in_view(
            model,
            [[day.documents[document]] for document, _ in questions],
            [answer_request(text) for _, text in questions],
            InContextConfig(
                experiment.settings.evaluation.max_new_tokens, views_per_call=views_per_call
            ),
        )
        assert got == want and len({*got}) > 1


def test_several_documents_in_view_are_one_prompt(model):
    documents = [Document(x, x, f"{x} is here.") for x in ("a", "b")]
    turn = "a\n\na is here.\n\nb\n\nb is here.\n\nWho?"
    config = InContextConfig(max_new_tokens=8)
    prompt = Prompts(model.tokenizer).without_context(turn)
    want = greedy_replies(model.cfg, model.variables, model.tokenizer, [prompt], max_new_tokens=8)
    assert replies_in_view(model, [documents], ["Who?"], config) == want


def test_replies_in_view_refuse_an_empty_view(model):
    with pytest.raises(ValueError, match=r"2 views of \[1, 0\] documents for 2 requests; give as"):
        replies_in_view(model, [[Document("a", "a", "a")], []], ["Who?", "What?"])


def test_label_in_a_reply_is_the_whole_reply_or_the_longest_label():
    labels = ["card", "lost card", "pin"]
    assert label_in("Card.", labels) == "card"
    assert label_in("It is about a lost card, I think.", labels) == "lost card"
    assert label_in("Cards?", labels) is None


def test_labels_as_pairs_and_as_a_document(model):
    example = Labelled("where is it?", "lost card")
    [(prompt, reply)] = label_pairs(Prompts(model.tokenizer), [example])
    assert label_request("where is it?") in model.tokenizer.decode(prompt)
    assert model.tokenizer.reply_text(reply) == "lost card"
    assert examples_document([example]).text == "Text: where is it?\nClass: lost card"


def test_examples_and_requests_are_the_turns_of_one_chat(model):
    tokenizer, first = model.tokenizer, Labelled("where is it?", "lost card")
    second, turns = Labelled("who?", "pin"), []
    for role, content in (
        ("user", label_request(first.text)),
        ("assistant", first.label),
        ("user", label_request(second.text)),
        ("assistant", second.label),
        ("user", label_request("why?")),
    ):
        turns.append({"role": role, "content": content})
    whole = tuple(tokenizer.encode_pieces(tokenizer.template.pieces(turns)))
    seen = examples_chat(tokenizer, [first, second])
    assert seen + chat_request(tokenizer, "why?") == whole
    seen = examples_chat(tokenizer, [first])
    assert seen + chat_request(tokenizer, "why?", [second]) == whole
