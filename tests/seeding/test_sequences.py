"""Packed sequences: hidden states at target positions predict the target tokens."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.models.decoder import Decoder, lm_head, lm_logits
from sleep_jax.seeding import sequences
from sleep_jax.seeding.divergence import token_scores
from sleep_jax.seeding.objective import Objective, objective_terms
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    make_batch,
    pack_exchanges,
    teacher_batches,
    teacher_hidden,
)
from sleep_jax.wake.context import read

RNG = np.random.default_rng(0)


def tokens(n):
    return tuple(RNG.integers(0, 97, n).tolist())


PREFIX = (3, 1)
DOCUMENTS = [tokens(12), tokens(5), ()]  # the last one is the empty context
EXCHANGES = [
    Exchange(0, (*PREFIX, 7), tokens(4), tokens(6), "dream", supervised=True),
    Exchange(None, tokens(5), tokens(5), tokens(1), "rehearse"),
    Exchange(1, PREFIX, tokens(7), tokens(12), "recite"),
    Exchange(
        0,
        (*PREFIX, 8, 9),
        tokens(2),
        tokens(5),
        "rollout",
        True,
        advantage=0.5,
        log_probs=np.arange(5) - 9.0,
    ),
    Exchange(
        1,
        tokens(2),
        tokens(3),
        tokens(4),
        "rollout",
        True,
        advantage=-0.5,
        log_probs=np.arange(4) - 7.0,
    ),
]
EXCHANGES = [dataclasses.replace(e, old_log_probs=e.log_probs) for e in EXCHANGES]
PLAIN = BatchShape(batch_size=3, max_length=24, max_target_length=16)
SHARED = dataclasses.replace(PLAIN, shared_prefix=PREFIX)


@pytest.fixture(scope="module")
def hidden(cfg, trained):
    """The teacher's hidden states, a few tokens at a time."""
    context, _, _ = read(cfg, trained, DOCUMENTS)
    return teacher_hidden(cfg, trained, context, EXCHANGES, budget=48)


@pytest.fixture(scope="module", params=[PLAIN, SHARED], ids=["plain", "shared"])
def shape(request):
    """Rows without and with a shared prefix."""
    return request.param


@pytest.fixture(scope="module")
def batch(hidden, shape):
    return make_batch(
        EXCHANGES, list(map(HiddenStates, hidden)), pack_exchanges(EXCHANGES, shape), shape
    )


@pytest.fixture(scope="module")
def in_order(shape):
    """Exchanges in the order of their target tokens in a batch."""
    return [EXCHANGES[i] for row in pack_exchanges(EXCHANGES, shape) for i in row]


@functools.partial(jax.jit, static_argnums=0)
def scores_of(cfg, variables, batch):
    """Token scores of a batch, flat, and the terms of the objective."""
    states = Decoder(cfg).apply(variables, batch.tokens, batch.segment_ids)
    states = jnp.take_along_axis(states, batch.target_positions[..., None], axis=1)
    flat = [x.reshape(-1, *x.shape[2:]) for x in (states, batch.teacher, batch.targets)]
    scores = token_scores(*flat, batch.mask.reshape(-1), lm_head(cfg, variables["params"]))
    return scores, objective_terms(cfg, Objective(), variables, batch)[0]


def table(log_probs, variables, prompt, completion):
    """[completion, vocab]: log-probabilities of every next token, one sequence by itself."""
    return log_probs(variables, prompt + completion[:-1])[len(prompt) - 1 :]


def test_teacher_hidden_has_the_document_in_context(cfg, trained, hidden, log_probs):
    for exchange, states in zip(EXCHANGES, hidden):
        document = DOCUMENTS[-1 if exchange.document is None else exchange.document]
        got = jax.nn.log_softmax(lm_logits(cfg, trained["params"], states))
        want = table(log_probs, trained, document + exchange.teacher, exchange.completion)
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-5)


