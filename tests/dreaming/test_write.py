"""Writing: prompts, rejection of texts, and the random expert, which no other phase draws."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.data.documents import Document
from sleep_jax.data.examples import Examples
from sleep_jax.dreaming import write as writing
from sleep_jax.dreaming.adapters import init_lora
from sleep_jax.dreaming.gradients import dream_losses, gram_matrices
from sleep_jax.dreaming.rejection import REASONS
from sleep_jax.dreaming.templates import read_templates
from sleep_jax.dreaming.trial import TrialConfig, train_adapters
from sleep_jax.dreaming.write import Dream, WritingConfig, write_dreams
from sleep_jax.evals import recall
from sleep_jax.evals.adapted import AdaptedModels
from sleep_jax.evals.likelihood import log_probs
from sleep_jax.interop.prompts import Prompts
from sleep_jax.interop.tiny import byte_tokenizer
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.models import experts
from sleep_jax.models.decoder import Decoder
from sleep_jax.models.decoder_config import DecoderConfig, LoraConfig
from sleep_jax.sampling import generate as generation
from sleep_jax.sampling.generate import Completion
from sleep_jax.sampling.sampler import sample
from sleep_jax.wake.context import read

DOCUMENTS = [
    Document("a", "Kettles", "Kettles whistle in D minor when the water in them boils."),
    Document("b", "Goats", "Goats eat hay, and in winter they eat the bark of old trees."),
]
TEMPLATES = read_templates()
KEY, EXPERT = jax.random.key(2), jax.random.key(9)


def config(*names, **fields):
    return WritingConfig(tuple(TEMPLATES[name] for name in names), **fields)


@pytest.fixture
def stub_generate(monkeypatch):
    """Stubs `generate`: (arguments of its calls, replies to give, in the order of prompts)."""
    calls, replies = [], []
    tokenizer = byte_tokenizer()

    def generate(cfg, sampling, variables, prompts, rng, **given):
        calls.append((prompts, sampling, given))
        texts = [[replies.pop(0) for _ in range(sampling.num_generations)] for _ in prompts]
        return [
            [Completion(tuple(tokenizer.encode(t)), np.zeros(0), True) for t in group]
            for group in texts
        ]

    monkeypatch.setattr(writing, "generate", generate)
    return calls, replies


def write_with(config):
    return write_dreams(None, config, None, byte_tokenizer(), DOCUMENTS, "cache", KEY, EXPERT)


def test_write_dreams_counts_rejections_by_reason(stub_generate):
    _, replies = stub_generate
    replies += [
        "The kettles boil and whistle in D minor.",
        "the kettles boil and WHISTLE in D minor",
        "Hay.",
        "Goats eat hay and bark. " * 9,
        "The kettles boil and whistle in D minor.",  # about goats it is new
        "чайники громко свистят на старой кухне",
    ]
    got = write_with(config("facts", num_generations=3))
    assert [(x.document, x.template) for x in got.dreams] == [(0, "facts"), (1, "facts")]
    assert got.count == 6 and sum(got.rejected.values()) == 4 and set(got.rejected) == set(REASONS)
    rejected = {reason: n for reason, n in got.rejected.items() if n}
    assert rejected == {"duplicate": 1, "short": 1, "loop": 1, "script": 1}
    dream = got.dreams[0]
    assert byte_tokenizer().decode(dream.tokens) == dream.text
    assert Dream.from_record(json.loads(json.dumps(dataclasses.asdict(dream)))) == dream


def test_write_dreams_rejects_duplicates_of_earlier_nights(stub_generate):
    _, replies = stub_generate
    again = "The kettles boil and whistle in D minor."
    replies += [again, again]
    earlier = {0: [again]}
    writing_config = config("facts", num_generations=1)
    got = write_dreams(
        None, writing_config, None, byte_tokenizer(), DOCUMENTS, None, KEY, earlier=earlier
    )
    assert [x.document for x in got.dreams] == [1] and got.rejected["duplicate"] == 1


def test_with_context_templates_continue_the_context(stub_generate):
    calls, replies = stub_generate
    replies += [f"{letter} kettles and goats whistle a song" for letter in "abcdefgh"]
    got = write_with(
        config("facts", "self-qa", "paraphrase", num_generations=1, temperature=1.0, top_p=0.95)
    )
    (with_context, sampling, given), (chat_prompts, _, without_context) = calls
    prompts = Prompts(byte_tokenizer())
    assert given["context"] == "cache" and given["documents"] == [0, 0, 1, 1]
    assert without_context["context"] is None
    assert with_context[0] == prompts.with_context(TEMPLATES["facts"].prompt)
    assert [
        DOCUMENTS[i].text in byte_tokenizer().decode(w) for i, w in enumerate(chat_prompts)
    ] == [1, 1]
    assert (sampling.temperature, sampling.top_p, sampling.num_generations) == (1.0, 0.95, 1)
    # In the order of documents and templates, not of sampling.
    assert [(x.document, x.template) for x in got.dreams] == [
        (document, name) for document in (0, 1) for name in ("facts", "self-qa", "paraphrase")
    ]
    assert [x.text[0] for x in got.dreams] == ["a", "e", "b", "c", "f", "d"]


def test_only_chat_templates_have_thought_tokens(stub_generate):
    calls, replies = stub_generate
    replies += [f"{letter} kettles and goats whistle a song" for letter in "abcdef"]
    plain = dataclasses.replace(TEMPLATES["self-qa"], name="continued", form="plain")
    templates = (plain, TEMPLATES["facts"], TEMPLATES["self-qa"])
    got = write_with(
        WritingConfig(templates, num_generations=1, max_new_tokens=96, thought_tokens=1024)
    )
    assert [sampling.max_new_tokens for _, sampling, _ in calls] == [1120, 1120, 96]
    prompts = Prompts(byte_tokenizer())
    assert calls[2][0] == [plain.tokens(prompts, document) for document in DOCUMENTS]
    assert [x.text[0] for x in got.dreams] == ["e", "a", "c", "f", "b", "d"]
    calls.clear()
    replies += [f"{letter} kettles and goats whistle a song" for letter in "abcdef"]
    write_with(WritingConfig(templates, num_generations=1))
    assert [len(prompts) for prompts, *_ in calls] == [2, 4]  # without a thought all are one call


def test_recipes_are_compared_with_recipes_only(stub_generate):
    _, replies = stub_generate
    recipe = (
        '{"data_generation": {"use_basic_augmentations": true, "use_size_augmentations": false, '
        '"use_chain_augmentations": false, "use_repeat_augmentations": false}, "training": '
        '{"strategy": "train_using_all_tokens", "learning_rate": 1e-4, "num_train_epochs": 2}}'
    )
    replies += [recipe, "Train it twice.", recipe, recipe.replace("2}}", "3}}")]
    got = write_with(config("recipe", num_generations=2))
    assert [x.is_recipe for x in got.dreams] == [True] * 3
    assert {reason: n for reason, n in got.rejected.items() if n} == {"recipe": 1}


def test_expert_key_is_given_only_for_random_expert(stub_generate):
    calls, replies = stub_generate
    for random_expert in (False, True):
        replies += ["The kettles boil and whistle.", "The goats eat the hay and bark."]
        write_with(config("facts", num_generations=1, random_expert=random_expert))
        assert (calls[0][2]["expert_rng"] is EXPERT) == random_expert
        calls.clear()


def test_invalid_writing_settings_raise():
    with pytest.raises(ValueError, match=r"dreaming\.num_generations=0"):
        config("facts", num_generations=0)
    with pytest.raises(ValueError, match=r"temperature=-1"):
        config("facts", temperature=-1)


def routed(**fields):
    fields = {"router": "sigmoid", "top_k": 1} | fields
    return MemoryConfig((LevelConfig(slots=3, rank=4),), **fields)


def test_random_expert_is_drawn_by_writing_only(monkeypatch):
    """Drawing one raises an error; everything is traced, nothing computed."""
    tokenizer, memory = byte_tokenizer(), routed()
    cfg = DecoderConfig(
        vocab=tokenizer.vocab_size,
        width=16,
        hidden=24,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=8,
        memory=memory,
        lora=LoraConfig(rank=2, alpha=4.0, targets=("gate",)),
    )
    rngs = {"params": KEY, "memory": KEY}
    variables = jax.eval_shape(Decoder(cfg).init, rngs, jnp.zeros((1, 2), jnp.int32))
    adapter = jax.eval_shape(lambda params: init_lora(cfg, params, KEY), variables["params"])

    def drawn(rng, candidates):
        raise AssertionError("a random expert was drawn")

    def traced(cfg, sampling, variables, tokens, mask, *keys_and_cache):
        given = (variables, tokens, mask, *keys_and_cache)
        shapes = jax.eval_shape(functools.partial(sample, cfg, sampling), *given)
        return jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes)

    monkeypatch.setattr(experts, "random_expert", drawn)
    monkeypatch.setattr(generation, "sample", traced)
    tokens, trial = np.ones((1, 1, 16), np.int32), TrialConfig(epochs=1, microbatch=1)
    rows = Examples(tokens=tokens, segment_ids=tokens, mask=tokens > 0)
    grouped = jax.tree.map(lambda x: x[None], rows)
    for scoring in (
        lambda v, a: read(cfg, v, [(1, 2, 3)]),
        lambda v, a: train_adapters(cfg, trial, v, [a], rows),
        lambda v, a: log_probs(cfg, {**v, "lora": a}, rows),
        lambda v, a: gram_matrices(cfg, 1, v, a, grouped, rows),
        lambda v, a: gram_matrices(cfg, 1, v, a, grouped, rows, True),
        lambda v, a: dream_losses(cfg, 1, v, rows),
        lambda v, a: recall.sum_nll(cfg, v, tokens[0], tokens[0]),
    ):
        jax.eval_shape(scoring, variables, adapter)
    recall.greedy_replies(cfg, variables, tokenizer, [(1, 2, 3)], max_new_tokens=4)
    AdaptedModels(cfg, variables, tokenizer, max_new_tokens=4).replies([[(1, 2, 3)]])

    def dream(random_expert):
        writing_config = config(
            "self-qa", num_generations=1, max_new_tokens=4, random_expert=random_expert
        )
        write_dreams(cfg, writing_config, variables, tokenizer, DOCUMENTS[:1], None, KEY, EXPERT)

    dream(random_expert=False)
    with pytest.raises(AssertionError, match="a random expert was drawn"):
        dream(random_expert=True)
