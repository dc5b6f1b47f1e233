"""Divergences fused with the LM head: hand values, the naive formulae, directions, and TRL's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from confident_head import CERTAIN, near_certain, softmax

from sleep_jax.models.head import masked_sum
from sleep_jax.seeding.divergence import KINDS, Divergence, scores_and_grads, token_scores

RNG = np.random.default_rng(0)
STUDENT, TEACHER = (jnp.asarray(RNG.normal(size=(11, 6)), jnp.float32) for _ in range(2))
HEAD = jnp.asarray(RNG.normal(size=(6, 13)), jnp.float32)
TARGETS = jnp.asarray(RNG.integers(0, 13, 11), jnp.int32)
EVERY = jnp.ones(11, bool)
# A second teacher of another width, with a head of its own.
OTHER = jnp.asarray(RNG.normal(size=(11, 4)), jnp.float32)
HEADS = HEAD, jnp.asarray(RNG.normal(size=(4, 13)), jnp.float32)
LOG_S, LOG_T = jax.nn.log_softmax(STUDENT @ HEAD), jax.nn.log_softmax(TEACHER @ HEAD)


def naive(student, teacher=TEACHER):
    log_s, log_t = jax.nn.log_softmax(student @ HEAD), jax.nn.log_softmax(teacher @ HEAD)
    kl = (jnp.exp(log_t) * (log_t - log_s)).sum(-1)
    return kl, jnp.take_along_axis(log_s, TARGETS[:, None], -1)[:, 0]


def test_forward_kl_by_hand():
    # Two tokens, three words. Token 0: T = (1/2, 1/4, 1/4), S = (1/4, 1/4, 1/2);
    # token 1: T = (1/3, 1/3, 1/3), S = (1/2, 1/3, 1/6).
    teacher = jnp.log(jnp.array([[2.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    student = jnp.log(jnp.array([[1.0, 1.0, 2.0], [3.0, 2.0, 1.0]]))
    targets = jnp.array([2, 0])

    def scores(student):
        return token_scores(student, teacher, targets, jnp.ones(2, bool), jnp.eye(3))

    got = scores(student)
    kl = [0.5 * np.log(2) - 0.25 * np.log(2), (np.log(2 / 3) + np.log(1) + np.log(2)) / 3]
    np.testing.assert_allclose(got.kl, kl, rtol=1e-5)
    np.testing.assert_allclose(got.log_prob, np.log([1 / 2, 1 / 2]), rtol=1e-6)
    # d KL / d logits = S - T.
    gradient = jax.grad(lambda s: scores(s).kl.sum())(student)
    np.testing.assert_allclose(gradient, [[-1 / 4, 0, 1 / 4], [1 / 6, 0, -1 / 6]], atol=1e-6)


def test_forward_kl_is_weighted_by_the_teacher():
    # T is sharp where S is flat: KL(T || S) = log 2 to within 1e-3, KL(S || T) is over 4.
    sharp, flat = jnp.array([[10.0, 0.0]]), jnp.array([[0.0, 0.0]])
    rest = jnp.zeros(1, jnp.int32), jnp.ones(1, bool), jnp.eye(2)
    np.testing.assert_allclose(token_scores(flat, sharp, *rest).kl, np.log(2), atol=1e-3)
    np.testing.assert_allclose(token_scores(sharp, flat, *rest).kl, 5 - np.log(2), atol=1e-3)


@pytest.mark.parametrize("chunk", [1, 4, 11, 64])
def test_forward_kl_and_gradient_equal_the_naive_ones(chunk):
    def fused(student):
        scores = token_scores(student, TEACHER, TARGETS, EVERY, HEAD, chunk)
        return scores.kl, scores.log_prob

    got, vjp = jax.vjp(fused, STUDENT)
    want, naive_vjp = jax.vjp(naive, STUDENT)
    cotangent = tuple(jnp.asarray(RNG.normal(size=11), jnp.float32) for _ in range(2))
    for g, w in zip((*got, *vjp(cotangent)), (*want, *naive_vjp(cotangent))):
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5)


def test_scores_and_grads_forms_only_learnt_gradients(operations):
    """Every product with a head is one of [.., 13]: of the student, the teacher, each gradient."""
    args = (STUDENT, TEACHER, TARGETS, EVERY, HEAD, 4)
    all_scores, all_grads = scores_and_grads(*args, has_entropy=True)
    for learnt in (("kl",), ("log_prob",), ("kl", "log_prob"), ("log_prob", "entropy")):
        run = functools.partial(scores_and_grads, has_entropy=True, learnt=learnt)
        scores, grads = run(*args)
        jax.tree.map(np.testing.assert_array_equal, scores, all_scores)
        for name, grad in vars(grads).items():
            if name in learnt:
                np.testing.assert_allclose(grad, getattr(all_grads, name), rtol=1e-5, atol=1e-7)
            else:
                assert grad is None
        products = operations(lambda *args: run(*args, 4), *args[:-1])  # noqa: B023
        products = [x for x in products if x.primitive.name == "dot_general"]
        products = [x for x in products if 1 not in x.outvars[0].aval.shape]  # but for sums
        assert len(products) == 2 + len(learnt)


def test_divergence_and_gradient_are_0_for_equal_models():
    def loss(student):
        return token_scores(student, STUDENT, TARGETS, EVERY, HEAD, 4).kl

    assert not np.asarray(loss(STUDENT)).any()
    assert not np.asarray(jax.grad(lambda s: loss(s).sum())(STUDENT)).any()


def test_gradient_is_0_for_teacher_and_head():
    def loss(teacher, head):
        scores = token_scores(STUDENT, teacher, TARGETS, EVERY, head, 4)
        return (scores.kl + scores.log_prob).sum()

    gradients = jax.grad(loss, argnums=(0, 1))(TEACHER, HEAD)
    assert not any(np.asarray(g).any() for g in gradients)


def test_scores_ignore_masked_tokens():
    # Of three chunks the first and last are mixed and the second is left out.
    mask = jnp.asarray([1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0], bool)
    student, teacher = (jnp.where(mask[:, None], x, jnp.nan) for x in (STUDENT, TEACHER))

    def loss(student):
        scores = token_scores(student, teacher, TARGETS, mask, HEAD, 4)
        kl, count = masked_sum(scores.kl, mask)
        return kl + masked_sum(scores.log_prob, mask)[0], (count, scores)

    def want(student):
        kl, log_prob = naive(student)
        return (kl + log_prob)[mask].sum()

    (total, (count, scores)), gradient = jax.value_and_grad(loss, has_aux=True)(student)
    total_want, gradient_want = jax.value_and_grad(want)(STUDENT)
    np.testing.assert_allclose(total, total_want, rtol=1e-5)
    assert count == 5
    np.testing.assert_allclose(gradient[mask], gradient_want[mask], rtol=1e-4, atol=1e-5)
    assert not scores.kl[4:8].any() and not scores.log_prob[4:8].any()
    assert not gradient[4:8].any()


def test_scores_of_a_bfloat16_head_are_near_those_of_float32():
    narrow = token_scores(STUDENT, TEACHER, TARGETS, EVERY, HEAD.astype(jnp.bfloat16))
    kl, log_prob = naive(STUDENT)
    assert narrow.kl.dtype == narrow.log_prob.dtype == jnp.float32
    np.testing.assert_allclose(narrow.kl, kl, rtol=0.1, atol=0.1)
    np.testing.assert_allclose(narrow.log_prob, log_prob, rtol=0.1, atol=0.1)


def divergence_of(log_s, log_t, d, targets=TARGETS):
    """The definition, in probabilities; its gradient is autodiff's."""
    s, t = jnp.exp(log_s), jnp.exp(log_t)
    if d.kind == "forward":
        return (t * jnp.log(t / s)).sum(-1)
    if d.kind == "reverse":
        return (s * jnp.log(s / t)).sum(-1)
    if d.kind == "jsd":
        m = d.beta * t + (1 - d.beta) * s
        return (d.beta * t * jnp.log(t / m) + (1 - d.beta) * s * jnp.log(s / m)).sum(-1)
    if d.kind == "top_k":
        best = jnp.argsort(-t)[:, : d.top_k]
        s, t = (jnp.take_along_axis(x, best, -1) for x in (s, t))
        s, t = (jnp.append(x, 1 - x.sum(-1, keepdims=True), -1) for x in (s, t))
        return (t * jnp.log(t / s)).sum(-1)
    fixed = jax.lax.stop_gradient
    log_s, log_t = (jnp.take_along_axis(x, targets[:, None], -1)[:, 0] for x in (log_s, log_t))
    gap = fixed(log_s - log_t)
    return gap + gap * (log_s - fixed(log_s))


