"""The sampler against full forward passes, and its parts against their definitions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.data.batches import pad
from sleep_jax.sampling.sampler import SamplingConfig, _invert_cdf, draw, prefill, sample, truncate

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 97, n).tolist() for n in (3, 5, 8)]
NEW = 6
KEY = jax.random.key(0)
GREEDY = SamplingConfig(NEW, (), temperature=0.0)


@pytest.fixture(scope="module")
def decode_cfg(cfg):
    """The form that decodes: unrolled."""
    return cfg.replace(scan_layers=False)


@pytest.fixture(scope="module")
def step_by_step(trained, log_probs):
    """Greedy completions by a full forward pass for every token."""

    def complete(prompt):
        tokens = list(prompt)
        for _ in range(NEW):
            tokens.append(int(log_probs(trained, tokens)[-1].argmax()))
        return tokens[len(prompt) :]

    return [complete(p) for p in PROMPTS]


def along(log_probs, variables, prompt, completion):
    """Next-token log-probabilities [completion, vocab] by one full forward pass."""
    return log_probs(variables, [*prompt, *completion])[len(prompt) - 1 : -1]


def test_greedy_sample_equals_step_by_step_argmax(cfg, trained, step_by_step, log_probs):
    out = sample(cfg, GREEDY, trained, *pad(PROMPTS, 16, side="left"), KEY, None)
    np.testing.assert_array_equal(out.tokens, step_by_step)
    assert out.mask.all()
    for i, prompt in enumerate(PROMPTS):
        table = along(log_probs, trained, prompt, step_by_step[i])
        chosen = table[np.arange(NEW), step_by_step[i]]
        np.testing.assert_allclose(out.log_probs[i], chosen, rtol=0, atol=5e-5)


def test_sample_stops_a_row_after_its_eos(decode_cfg, trained, step_by_step):
    first = step_by_step[0]
    latest = max(j for j, token in enumerate(first) if token not in first[:j])
    ends = first[latest], step_by_step[1][0]
    config = SamplingConfig(NEW, ends, temperature=0.0)
    out = sample(decode_cfg, config, trained, *pad(PROMPTS, 16, side="left"), KEY, None)
    out = jax.tree.map(np.asarray, out)
    lengths = []
    for i, row in enumerate(step_by_step):
        n = next((j + 1 for j, t in enumerate(row) if t in ends), NEW)
        lengths.append(n)
        assert out.tokens[i].tolist() == row[:n] + [0] * (NEW - n)
        assert out.mask[i].tolist() == [True] * n + [False] * (NEW - n)
        assert (out.log_probs[i, :n] < 0).all() and not out.log_probs[i, n:].any()
    assert lengths == [latest + 1, 1, NEW]  # the last one runs into the limit
    assert latest > 0


def test_sample_from_a_cache_equals_the_context_in_the_prompt(
    cfg, decode_cfg, trained, step_by_step
):
    # The last tokens of each prompt after a cache that holds the first ones.
    first, last = [p[:-2] for p in PROMPTS], [p[-2:] for p in PROMPTS]
    cache, _ = prefill(cfg, trained, *pad(first, 16, side="left"))
    tokens, mask = pad(last, 16, side="left")
    out = sample(decode_cfg, GREEDY, trained, tokens, mask, KEY, cache)
    np.testing.assert_array_equal(out.tokens, step_by_step)


def test_sample_returns_log_probs_and_members_of_a_group_differ(decode_cfg, trained, log_probs):
    config = SamplingConfig(NEW, (), temperature=1.0, num_generations=4)
    tokens, mask = pad(PROMPTS, 16, side="left")
    out = jax.tree.map(np.asarray, sample(decode_cfg, config, trained, tokens, mask, KEY, None))
    assert out.tokens.shape == (12, NEW)
    for row in range(12):
        prompt = PROMPTS[row // 4]
        table = along(log_probs, trained, prompt, out.tokens[row])
        want = table[np.arange(NEW), out.tokens[row]]
        np.testing.assert_allclose(out.log_probs[row], want, rtol=0, atol=5e-5)
    for group in out.tokens.reshape(3, 4, NEW):
        assert len({tuple(row) for row in group}) > 1
    again = sample(decode_cfg, config, trained, tokens, mask, KEY, None)
    np.testing.assert_array_equal(again.tokens, out.tokens)
    other = sample(decode_cfg, config, trained, tokens, mask, jax.random.key(1), None)
    assert (np.asarray(other.tokens) != out.tokens).any()


def test_top_k_of_one_has_log_prob_zero():
    logits = jnp.asarray(RNG.normal(size=(64, 97)), jnp.float32)
    for options in ({"top_k": 1, "temperature": 5.0}, {"top_p": 1e-6, "temperature": 5.0}):
        log_probs = jax.nn.log_softmax(truncate(logits, SamplingConfig(1, (), **options)))
        np.testing.assert_array_equal(draw(KEY, log_probs), logits.argmax(-1))
        np.testing.assert_allclose(log_probs.max(-1), 0, atol=1e-6)


def test_truncate_by_hand():
    p = jnp.array([[0.5, 0.125, 0.25, 0.125], [0.1, 0.2, 0.3, 0.4]])

    def kept(**options):
        config = SamplingConfig(1, (), **options)
        return np.isfinite(np.asarray(truncate(jnp.log(p), config))).tolist()

    assert kept(top_k=2) == [[True, False, True, False], [False, False, True, True]]
    assert kept(top_p=0.6) == [[True, False, True, False], [False, False, True, True]]
    assert kept(top_p=0.3) == [[True, False, False, False], [False, False, False, True]]
    hot = truncate(jnp.log(p), SamplingConfig(1, (), temperature=2.0))
    np.testing.assert_allclose(hot, jnp.log(p) / 2, rtol=1e-6)
    # Top-p looks at the distribution that temperature and top-k leave: (2/3, 0, 1/3, 0).
    assert kept(top_k=2, top_p=0.65)[0] == [True, False, False, False]


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.9, 0.999])
def test_truncate_top_p_keeps_the_smallest_set(top_p):
    logits = jnp.asarray(RNG.normal(size=(16, 97)) * 2, jnp.float32)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    kept = np.isfinite(np.asarray(truncate(logits, SamplingConfig(1, (), top_p=top_p))))
    for row, keep in zip(p, kept):
        assert row[keep].sum() >= top_p - 1e-5
        assert row[keep].sum() - row[keep].min() < top_p + 1e-5
        assert row[keep].min() > row[~keep].max(initial=0)


@pytest.mark.parametrize("vocab", [97, 256, 600])
def test_draw_follows_the_probabilities(vocab):
    p = RNG.dirichlet(np.full(vocab, 0.5))
    p[RNG.integers(0, vocab, vocab // 4)] = 0
    p /= p.sum()
    n = 20000
    tokens = draw(KEY, jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (n, vocab)))
    seen = np.bincount(tokens, minlength=vocab)
    assert len(seen) == vocab and not seen[p == 0].any()
    often = p * n >= 5  # the usual rule of thumb for the statistic
    chi2 = ((seen - p * n)[often] ** 2 / (p * n)[often]).sum()
    freedom = often.sum()
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


def test_draw_takes_the_only_possible_token():
    only = jnp.array([0, 255, 256, 511, 512, 599])
    log_probs = jnp.full((6, 600), -jnp.inf).at[jnp.arange(6), only].set(0.0)
    for seed in range(5):
        np.testing.assert_array_equal(draw(jax.random.key(seed), log_probs), only)


def test_draw_stays_within_the_vocabulary_despite_rounding(monkeypatch):
    # The largest uniform number there is, against sums in float32 that miss the true mass.
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape: jnp.full(shape, jnp.nextafter(1.0, 0.0))
    )
    for vocab in (200, 600):
        p = jnp.asarray(RNG.random((1024, vocab)), jnp.float32).at[:, -10:].set(0.0)
        tokens = np.asarray(draw(KEY, jnp.log(p / p.sum(-1, keepdims=True))))
        assert (tokens >= vocab - 20).all() and (tokens < vocab - 10).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_new_tokens": 0}, "sampling.max_new_tokens=0"),
        (
            {"temperature": 1e-40},
            r"sampling.temperature=1e-40; give 0 \(greedy\) or at least 1e-06",
        ),
        ({"temperature": -0.1}, r"sampling.temperature=-0.1; it must lie in \[0"),
        ({"top_k": -1}, "sampling.top_k=-1"),
        ({"top_p": 0.0}, "sampling.top_p=0.0"),
        ({"top_p": 1.5}, "sampling.top_p=1.5"),
        ({"num_generations": 0}, "sampling.num_generations=0"),
    ],
)
def test_sampling_config_rejects_values_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**({"max_new_tokens": 4, "eos_ids": ()} | options))


@pytest.mark.slow
def test_sample_with_a_random_expert_differs(cfg, trained):
    bank = trained["memory"]["layers"]["level_1"]["experts"]
    keys = {"key": jnp.zeros((2, 3, 32)), "bias": jnp.zeros((2, 3)).at[:, 0].set(3.0)}
    routed = trained | {"memory": {"layers": {"level_1": {"experts": bank | keys}}}}
    memory = dataclasses.replace(cfg.memory, router="sigmoid", top_k=1)
    cfg = cfg.replace(memory=memory)
    config = SamplingConfig(3, (), temperature=1.0)
    given = (routed, *pad(PROMPTS, 16, side="left"), KEY, None)
    plain, extra = (sample(cfg, config, *given, key) for key in (None, jax.random.key(5)))
    # The first token comes from the prompt, which is read without it.
    np.testing.assert_array_equal(plain.log_probs[:, 0], extra.log_probs[:, 0])
    assert not jnp.array_equal(plain.log_probs[:, 1:], extra.log_probs[:, 1:])


def test_truncate_top_k_keeps_the_first_of_equals():
    logits = jnp.array([[1.0, 3.0, 2.0, 3.0, 3.0, 2.0], [0.0] * 6, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])
    for k, kept in ((2, [[1, 3], [0, 1], [0, 1]]), (4, [[1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2, 3]])):
        left = truncate(logits, SamplingConfig(1, (), top_k=k))
        assert [np.flatnonzero(np.isfinite(row)).tolist() for row in left] == kept
    whole = truncate(logits, SamplingConfig(1, (), top_k=99))
    np.testing.assert_array_equal(whole, logits)


def test_truncate_top_p_keeps_the_first_of_equals():
    logits = jnp.log(jnp.array([[0.125, 0.25, 0.25, 0.25, 0.125]]))
    for p, kept in ((0.2, [1]), (0.5, [1, 2]), (0.51, [1, 2, 3]), (0.8, [0, 1, 2, 3])):
        left = truncate(logits, SamplingConfig(1, (), top_p=p))
        assert np.flatnonzero(np.isfinite(left[0])).tolist() == kept, p
    # Of what top-k has left.
    left = truncate(logits, SamplingConfig(1, (), top_k=2, top_p=0.9))
    assert np.flatnonzero(np.isfinite(left[0])).tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_draw_never_takes_a_removed_token(seed):
    """At both ends of the uniform numbers, at the borders of blocks, and at random; most tokens are
    removed, among them the first and the last of every block."""
    rng, rows, block = np.random.default_rng(seed), 512, 16
    logits = rng.normal(size=(rows, 5 * block + 3)).astype(np.float32) * 4
    is_removed = rng.random(logits.shape) < 0.8
    is_removed[:, ::block] = is_removed[:, block - 1 :: block] = True
    is_removed[np.arange(rows), rng.integers(1, block - 1, rows)] = False
    log_p = jax.nn.log_softmax(np.where(is_removed, -np.inf, logits))
    p = np.exp(np.asarray(log_p, np.float64))
    borders = np.cumsum(p, axis=1)[np.arange(rows), rng.integers(0, p.shape[1], rows)]
    largest = np.float32(1) - np.float32(2**-24)
    for uniform in (0.0, 2**-24, largest, borders, rng.random(rows)):
        at = jnp.broadcast_to(jnp.asarray(uniform, jnp.float32), (rows,))[:, None]
        at = jnp.minimum(at, largest)
        tokens = np.asarray(_invert_cdf(at, log_p, block))
        assert (p[np.arange(rows), tokens] > 0).all()
    ends = np.asarray(_invert_cdf(jnp.zeros((rows, 1)), log_p, block))
    np.testing.assert_array_equal(ends, (p > 0).argmax(1))
