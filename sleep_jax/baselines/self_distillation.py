"""On-policy self-distillation: SDFT and OPSD, as settings of Knowledge Seeding's objective.

    exchanges = [privileged(prompts, document, question, answer), ...]
    model = self_distilled(model, Leaves("lora/.*"), exchanges, OPSD, rng=rng)

The student answers a prompt; the teacher is the same model with more in view: a document, a worked
solution. Along what the student wrote, the divergence of both next-token distributions is the loss,

    loss = mean_on D(T, S),

which is J_KS (`seeding.objective`) with alpha 1 and lambda 1: rollouts alone, no reward. A night of
a run does the same, to a slot: `night_of`.

        source                              divergence    loss of a token            teacher
SDFT    Shenfeld et al. 2026, 2601.19897    KL(S || T)    the first 3 do not count   see below
OPSD    Zhao et al. 2026, 2601.18734 (v3)   KL(T || S)    each word's term at most   initial model
                                                          0.05; logits over 1.1

SDFT's teacher follows the student slowly (an average of its weights); here it is the initial model,
which ports of it found as good. Ports of SDFT take KL(T || S) (tinker) or a JSD of the 100
likeliest words (TRL). The LM head itself is no part of what is trained here: all weights but that.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from sleep_jax.baselines.finetune import Log, Loss, clipped_adam, finetune
from sleep_jax.baselines.model import Model, Trainable
from sleep_jax.data.batches import bucket
from sleep_jax.data.documents import Document
from sleep_jax.data.orders import in_turn
from sleep_jax.interop.prompts import Prompts, answer_request
from sleep_jax.models.decoder import lm_head
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.sampling.generate import generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.seeding.divergence import Divergence
from sleep_jax.seeding.objective import Objective, SeedingBatch, objective_terms
from sleep_jax.seeding.seeding_config import SeedingConfig
from sleep_jax.seeding.sequences import (
    BatchShape,
    Exchange,
    HiddenStates,
    make_batch,
    teacher_hidden,
)
from sleep_jax.services import MidPhaseCheckpoint
from sleep_jax.settings import Settings, part, setting
from sleep_jax.wake.context import read

TEACHERS = ("initial", "student")
EVERY_LINEAR = ("q", "k", "v", "o", "gate", "up", "down")
OPSD_LORA = LoraConfig(rank=64, alpha=128.0, targets=EVERY_LINEAR)


@dataclasses.dataclass(frozen=True)
class SelfDistillationConfig(Settings, section="self_distillation"):
    """How a student is distilled; the defaults are OPSD's.

    Attributes:
      divergence: of teacher and student.
    """

    divergence: Divergence = part(Divergence)
    teacher: str = setting(
        "initial", "the model before training, or the student as it is, both with more in view",
        choices=TEACHERS,
    )  # fmt: skip
    steps: int = setting(100, "updates", least=1)
    prompts: int = setting(32, "prompts of an update", least=1)
    num_generations: int = setting(1, "completions of a prompt", least=1)
    max_new_tokens: int = setting(1024, "longest completion, in tokens", least=1)
    skip_tokens: int = setting(0, "first tokens of a completion that do not count", least=0)
    temperature: float = setting(1.1, "temperature of completions", above=0)
    top_p: float = setting(0.95, "mass that completions are drawn from", least=1e-6, most=1)
    top_k: int = setting(20, "likeliest tokens that completions are drawn from; 0: all", least=0)
    learning_rate: float = setting(5e-6, "Adam's rate", above=0)
    max_grad_norm: float = setting(0.1, "largest norm of the gradient; 0: any", least=0)
    accumulate: int = setting(
        1, "parts of an update; the activations of one exist at a time", least=1
    )

    @property
    def objective(self) -> Objective:
        """The objective of seeding that this is."""
        return Objective(alpha=1.0, lam=1.0, divergence=self.divergence)


OPSD = SelfDistillationConfig(divergence=Divergence(temperature=1.1, term_cap=0.05))
SDFT = SelfDistillationConfig(
    divergence=Divergence("reverse"),
    skip_tokens=3,
    temperature=1.0,
    top_p=1.0,
    top_k=0,
    learning_rate=1e-5,
    max_grad_norm=1.0,
)


def night_of(config: SelfDistillationConfig, seeding: SeedingConfig) -> SeedingConfig:
    """A night of a run with this loss: no imitation reward, every update learns from rollouts
    alone. A night's rollouts begin with a part of what the teacher wrote (`seeding.prefix_range`)
    and its teacher has the documents in view; skipped tokens it does not have."""
    objective = dataclasses.replace(config.objective, accumulate=seeding.objective.accumulate)
    num_prompts = max(seeding.num_prompts, 1)
    return dataclasses.replace(
        seeding, objective=objective, num_prompts=num_prompts, rollout_start=0.0, mode="joint"
    )


def privileged(prompts: Prompts, document: Document, question: str, answer: str = "") -> Exchange:
    """A question that the student is asked closed book, and its teacher with the document in view,
    and the answer if there is one: with both, SDFT's teacher teaches most."""
    request = answer_request(question, answer)
    teacher = (*prompts.context(document), *prompts.with_context(request))
    return Exchange(None, prompts.without_context(question), teacher, (), "answer")