@functools.partial(jax.jit, static_argnames=("divergence", "chunk"))
def value_and_gradient(divergence, student=STUDENT, targets=TARGETS, chunk=4):
    """The fused divergence from one teacher and its gradient, per token."""

    @jax.jit
    def both(student):
        rest = TEACHER, targets, EVERY, HEAD, chunk
        kl, vjp = jax.vjp(lambda s: token_scores(s, *rest, divergence=divergence).kl, student)
        return kl, vjp(jnp.ones(11))[0]

    return both(student)


# T = (1/2, 1/4, 1/4), S = (1/8, 1/2, 3/8), y = 1. M of beta = 1/4 is (7, 14, 11) / 32.
S, T, LOG = np.array([1, 4, 3]) / 8, np.array([2, 1, 1]) / 4, np.log
REVERSE = -LOG(4) / 8 + LOG(2) / 2 + LOG(3 / 2) * 3 / 8
TO_M = LOG(4 / 7) / 8 + LOG(8 / 7) / 2 + LOG(12 / 11) * 3 / 8  # KL(S || M)
BY_HAND = [
    ("forward", LOG(4) / 2 + LOG(1 / 2) / 4 + LOG(2 / 3) / 4, np.array([-3, 2, 1]) / 8),
    ("reverse", REVERSE, S * (LOG([1 / 4, 2, 3 / 2]) - REVERSE)),
    (
        "jsd",
        (LOG(16 / 7) / 2 + LOG(4 / 7) / 4 + LOG(8 / 11) / 4) / 4 + TO_M * 3 / 4,
        0.75 * S * (LOG([4 / 7, 8 / 7, 12 / 11]) - TO_M),
    ),
    # Word 0 and a bucket: (1/2, 1/2) against (1/8, 7/8), in which S shares as 4 to 3.
    ("top_k", LOG(4) / 2 + LOG(4 / 7) / 2, S - np.array([7, 4, 3]) / 14),
    ("sampled", LOG(2), LOG(2) * np.array([-1, 4, -3]) / 8),
]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("kind", "value", "gradient"), BY_HAND)
def test_each_divergence_by_hand(kind, value, gradient, temperature):
    # At temperature 2 the logits are twice as large: the same S and T, half the gradient.
    divergence = Divergence(kind, beta=0.25, top_k=1, temperature=temperature)
    student, teacher = (jnp.log(jnp.asarray(x[None], jnp.float32)) * temperature for x in (S, T))
    rest = teacher, jnp.array([1]), jnp.ones(1, bool), jnp.eye(3)
    got, vjp = jax.vjp(lambda s: token_scores(s, *rest, divergence=divergence), student)
    np.testing.assert_allclose(got.kl, [value], rtol=1e-5)
    # The target's log-probability stays at temperature 1, where S is (1, 16, 9) / 26.
    np.testing.assert_allclose(got.log_prob, LOG([0.5 if temperature == 1 else 16 / 26]), rtol=1e-5)
    one, zero = jnp.ones(1), jnp.zeros(1)
    (grad,) = vjp(dataclasses.replace(got, kl=one, log_prob=zero))
    np.testing.assert_allclose(grad[0], gradient / temperature, atol=1e-6)
    (grad,) = vjp(dataclasses.replace(got, kl=zero, log_prob=one))
    p = np.exp(student[0]) / np.exp(student[0]).sum()
    np.testing.assert_allclose(grad[0], np.eye(3)[1] - p, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "is_capped"),
    [(kind, False) for kind in KINDS] + [(kind, True) for kind in KINDS if kind != "sampled"],
)
def test_each_divergence_and_gradient_equal_the_definition(kind, is_capped):
    # Two teachers, a temperature, and a cap that about half of the tokens reach.
    weights, divergence = (0.75, 0.25), Divergence(kind, beta=0.3, top_k=4, temperature=0.7)

    def definition(student, cap=jnp.inf):
        logs = [
            jax.nn.log_softmax(h @ w / 0.7)
            for h, w in zip((student, TEACHER, OTHER), (HEAD, *HEADS))
        ]
        parts = (w * divergence_of(logs[0], t, divergence) for w, t in zip(weights, logs[1:]))
        return jnp.minimum(sum(parts), cap)

    values = definition(STUDENT)
    cap = float(values[np.argsort(values)[5:7]].mean())
    if is_capped:
        divergence = dataclasses.replace(divergence, cap=cap)
    got, vjp = jax.vjp(
        lambda s: (
            token_scores(
                s,
                jnp.hstack([TEACHER, OTHER]),
                TARGETS,
                EVERY,
                HEAD,
                4,
                heads=HEADS,
                weights=weights,
                divergence=divergence,
            ).kl
        ),
        STUDENT,
    )
    want, definition_vjp = jax.vjp(lambda s: definition(s, cap if is_capped else jnp.inf), STUDENT)
    cotangent = jnp.asarray(RNG.normal(size=11), jnp.float32)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
    (gradient,) = vjp(cotangent)
    np.testing.assert_allclose(gradient, definition_vjp(cotangent)[0], rtol=1e-4, atol=1e-5)
    is_learnt = gradient.any(-1)
    assert is_learnt.tolist() == ((values < cap) if is_capped else EVERY).tolist()
    assert is_learnt.sum() == (6 if is_capped else 11)


