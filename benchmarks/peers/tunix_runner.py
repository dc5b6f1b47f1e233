"""Tunix: its sampler, or one step of its GRPO learner with a LoRA adapter on the MLP."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import qwix
from flax import nnx
from tunix.generate.sampler import CacheConfig, Sampler
from tunix.models.llama3.model import Llama3, ModelConfig
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rl_cluster import ClusterConfig, RLCluster, RLTrainingConfig, Role
from tunix.rl.rollout.base_rollout import RolloutConfig
from turns import Turns


class Words:
    """A tokenizer whose word `t7` is token 7; no word ends a turn, and prompts begin with none."""

    def __init__(self, vocab: int):
        self._vocab = vocab

    def encode(self, text: str, **_) -> list[int]:
        """Words to tokens."""
        return [int(word[1:]) for word in text.split()]

    def decode(self, ids, **_) -> str:
        """Tokens to words."""
        return " ".join(f"t{i}" for i in ids)

    def bos_id(self) -> int:
        """None."""
        return 0

    def pad_id(self) -> int:
        """Token 0."""
        return 0

    def eos_id(self) -> int:
        """Outside of the vocabulary."""
        return self._vocab


def llama(spec) -> Llama3:
    """The shape of the spec with random weights; Tunix fixes the rotary base."""
    config = ModelConfig(
        num_layers=spec.layers,
        vocab_size=spec.vocab,
        embed_dim=spec.width,
        hidden_dim=spec.hidden,
        num_heads=spec.heads,
        head_dim=spec.head_dim,
        num_kv_heads=spec.kv_heads,
        rope_theta=int(spec.rope_theta),
        norm_eps=1e-5,
        weight_tying=True,
    )
    model = Llama3(config, rngs=nnx.Rngs(0))
    if spec.dtype != "float32":
        dtype = jnp.dtype(spec.dtype)
        nnx.update(model, jax.tree.map(lambda x: x.astype(dtype), nnx.state(model)))
    return model


def prompts_of(spec, rows: int) -> list[str]:
    """Random prompts."""
    tokens = np.random.default_rng(0).integers(2, spec.vocab, (rows, spec.prompt))
    return [" ".join(f"t{t}" for t in row) for row in tokens]


def sampler(turns: Turns) -> None:
    """Completes `rows` prompts a step."""
    spec = turns.spec
    cache = CacheConfig(spec.prompt + spec.new, spec.layers, spec.kv_heads, spec.head_dim)
    sample, prompts = Sampler(llama(spec), Words(spec.vocab), cache), prompts_of(spec, spec.rows)
    settings = {} if spec.temperature == 0 else {"temperature": spec.temperature, "top_p": 1.0}
    count = itertools.count()

    def step():
        out = sample(
            prompts,
            max_generation_steps=spec.new,
            max_prompt_length=spec.prompt,
            eos_tokens=[spec.vocab],
            seed=next(count),
            **settings,
        )
        jax.block_until_ready(out.tokens)
        assert all(len(tokens) == spec.new for tokens in out.tokens)

    turns.serve(step)


def grpo(turns: Turns) -> None:
    """Runs the learner's own loop, which waits for its turn before every step."""
    spec = turns.spec
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), (jax.sharding.AxisType.Auto,) * 2)
    with mesh:
        reference = llama(spec)
        provider = qwix.LoraProvider(
            module_path=".*gate_proj|.*up_proj|.*down_proj", rank=spec.rank, alpha=2.0 * spec.rank
        )
        actor = qwix.apply_lora_to_model(reference, provider, **reference.get_model_input())
    cluster = RLCluster(
        actor=actor,
        reference=reference,
        tokenizer=Words(spec.vocab),
        cluster_config=ClusterConfig(
            role_to_mesh=dict.fromkeys((Role.ACTOR, Role.REFERENCE, Role.ROLLOUT), mesh),
            training_config=RLTrainingConfig(
                actor_optimizer=optax.adam(1e-4), eval_every_n_steps=1 << 30, max_steps=1 << 20
            ),
            rollout_config=RolloutConfig(
                max_tokens_to_generate=spec.new,
                max_prompt_length=spec.prompt,
                kv_cache_size=spec.prompt + spec.new,
                temperature=1.0,
                top_p=1.0,
                eos_tokens=[spec.vocab],
            ),
        ),
    )
    learner = GRPOLearner(
        cluster,
        GRPOConfig(num_generations=spec.group, beta=spec.kl),
        reward_fns=lambda prompts, completions, **_: [len(c) % 7 / 7 for c in completions],
    )
    wait = jax.block_until_ready
    cluster.generate = turns.timed("rollout", cluster.generate)
    cluster.get_ref_per_token_logps = turns.timed("teacher", cluster.get_ref_per_token_logps, wait)
    cluster.update_actor = turns.timed("update", cluster.update_actor)
    run = learner._run_global_step

    def one_at_a_time(*args):
        if not turns.next():
            raise StopIteration  # how its loop ends
        run(*args)
        wait(nnx.state(cluster.actor_trainer.model, nnx.LoRAParam))

    learner._run_global_step = one_at_a_time
    learner.train(
        itertools.repeat({"prompts": np.array(prompts_of(spec, spec.rows // spec.group))})
    )


if __name__ == "__main__":
    turns = Turns("google-tunix", "jax")
    {"sampler": sampler, "grpo": grpo}[turns.spec.task](turns)