def self_distilled(
    model: Model,
    trainable: Trainable,
    exchanges: Sequence[Exchange],
    config: SelfDistillationConfig,
    *,
    rng: jax.Array,
    log: Log = lambda step, figures: None,
    checkpoint: MidPhaseCheckpoint | None = None,
) -> Model:
    """Distils what a model says with more in view into a part of its weights.

    Args:
      model: where training starts, with a tokenizer.
      trainable: what is trained.
      exchanges: the prompts of student and teacher (`privileged`), taken in turn, in a new order
        each time; their completions are not read.
      config: how.
      rng: PRNG key of the order and of completions.
      log, checkpoint: as for `finetune`.

    Raises:
      ValueError: there is no exchange.
    """
    if not exchanges:
        raise ValueError("no exchange to distil from; give some prompts")
    sampling = SamplingConfig(
        config.max_new_tokens,
        model.tokenizer.eos_ids,
        config.temperature,
        config.top_k,
        config.top_p,
        config.num_generations,
    )
    width = bucket(max(len(e.student) for e in exchanges))
    teacher_width = bucket(max(len(e.teacher) for e in exchanges)) + config.max_new_tokens
    order_key, sampling_key = jax.random.split(rng)
    is_fixed = config.teacher == "initial"
    empty_context = read(model.cfg, model.variables, [()])[0]

    def rollouts(step: int, student: Model) -> SeedingBatch:
        order = in_turn(len(exchanges), config.prompts, step, order_key)
        chosen = [exchanges[i] for i in order]
        groups = generate(
            student.cfg,
            sampling,
            student.variables,
            [e.student for e in chosen],
            jax.random.fold_in(sampling_key, step),
            width=width,
        )
        written = [
            dataclasses.replace(e, completion=c.tokens, on_policy=True, rewarded=False)
            for e, group in zip(chosen, groups)
            for c in group
        ]
        teacher = model if is_fixed else student
        hidden = teacher_hidden(
            teacher.cfg, teacher.variables, empty_context, written, width=teacher_width
        )
        return batch_of(written, hidden, config, width)

    heads = (lm_head(model.cfg, model.variables["params"]),) if is_fixed else None
    return finetune(
        model,
        trainable,
        jax.tree_util.Partial(distillation_loss(config.objective), heads),
        rollouts,
        clipped_adam(config.learning_rate, config.max_grad_norm),
        steps=config.steps,
        accumulate=config.accumulate,
        log=log,
        checkpoint=checkpoint,
    )


def batch_of(
    written: Sequence[Exchange], hidden, config: SelfDistillationConfig, width: int
) -> SeedingBatch:
    """Completions of the student, a row each, with the teacher's hidden states along them; the
    first `config.skip_tokens` are masked out.

    Args:
      written: with completions.
      hidden: the teacher's, [completion, d] each.
      config: how.
      width: tokens of a prompt, at most.
    """
    shape = BatchShape(len(written), width + config.max_new_tokens, config.max_new_tokens)
    rows = [[i] for i in range(len(written))]
    batch = make_batch(written, [*map(HiddenStates, hidden)], rows, shape)
    is_counted = jnp.arange(config.max_new_tokens) >= config.skip_tokens
    return batch.replace(mask=batch.mask & is_counted)


@functools.cache  # one object a setting: for any other, all is compiled anew
def distillation_loss(objective: Objective) -> Loss:
    """The divergence of an objective on the student's own tokens: (heads, model, batch, rng), where
    `heads` is a tuple of the teacher's LM head; None: it has the student's."""

    def loss(heads, model: Model, batch: SeedingBatch, rng: jax.Array):
        terms, _ = objective_terms(model.cfg, objective, model.variables, batch, heads)
        return terms["kl_on"]

    return loss