@pytest.mark.parametrize("kind", KINDS)
def test_each_divergence_ignores_chunks_and_masked_tokens(kind):
    mask = jnp.asarray([1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 0], bool)
    divergence = Divergence(kind, beta=0.3, top_k=4, temperature=0.7)
    values, gradients = value_and_gradient(divergence, chunk=64)
    student, teacher = (jnp.where(mask[:, None], x, jnp.nan) for x in (STUDENT, TEACHER))

    def total(student):
        rest = teacher, TARGETS, mask, HEAD, 4
        return masked_sum(token_scores(student, *rest, divergence=divergence).kl, mask)[0]

    value, gradient = jax.jit(jax.value_and_grad(total))(student)
    np.testing.assert_allclose(value, values[mask].sum(), rtol=1e-5)
    np.testing.assert_allclose(gradient[mask], gradients[mask], rtol=1e-4, atol=1e-6)
    assert not gradient[4:8].any()


@pytest.mark.parametrize(("beta", "end"), [(0.0, "forward"), (1.0, "reverse")])
def test_jsd_ends_in_forward_and_reverse(beta, end):
    want = value_and_gradient(Divergence(end))
    for g, w in zip(value_and_gradient(Divergence("jsd", beta=beta)), want):
        np.testing.assert_array_equal(g, w)
    # Nearby it is that times the distance to the end; S and T are mild, so that 1e-3 is near.
    want = value_and_gradient(Divergence(end, temperature=5.0))
    near = value_and_gradient(Divergence("jsd", beta=abs(beta - 1e-3), temperature=5.0))
    for g, w in zip(near, want):
        np.testing.assert_allclose(g / 1e-3, w, rtol=0.01, atol=0.002)


