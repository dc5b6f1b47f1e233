"""Divergences against those of TRL itself, values and gradients; runs where TRL is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.models.head import masked_sum
from sleep_jax.seeding.divergence import Divergence, token_scores

pytest.importorskip("trl", reason="compares with TRL's own losses")
torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
BATCH, TIME, WIDTH, VOCAB = 3, 5, 6, 17
STUDENT, TEACHER = (RNG.normal(size=(BATCH * TIME, WIDTH)).astype(np.float32) for _ in range(2))
HEAD = RNG.normal(size=(WIDTH, VOCAB)).astype(np.float32)
TARGETS = RNG.integers(0, VOCAB, BATCH * TIME)
# A whole row, a mixed one and one without any token.
MASKS = {
    "all": np.ones((BATCH, TIME), bool),
    "mixed": np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]], bool),
}
BETAS = (0.0, 0.1, 0.5, 0.9, 1.0)


def ours(divergence, mask):
    """Sum of the divergence over the mask and its gradient with respect to the hidden states."""

    def total(student):
        mask_ = jnp.asarray(mask.reshape(-1))
        rest = jnp.asarray(TEACHER), jnp.asarray(TARGETS), mask_, jnp.asarray(HEAD), 4
        return masked_sum(token_scores(student, *rest, divergence=divergence).kl, mask_)[0]

    return jax.value_and_grad(total)(jnp.asarray(STUDENT))


def theirs(loss):
    """The same of a torch function of the student's hidden states and both models' logits."""
    hidden = torch.tensor(STUDENT, requires_grad=True)
    logits = (hidden @ torch.tensor(HEAD)).reshape(BATCH, TIME, VOCAB)
    value = loss(hidden, logits, torch.tensor(TEACHER @ HEAD).reshape(BATCH, TIME, VOCAB))
    value.backward()
    return value.item(), hidden.grad.numpy()


def check(got, want):
    """Values and gradients agree."""
    np.testing.assert_allclose(got[0], want[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("beta", BETAS)
def test_jsd_equals_that_of_gkd_trainer(beta, temperature, mask):
    from trl.experimental.gkd import GKDTrainer

    labels = torch.where(torch.tensor(mask), torch.tensor(TARGETS).reshape(BATCH, TIME), -100)
    got = ours(Divergence("jsd", beta=beta, temperature=temperature), mask)
    settings = {"labels": labels, "beta": beta, "temperature": temperature}

    def loss(hidden, student, teacher):
        return GKDTrainer.generalized_jsd_loss(student, teacher, reduction="sum", **settings)

    check(got, theirs(loss))
    mean = GKDTrainer.generalized_jsd_loss(
        torch.tensor(STUDENT @ HEAD).reshape(BATCH, TIME, VOCAB),
        torch.tensor(TEACHER @ HEAD).reshape(BATCH, TIME, VOCAB),
        **settings,
    )
    np.testing.assert_allclose(got[0] / mask.sum(), mean, rtol=1e-4)


@pytest.mark.parametrize("beta", BETAS)
def test_jsd_equals_the_fused_kernel_of_trl(beta):
    """Its own fused kernel: hidden states and LM heads, in tiles."""
    from trl.kernels import chunked_divergence

    head, teacher = torch.tensor(HEAD).T.contiguous(), torch.tensor(TEACHER)

    def loss(hidden, *_):
        fused = chunked_divergence.ChunkedDivergenceFunction.apply
        each, _ = fused(hidden, head, None, teacher, head, None, beta, 0.7)
        return each[torch.tensor(MASKS["mixed"].reshape(-1))].sum()

    check(ours(Divergence("jsd", beta=beta, temperature=0.7), MASKS["mixed"]), theirs(loss))


@pytest.mark.parametrize("alpha", BETAS)
def test_jsd_equals_full_logit_self_distillation(alpha):
    from trl.experimental.sdft import loss_utils as losses

    def loss(hidden, student, teacher):
        each = losses.compute_full_logit_self_distillation_loss(
            student, teacher, distillation_alpha=alpha
        )
        return each[torch.tensor(MASKS["mixed"])].sum()

    check(ours(Divergence("jsd", beta=alpha), MASKS["mixed"]), theirs(loss))


@pytest.mark.parametrize("k", [1, 4, 16])
def test_top_k_equals_that_of_trl_with_a_tail_bucket(k):
    """On the teacher's most likely words, as TRL scores with a teacher behind a server."""
    from trl.experimental.sdft import loss_utils as losses

    def loss(hidden, student, teacher):
        best, index = torch.topk(torch.log_softmax(teacher, -1), k)
        same = torch.gather(torch.log_softmax(student, -1), -1, index)
        each = losses.compute_divergence(
            losses.add_tail_bucket(same), losses.add_tail_bucket(best), 0.0
        )
        return each[torch.tensor(MASKS["mixed"])].sum()

    check(ours(Divergence("top_k", top_k=k), MASKS["mixed"]), theirs(loss))


def test_sampled_gradient_equals_that_of_trl():
    from trl.experimental.sdft import loss_utils as losses

    def loss(hidden, student, teacher):
        tokens = torch.tensor(TARGETS).reshape(BATCH, TIME)
        each = losses.compute_sampled_token_self_distillation_loss(
            student, teacher, tokens, distillation_alpha=1.0
        )
        return each[torch.tensor(MASKS["mixed"])].sum()

    _, got = ours(Divergence("sampled"), MASKS["mixed"])
    np.testing.assert_allclose(got, theirs(loss)[1], rtol=1e-4, atol=1e-5)
