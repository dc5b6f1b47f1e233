"""Learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282): what the model said before a
task about the task's own inputs is a second target.

    loss = cross-entropy + weight * mean KL(T || S),    both softened by a temperature

T is the model before the task, S as it is now, along the same tokens. No example is kept, only the
model before.
"""

import dataclasses
import functools

import jax

from sleep_jax.baselines.finetune import Loss
from sleep_jax.baselines.model import Model, Trainable
from sleep_jax.baselines.sft import cross_entropy_for
from sleep_jax.data.examples import Examples
from sleep_jax.models.decoder import Decoder, lm_head
from sleep_jax.models.head import masked_sum
from sleep_jax.seeding.divergence import Divergence, token_scores
from sleep_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class LwFConfig(Settings, section="lwf"):
    """How much of what it said the model keeps; the defaults are the paper's."""

    weight: float = setting(1.0, "weight of the divergence from the model before", least=0)
    temperature: float = setting(2.0, "that both models' logits are divided by", above=0)


def lwf_loss(before: Model, trainable: Trainable, config: LwFConfig) -> Loss:
    """The loss of a task, for `sft`; logs the divergence as `kl`.

    Args:
      before: the model as the task begins.
      trainable: what is trained.
      config: how.
    """
    loss = _with_old_answers(cross_entropy_for(before, trainable), config.temperature)
    return jax.tree_util.Partial(loss, before.replace(tokenizer=None), config.weight)


@functools.cache  # one object a setting: for any other, all is compiled anew
def _with_old_answers(base: Loss, temperature: float) -> Loss:
    divergence = Divergence(temperature=temperature)

    def loss(before: Model, weight, model: Model, batch: Examples, rng: jax.Array):
        total, count = base(model, batch, rng)
        head, old_head = (lm_head(m.cfg, m.variables["params"]) for m in (model, before))
        targets, mask = batch.tokens[:, 1:].reshape(-1), batch.mask[:, 1:].reshape(-1)
        new, old = _hidden(model, batch), jax.lax.stop_gradient(_hidden(before, batch))
        scores = token_scores(
            new, old, targets, mask, head, heads=(old_head,), divergence=divergence
        )
        kl, _ = masked_sum(scores.kl, mask)
        return total + weight * kl, count, {"kl": (kl, count)}

    return loss


def _hidden(model: Model, batch: Examples):
    """What predicts every token but the first, [rows * (time - 1), d]."""
    hidden = Decoder(model.cfg).apply(model.variables, batch.tokens, batch.segment_ids)
    return hidden[:, :-1].reshape(-1, model.cfg.width)