@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.1, 0.9), (0.5, 1.0), (1.0, 0.9)])
def test_jsd_equals_that_of_trl(beta, temperature):
    """The reference says in torch what `GKDTrainer.generalized_jsd_loss` does."""
    torch = pytest.importorskip("torch")

    def kl(p, q):  # KL(p || q); torch's own order is the other one
        terms = torch.nn.functional.kl_div(q, p, reduction="none", log_target=True)
        return terms.sum(-1)

    logits = torch.tensor(np.asarray(STUDENT @ HEAD), requires_grad=True)
    s = torch.log_softmax(logits / temperature, -1)
    t = torch.log_softmax(torch.tensor(np.asarray(TEACHER @ HEAD)) / temperature, -1)
    if beta in (0, 1):
        want = kl(s, t) if beta else kl(t, s)
    else:
        m = torch.logsumexp(torch.stack([s + np.log(1 - beta), t + np.log(beta)]), 0)
        want = beta * kl(t, m) + (1 - beta) * kl(s, m)
    want.sum().backward()
    value, gradient = value_and_gradient(Divergence("jsd", beta=beta, temperature=temperature))
    np.testing.assert_allclose(value, want.detach(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient, logits.grad @ np.asarray(HEAD).T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [13, 64])
def test_top_k_of_the_whole_vocabulary_is_forward_kl(k):
    want = value_and_gradient(Divergence())
    for g, w in zip(value_and_gradient(Divergence("top_k", top_k=k)), want):
        np.testing.assert_array_equal(g, w)


def test_top_k_grows_with_k_towards_forward_kl():
    # Merging words can only hide divergence (data processing).
    values = [value_and_gradient(Divergence("top_k", top_k=k))[0] for k in (1, 3, 6, 13)]
    assert (np.diff(values, axis=0) > -1e-6).all() and values[0].sum() < 0.8 * values[-1].sum()


def test_sampled_divergence_is_reverse_kl_in_expectation():
    value, gradient = value_and_gradient(Divergence("reverse"))
    each = jax.vmap(lambda y: value_and_gradient(Divergence("sampled"), targets=jnp.full(11, y)))
    values, gradients = each(jnp.arange(13))
    s = np.exp(LOG_S)
    np.testing.assert_allclose(np.einsum("nv,vn->n", s, values), value, rtol=1e-4)
    got = np.einsum("nv,vnd->nd", s, gradients)
    np.testing.assert_allclose(got, gradient, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values[3], (LOG_S - LOG_T)[:, 3], rtol=1e-4, atol=1e-5)


def grads_in_float64(s, t, d):
    """(dD/du, dH/du) of distributions S and T by the formulae of the module."""
    log_s, log_t, is_target = np.log(s), np.log(t), np.eye(len(s))[CERTAIN]
    if d.kind == "forward":
        grad = s - t
    elif d.kind == "reverse":
        grad = s * (log_s - log_t - s @ (log_s - log_t))
    elif d.kind == "jsd":
        to_m = log_s - np.log(d.beta * t + (1 - d.beta) * s)
        grad = (1 - d.beta) * s * (to_m - s @ to_m)
    elif d.kind == "top_k":
        is_tail = t < np.sort(t)[-d.top_k]
        grad = s - np.where(is_tail, s * t[is_tail].sum() / s[is_tail].sum(), t)
    else:
        grad = (log_s - log_t)[CERTAIN] * (is_target - s)
    return grad, -s * (log_s - s @ log_s)


@pytest.mark.parametrize("p", [0.986, 0.998, 0.99999])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_precise_near_certainty(kind, p):
    """Of a bfloat16 head, against float64; the teacher is unsure or nearly as certain."""
    student, head = near_certain(p)
    divergence, target = Divergence(kind, beta=0.3, top_k=8), jnp.array([CERTAIN])
    for teacher_p in (0.5, 1 - (1 - p) / 3):
        if kind == "sampled" and teacher_p > 0.9:
            continue  # D itself, the factor, is a difference of two numbers near 0
        teacher, _ = near_certain(teacher_p, seed=2)
        _, got = scores_and_grads(
            student[None],
            teacher[None],
            target,
            jnp.ones(1, bool),
            head,
            divergence=divergence,
            has_entropy=True,
        )
        grads = grads_in_float64(softmax(student), softmax(teacher), divergence)
        for gradient, logit_grad in zip((got.kl[0], got.entropy[0]), grads):
            want = logit_grad @ np.asarray(head, np.float64).T
            assert np.linalg.norm(gradient - want) < 0.01 * np.linalg.norm(want)


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_and_gradient_of_extreme_logits_are_finite(kind):
    student, teacher = jnp.array([[1e4, -1e4, 0.0]]), jnp.array([[-1e4, 1e4, 0.0]])
    rest = jnp.array([0]), jnp.ones(1, bool), jnp.eye(3)
    # Of two distributions that share no word.
    wants = {"forward": 2e4, "reverse": 2e4, "jsd": np.log(2), "top_k": 2e4, "sampled": 2e4}

    def value(student, **settings):
        divergence = Divergence(kind, top_k=1, **settings)
        return token_scores(student, teacher, *rest, divergence=divergence).kl[0]

    for settings in ({}, {"temperature": 0.5}) + (({"cap": 3.0},) if kind != "sampled" else ()):
        got, gradient = jax.value_and_grad(lambda s: value(s, **settings))(student)  # noqa: B023
        want = wants[kind] / (settings.get("temperature", 1.0) if kind != "jsd" else 1.0)
        np.testing.assert_allclose(got, min(want, settings.get("cap", np.inf)), rtol=1e-5)
        assert np.isfinite(gradient).all()


def test_divergence_of_tokens_with_probability_0():
    # The third logit is -1e40, which is -inf.
    head, rest = jnp.diag(jnp.array([1.0, 1.0, 1e20])), (jnp.array([0]), jnp.ones(1, bool))
    student, teacher = jnp.array([[0.0, 0.0, -1e20]]), jnp.zeros((1, 3))

    def value(student, teacher, **settings):
        return token_scores(student, teacher, *rest, head, divergence=Divergence(**settings)).kl[0]

    got, gradient = jax.value_and_grad(value)(student, teacher)
    assert got == np.inf and np.isfinite(gradient).all() and gradient[0, 2] < 0
    got, gradient = jax.value_and_grad(lambda s: value(s, teacher, cap=5.0))(student)
    assert got == 5 and not gradient.any()
    # Tokens with probability 0 under both add 0, and the JSD is finite.
    assert value(student, student) == value(student, student, kind="reverse") == 0
    np.testing.assert_allclose(value(student, teacher, kind="reverse"), np.log(3 / 2), rtol=1e-6)
    assert value(teacher, student, kind="reverse") == np.inf
    assert 0 < value(student, teacher, kind="jsd") < np.log(2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"kind": "forwards"},
            "seeding.divergence='forwards'; choose from forward, reverse, jsd",
        ),
        ({"beta": -0.1}, r"seeding.jsd_beta=-0.1; give a number from 0 to 1 \(.*0 is forward KL"),
        ({"beta": 1.5}, "seeding.jsd_beta=1.5"),
        ({"top_k": 0}, "seeding.divergence_top_k=0; give a whole number at least 1"),
        ({"temperature": 0.0}, "seeding.divergence_temperature=0.0; give a number at least 1e-06"),
        ({"temperature": float("nan")}, "seeding.divergence_temperature=nan"),
        ({"cap": -1.0}, "seeding.divergence_cap=-1.0; give 0, or a number above 0"),
        (
            {"cap": 1.0, "kind": "sampled"},
            "seeding.divergence_cap=1.0 with seeding.divergence='sampled'",
        ),
        ({"term_cap": 1.0, "kind": "top_k"}, "term_cap=1.0 with seeding.divergence='top_k'; give"),
        ({"term_cap": 0.0}, "term_cap=0.0 with seeding.divergence='forward'; give a number above"),
    ],
)
def test_divergence_rejects_invalid_settings(settings, words):
    with pytest.raises(ValueError, match=words):
        Divergence(**settings)


