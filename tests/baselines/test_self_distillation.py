"""Self-distillation: its loss against the published formula in plain numpy, and a run."""

import dataclasses

import jax
import numpy as np
import pytest
from plain_model import plain_logits

from sleep_jax.baselines.finetune import finetune_steps
from sleep_jax.baselines.model import Leaves
from sleep_jax.baselines.self_distillation import (
    OPSD,
    SDFT,
    SelfDistillationConfig,
    batch_of,
    distillation_loss,
    night_of,
    privileged,
    self_distilled,
)
from sleep_jax.baselines.sft import with_lora
from sleep_jax.data.documents import Document
from sleep_jax.interop.prompts import Prompts
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.seeding.divergence import Divergence
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import teacher_hidden
from sleep_jax.wake.context import read

LORA = LoraConfig(rank=4, alpha=8.0, targets=("q", "v", "up"))
DOCUMENT = Document("kiln", "The kiln", "It is hot.")


@pytest.fixture(scope="module")
def model(loud):
    return with_lora(loud, LORA, jax.random.key(1))


@pytest.fixture(scope="module")
def exchanges(model):
    prompts = Prompts(model.tokenizer)
    return [
        privileged(prompts, DOCUMENT, "Is it?", "hot"),
        privileged(prompts, DOCUMENT, "What is the kiln?"),
    ]


def test_privileged_teacher_sees_the_document_and_the_answer(model, exchanges):
    student, teacher = (
        model.tokenizer.decode(x) for x in (exchanges[0].student, exchanges[0].teacher)
    )
    assert "It is hot." in teacher and "The right answer: hot" in teacher
    assert "Is it?" in student and "hot" not in student


def log_p(model, prompt, completion, temperature):
    """Log-probabilities of the next tokens along a completion, float64 [completion, vocab]."""
    tokens, n = np.zeros((1, 160), np.int32), len(prompt) + len(completion)  # of one shape
    tokens[0, :n] = (*prompt, *completion)
    logits = np.asarray(plain_logits(model, tokens), np.float64)[0, len(prompt) - 1 : n - 1]
    logits = logits / temperature
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def generalised_jsd(log_s, log_t, beta, cap):
    """Of each token: the formula of GKD, its ends forward and reverse KL, as in TRL; each word's
    term at most `cap`, as in OPSD."""
    s, t = np.exp(log_s), np.exp(log_t)
    if beta == 0:
        terms = t * (log_t - log_s)
    elif beta == 1:
        terms = s * (log_s - log_t)
    else:
        log_m = np.log(beta * t + (1 - beta) * s)
        terms = beta * t * (log_t - log_m) + (1 - beta) * s * (log_s - log_m)
    return np.minimum(terms, cap).sum(-1)


CASES = {
    "OPSD": (OPSD, 0, 1.1, 0.05, 0),
    "SDFT": (SDFT, 1, 1.0, np.inf, 3),
    "TRL": (
        dataclasses.replace(SDFT, divergence=Divergence("jsd", beta=0.5), skip_tokens=0),
        *(0.5, 1.0, np.inf, 0),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_loss_equals_the_published_formula(model, exchanges, case):
    """A student whose adapter has moved, a teacher of the base with more in view."""
    config, beta, temperature, cap, skipped = case
    config = dataclasses.replace(config, max_new_tokens=8)
    completions = [(3, 99, 120, 7, 55, 201), (31, 41, 59, 26)]
    written = [
        dataclasses.replace(e, completion=c, on_policy=True, rewarded=False)
        for e, c in zip(exchanges, completions)
    ]
    teacher = model.replace(variables={"params": model.variables["params"]})
    keys = iter(jax.random.split(jax.random.key(2), 99))
    moved = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), model.variables["lora"]
    )
    student = model.replace(variables=model.variables | {"lora": moved})
    empty = read(teacher.cfg, teacher.variables, [()])[0]
    hidden = teacher_hidden(teacher.cfg, teacher.variables, empty, written)
    width = max(len(e.student) for e in written)
    batch = batch_of(written, hidden, config, width)
    total, count = jax.jit(distillation_loss(config.objective))(None, student, batch, None)
    want = [
        generalised_jsd(
            log_p(student, e.student, e.completion, temperature),
            log_p(teacher, e.teacher, e.completion, temperature),
            beta,
            cap,
        )[skipped:]
        for e in written
    ]
    assert count == sum(map(len, want)) == 10 - 2 * skipped
    np.testing.assert_allclose(total, sum(x.sum() for x in want), rtol=2e-3)
    if case[0] is OPSD:  # some words are capped
        uncapped = config.objective.divergence
        plain = dataclasses.replace(config, divergence=dataclasses.replace(uncapped, term_cap=None))
        uncapped_total, _ = jax.jit(distillation_loss(plain.objective))(None, student, batch, None)
        assert uncapped_total > 1.1 * total


@pytest.mark.parametrize("teacher", ["initial", "student"])
def test_self_distilled_comes_nearer_to_its_teacher_and_compiles_once(model, exchanges, teacher):
    config = SelfDistillationConfig(
        teacher=teacher,
        steps=12,
        prompts=2,
        num_generations=2,
        max_new_tokens=6,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        learning_rate=2e-2,
        max_grad_norm=1.0,
    )
    figures, before = [], finetune_steps._cache_size()
    trained = self_distilled(
        model,
        Leaves("lora/.*"),
        exchanges,
        config,
        rng=jax.random.key(0),
        log=lambda _, x: figures.append(x["loss"]),
    )
    assert np.mean(figures[-3:]) < 0.7 * np.mean(figures[:3])
    for x, y in zip(*(jax.tree.leaves(m.variables["params"]) for m in (trained, model))):
        np.testing.assert_array_equal(x, y)
    assert finetune_steps._cache_size() == before + 1


def test_night_of_has_the_loss_on_rollouts_alone():
    night = night_of(OPSD, SeedingConfig(num_prompts=0))
    assert night.objective.divergence == Divergence(temperature=1.1, term_cap=0.05)
    assert (night.objective.alpha, night.objective.lam) == (1.0, 1.0)
    assert all(night.learns_from_rollouts(i, night.objective_at(i)) for i in range(night.steps))


def test_self_distilled_refuses_nothing_to_distil(model):
    with pytest.raises(ValueError, match="no exchange to distil from"):
        self_distilled(model, Leaves("lora/.*"), [], SDFT, rng=jax.random.key(0))
