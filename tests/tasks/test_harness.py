"""A model as lm-evaluation-harness asks it, against its own backend for transformers on the export
of the same run, and by hand."""

import pathlib
import sys

import numpy as np
import pytest
from families import write_family

pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from sleep_jax.verbs.harness_run import HarnessRun
from sleep_jax.verbs.main import main

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "verbs"))
from slept_run import write_slept_run

POSITIONS = 64
TEXT = "The harbour was quiet, and the keeper of the light wrote down the names of the ships. "


def asked(kind, *arguments):
    return [Instance(kind, {}, x, i) for i, x in enumerate(arguments)]


@pytest.fixture(scope="module", params=["SmolLM2", "Meta-Llama-3-8B-Instruct"])
def both(request, tmp_path_factory):
    """(the run, its export in transformers), of few positions."""
    folder = tmp_path_factory.mktemp("harness")
    base = write_family(request.param, folder / "base", max_position_embeddings=POSITIONS)
    run = write_slept_run(folder / "run", base)
    assert main(["export", str(run), str(folder / "hf"), "--to=hf", "--questions=0"]) == 0
    peer = HFLM(str(folder / "hf"), device="cpu", dtype="float32", batch_size=2)
    ours = HarnessRun.create_from_arg_string(f"run={run}", {"batch_size": 3})
    return ours, peer


def test_log_likelihoods_are_those_of_transformers(both):
    ours, peer = both
    pairs = [
        ("Where is it?", " In the old harbour."),
        ("Where is it? ", "There."),
        ("", "A text without anything before it."),
        ("<|im_start|>user\nHi<|im_end|>\n", "Hello"),
        (3 * TEXT, " The end."),  # more than the model takes
        ("Yes or no?", " no"),
    ]
    got = ours.loglikelihood(asked("loglikelihood", *pairs))
    expected = peer.loglikelihood(asked("loglikelihood", *pairs), disable_tqdm=True)
    np.testing.assert_allclose([x for x, _ in got], [x for x, _ in expected], atol=2e-4)
    assert [x for _, x in got] == [x for _, x in expected]


def test_rolling_log_likelihoods_are_those_of_transformers(both):
    ours, peer = both
    texts = [("Short.",), (TEXT,), (4 * TEXT,)]  # the last in several windows
    got = ours.loglikelihood_rolling(asked("loglikelihood_rolling", *texts))
    expected = peer.loglikelihood_rolling(asked("loglikelihood_rolling", *texts), disable_tqdm=True)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


HOW = {"max_gen_toks": 12, "until": []}


def test_generated_texts_are_those_of_transformers(both):
    ours, peer = both
    prompts = asked(
        "generate_until",
        ("Who lit it?", HOW),
        ("What about the sea?", HOW),
        (3 * TEXT, HOW),  # more than the model takes
        ("When?", {"max_gen_toks": 12, "until": ["a", "t"], "do_sample": False}),
    )
    got = ours.generate_until(prompts)
    assert got == peer.generate_until(prompts, disable_tqdm=True)
    assert any(got)


def test_replies_in_a_chat_are_those_of_transformers(both):
    ours, peer = both
    chats = [[{"role": "user", "content": text}] for text in ("Who lit it?", "Where?", "Why so?")]
    texts = [ours.apply_chat_template(chat) for chat in chats]
    assert texts == [peer.apply_chat_template(chat) for chat in chats]
    prompts = asked("generate_until", *((text, HOW) for text in texts))
    assert ours.generate_until(prompts) == peer.generate_until(prompts, disable_tqdm=True)


def test_chat_that_goes_on_is_that_of_transformers(both):
    ours, peer = both
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The answer is"}]
    text = ours.apply_chat_template(chat, add_generation_prompt=False)
    assert text == peer.apply_chat_template(chat, add_generation_prompt=False)
    assert text.endswith("The answer is")