def test_capped_terms_by_hand():
    """T = (1/2, 1/4, 1/4), S = (1/8, 1/2, 3/8): the first word's term of KL(T || S), log(4) / 2,
    counts as 0.05 and has no gradient, the others stay as they are."""
    rest = jnp.zeros(1, jnp.int32), jnp.ones(1, bool), jnp.eye(3)

    def kl(logits):
        divergence = Divergence(term_cap=0.05)
        return token_scores(logits, jnp.log(T)[None], *rest, divergence=divergence).kl[0]

    value, gradient = jax.value_and_grad(kl)(jnp.log(S)[None])
    np.testing.assert_allclose(value, 0.05 + (LOG(1 / 2) + LOG(2 / 3)) / 4, rtol=1e-5)
    # S times the mass of T that has a gradient, 1/2, less that mass itself.
    np.testing.assert_allclose(gradient[0], S / 2 - [0, 1 / 4, 1 / 4], rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 1.1])
@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_capped_terms_equal_the_definition_and_autodiff(kind, temperature):
    d = Divergence(kind, beta=0.3, temperature=temperature, term_cap=0.05)

    def want(student):
        log_s, log_t = (jax.nn.log_softmax(x @ HEAD / temperature) for x in (student, TEACHER))
        s, t = jnp.exp(log_s), jnp.exp(log_t)
        m = {"forward": s, "reverse": t, "jsd": 0.3 * t + 0.7 * s}[kind]
        terms_t, terms_s = t * jnp.log(t / m), s * jnp.log(s / m)
        weights = {"forward": (1, 0), "reverse": (0, 1), "jsd": (0.3, 0.7)}[kind]
        terms = weights[0] * terms_t + weights[1] * terms_s
        return jnp.minimum(terms, 0.05).sum(-1)

    kl, gradient = value_and_gradient(d)
    np.testing.assert_allclose(kl, want(STUDENT), rtol=1e-4, atol=1e-6)
    expected = jax.grad(lambda s: want(s).sum())(STUDENT)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)
    assert np.any(kl != value_and_gradient(dataclasses.replace(d, term_cap=None))[0])


def test_entropy_and_gradient_equal_the_naive_ones():
    def naive_entropy(student):
        log_s = jax.nn.log_softmax(student @ HEAD)
        return -(jnp.exp(log_s) * log_s).sum(-1)

    def fused(student):
        return token_scores(student, TEACHER, TARGETS, EVERY, HEAD, 4, has_entropy=True)

    np.testing.assert_allclose(fused(STUDENT).entropy, naive_entropy(STUDENT), rtol=1e-5)
    weights = jnp.arange(11.0)
    got, want = (
        jax.grad(lambda s, f=f: (weights * f(s)).sum())(STUDENT)
        for f in (lambda s: fused(s).entropy, naive_entropy)
    )
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    scores, grads = scores_and_grads(STUDENT, TEACHER, TARGETS, EVERY, HEAD, 4, has_entropy=True)
    jax.tree.map(np.testing.assert_array_equal, scores, fused(STUDENT))
    np.testing.assert_allclose(weights[:, None] * grads.entropy, want, rtol=1e-3, atol=1e-5)
    assert token_scores(STUDENT, TEACHER, TARGETS, EVERY, HEAD).entropy is None
