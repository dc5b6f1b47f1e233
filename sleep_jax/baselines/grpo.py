"""GRPO (Shao et al. 2024, DeepSeekMath, arXiv 2402.03300): a policy gradient on a reward function.

    def reward(prompt, completion):                       # index of the prompt, what was sampled
        return float(answers[prompt] in tokenizer.reply_text(completion.tokens))

    model = grpo(model, Leaves("lora/.*"), prompts, reward, GRPOConfig(), rng=rng)

Each update samples a group of completions of each of a few prompts from the model as it is, and
learns from them once. Advantages, loss and penalty are those of `sleep_jax.rl`, so that Dr. GRPO,
DAPO, RLOO and REINFORCE are other values of `surrogate`. Prompts and a reward are kept, no text.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.baselines.finetune import Log, Loss, clipped_adam, finetune
from sleep_jax.baselines.model import Model, Trainable
from sleep_jax.baselines.sft import trains_base
from sleep_jax.data.batches import bucket, pad
from sleep_jax.data.examples import Examples
from sleep_jax.data.orders import in_turn
from sleep_jax.evals.likelihood import log_probs, log_probs_with_head
from sleep_jax.rl.algorithms import Surrogate, surrogate
from sleep_jax.sampling.generate import Completion, generate
from sleep_jax.sampling.sampler import SamplingConfig
from sleep_jax.services import MidPhaseCheckpoint
from sleep_jax.settings import Settings, part, setting

Reward = Callable[[int, Completion], float]


def deepseek_math() -> Surrogate:
    """GRPO with the KL penalty of DeepSeekMath."""
    return surrogate("grpo", kl_coef=0.04)


@dataclasses.dataclass(frozen=True)
class GRPOConfig(Settings, section="grpo"):
    """How a policy is trained. The defaults are DeepSeekMath's: 1,024 completions of 1,024 tokens
    an update; it does not state how many updates there were, nor a clipping of gradients: these
    are the paper's (500, Table 5) and TRL's.

    Attributes:
      surrogate: how rewards become a policy gradient.
    """

    steps: int = setting(500, "updates", least=1)
    prompts: int = setting(16, "prompts of an update", least=1)
    num_generations: int = setting(64, "completions of a prompt, compared with each other", least=2)
    max_new_tokens: int = setting(1024, "longest completion, in tokens", least=1)
    temperature: float = setting(1.0, "temperature of completions", above=0)
    learning_rate: float = setting(1e-6, "Adam's rate", above=0)
    max_grad_norm: float = setting(1.0, "largest norm of the gradient; 0: any", least=0)
    accumulate: int = setting(
        1, "parts of an update; the activations of one exist at a time", least=1
    )
    surrogate: Surrogate = part(Surrogate, deepseek_math)


@flax.struct.dataclass
class Rollouts:
    """Completions of an update, a row each, groups next to each other.

    Attributes:
      examples: [rows, time], the tokens that the policy wrote are scored.
      learnt: bool [rows, time], those that are learnt from.
      advantages, rewards: float32 [rows].
      reference: float32 [rows, time], log-probabilities by the model before training; 0 without a
        penalty.
    """

    examples: Examples
    learnt: jax.Array
    advantages: jax.Array
    rewards: jax.Array
    reference: jax.Array


def grpo(
    model: Model,
    trainable: Trainable,
    prompts: Sequence[Sequence[int]],
    reward: Reward,
    config: GRPOConfig,
    *,
    rng: jax.Array,
    log: Log = lambda step, figures: None,
    checkpoint: MidPhaseCheckpoint | None = None,
) -> Model:
    """Trains a part of a model to be rewarded.

    Args:
      model: where training starts, with a tokenizer; with a penalty also its reference.
      trainable: what is trained.
      prompts: token prompts, taken in turn, in a new order each time.
      reward: of a completion, by the index of its prompt.
      config: how.
      rng: PRNG key of the order and of the completions.
      log: as for `finetune`, which see, with `reward`, a mean over completions, and `kl`, an
        estimate of the divergence from the reference.
      checkpoint: as for `finetune`.

    Raises:
      ValueError: there is no prompt.
    """
    if not prompts:
        raise ValueError("no prompt to be rewarded for; give some")
    options = config.surrogate
    sampling = SamplingConfig(
        config.max_new_tokens,
        model.tokenizer.eos_ids,
        temperature=config.temperature,
        num_generations=config.num_generations,
    )
    width = bucket(max(map(len, prompts)))
    order_key, sampling_key = jax.random.split(rng)

    def rollouts(step: int, policy: Model) -> Rollouts:
        chosen = in_turn(len(prompts), config.prompts, step, order_key)
        groups = generate(
            policy.cfg,
            sampling,
            policy.variables,
            [prompts[i] for i in chosen],
            jax.random.fold_in(sampling_key, step),
            width=width,
        )
        rewards = np.array([[reward(i, x) for x in g] for i, g in zip(chosen, groups)], np.float32)
        advantages, tied = options.advantages(jnp.asarray(rewards))
        examples = _rows([prompts[i] for i in chosen], groups, width + config.max_new_tokens)
        finished = np.array([x.finished for group in groups for x in group])
        reference = jnp.zeros(examples.tokens.shape, jnp.float32)
        if options.needs_reference:
            reference = _log_probs(model.cfg, model.variables, examples)
        return Rollouts(
            examples,
            options.learning_mask(jnp.asarray(examples.mask), tied, jnp.asarray(finished)),
            advantages.reshape(-1),
            jnp.asarray(rewards.reshape(-1)),
            reference,
        )

    return finetune(
        model,
        trainable,
        policy_loss(options, trains_base(model, trainable)),
        rollouts,
        clipped_adam(config.learning_rate, config.max_grad_norm),
        steps=config.steps,
        accumulate=config.accumulate,
        log=log,
        checkpoint=checkpoint,
    )


@functools.cache  # one object a setting: for any other, all is compiled anew
def policy_loss(options: Surrogate, trains_head: bool) -> Loss:
    """The loss of `Rollouts`, by these choices; the policy that sampled them is the one that
    learns, so the ratio is 1 in the first and only update."""
    score = log_probs_with_head if trains_head else log_probs

    def loss(model: Model, batch: Rollouts, rng: jax.Array):
        (total, count), metrics = options.loss(
            score(model.cfg, model.variables, batch.examples),
            None,
            batch.advantages,
            batch.learnt,
            reference_log_probs=batch.reference,
        )
        figures = {"reward": (jnp.sum(batch.rewards), len(batch.rewards))}
        if options.needs_reference:
            tokens = jnp.sum(batch.learnt)
            figures["kl"] = (metrics["penalty"] * tokens, tokens)
        return total, count, figures

    return loss


def _rows(
    prompts: Sequence[Sequence[int]], groups: Sequence[Sequence[Completion]], time: int
) -> Examples:
    """Each prompt with each of its completions, padded on the right."""
    pairs = [(tuple(p), c.tokens) for p, group in zip(prompts, groups) for c in group]
    tokens, segments = pad([(*prompt, *completion) for prompt, completion in pairs], time)
    before, _ = pad([[1] * len(prompt) for prompt, _ in pairs], time)
    return Examples(tokens, segments, (segments > 0) & (before == 0))


_log_probs = functools.partial(jax.jit, static_argnames=("cfg",))(log_probs)