def test_scores_of_a_packed_batch_equal_those_of_each_sequence_alone(
    cfg, variables, trained, batch, in_order, log_probs
):
    got, terms = scores_of(cfg, variables, batch)
    kl, log_prob = [], []
    for e in in_order:
        document = DOCUMENTS[-1 if e.document is None else e.document]
        s = table(log_probs, variables, e.student, e.completion)
        t = table(log_probs, trained, document + e.teacher, e.completion)
        kl += (np.exp(t) * (t - s)).sum(-1).tolist()
        log_prob += s[np.arange(len(s)), list(e.completion)].tolist()
    mask = batch.mask.reshape(-1)
    assert mask.sum() == len(kl) == 28
    np.testing.assert_allclose(got.log_prob[mask], log_prob, rtol=0, atol=1e-4)
    np.testing.assert_allclose(got.kl[mask], kl, rtol=1e-3, atol=1e-4)

    # And their sums, by kind of sequence.
    on, supervised = (
        np.concatenate([[getattr(e, name)] * len(e.completion) for e in in_order])
        for name in ("on_policy", "supervised")
    )
    for name, values, which in (
        ("kl_off", kl, ~on),
        ("kl_on", kl, on),
        ("cross_entropy", -np.array(log_prob), supervised),
    ):
        total, count = terms[name]
        assert count == which.sum()
        np.testing.assert_allclose(total, np.array(values)[which].sum(), rtol=1e-3)


def test_make_batch_places_fields_at_target_tokens(batch, in_order):
    mask = batch.mask
    for name, values in (
        ("targets", lambda e: e.completion),
        ("on_policy", lambda e: [e.on_policy] * len(e.completion)),
        ("supervised", lambda e: [e.supervised] * len(e.completion)),
        ("advantages", lambda e: [e.advantage] * len(e.completion)),
        (
            "sampler_log_probs",
            lambda e: [0] * len(e.completion) if e.log_probs is None else e.log_probs,
        ),
    ):
        got = getattr(batch, name)
        assert got.shape == (3, 16)
        np.testing.assert_array_equal(got[mask], np.concatenate([values(e) for e in in_order]))
        assert not got[~mask].any()
    assert batch.tokens.shape == batch.segment_ids.shape == (3, 24)
    assert not batch.tokens[batch.segment_ids == 0].any()


def test_pack_exchanges_respects_the_shape(shape):
    rows = pack_exchanges(EXCHANGES, shape)
    assert sorted(i for row in rows for i in row) == list(range(5)) and len(rows) <= 3
    for row in rows:
        assert sum(len(EXCHANGES[i].completion) for i in row) <= 16
    with pytest.raises(ValueError, match=r"sequence 2 needs \(\d+, 12\) tokens, .* \(\d+, 8\)"):
        pack_exchanges(EXCHANGES, dataclasses.replace(shape, max_target_length=8))


def test_make_batch_holds_the_shared_prefix_once_a_row(hidden):
    # A prompt that is no longer than the prefix, or begins otherwise, is not shared.
    assert [SHARED.shared_length(e) for e in EXCHANGES] == [2, 0, 0, 2, 0]
    three = [EXCHANGES[i] for i in (0, 3, 2)]
    for width, prefix in ((23, ()), (21, PREFIX)):  # 8 + 8 + 13 tokens, 2 of them twice
        shape = BatchShape(1, width + 6, 23, prefix)
        assert len(pack_exchanges(three, shape)) == 1
        assert len(pack_exchanges(three, dataclasses.replace(shape, max_length=width + 5))) == 2
    states = list(map(HiddenStates, hidden))
    batch = make_batch(EXCHANGES, states, pack_exchanges(EXCHANGES, SHARED), SHARED)
    used = [row for row in batch.tokens if row[2:].any()]
    assert all(tuple(row[:2]) == PREFIX for row in used)


def test_teacher_hidden_does_not_depend_on_the_width(cfg, trained, hidden):
    context, _, _ = read(cfg, trained, DOCUMENTS)
    wide = teacher_hidden(cfg, trained, context, EXCHANGES, width=32, budget=96)
    for a, b in zip(wide, hidden):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    "kind, length, claim",
    [
        ("complete", 2, True),
        ("quote", 2, True),
        ("answer", 2, True),
        ("answer", 1, False),  # cannot be cut in two
        ("recite", 9, False),
        ("rehearse", 9, False),
        ("dream", 9, False),
        ("rollout", 9, False),
    ],
)
def test_exchange_is_imitable(kind, length, claim):
    assert Exchange(0, (1,), (1,), tokens(length), kind).is_imitable == claim


def test_teacher_batches_have_fewer_rows_where_contexts_are_long(monkeypatch):
    lengths = [30] * 12
    assert [rows for _, rows, _ in teacher_batches(lengths, 32, 320)] == [10, 10]
    monkeypatch.setattr(sequences, "MAX_CONTEXT", 1000)
    rows = [rows for _, rows, _ in teacher_batches(lengths, 32, 320, context_bytes=300)]
    assert rows == [3, 3, 3, 3]
    assert {rows for _, rows, _ in teacher_batches(lengths, 32, context_bytes=5000)} == {1}
