"""The policy-gradient loss against that of TRL's GRPOTrainer itself; runs where TRL is installed.

The trainer and its model are real, though tiny; what is compared is its loss of given completions.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.rl.aggregation import aggregate
from sleep_jax.rl.algorithms import surrogate
from sleep_jax.rl.kl import kl_estimate

trl = pytest.importorskip("trl", reason="compares with TRL's own loss")
torch = pytest.importorskip("torch")
pytest.importorskip("datasets")

VOCAB, ROWS, PROMPT, NEW, BETA = 24, 4, 3, 6, 0.05


@pytest.fixture(scope="module")
def model():
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=1,
    )
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def tokenizer():
    import tokenizers
    import transformers

    words = {"<pad>": 0, "<end>": 1} | {f"w{i}": i for i in range(2, VOCAB)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


@pytest.fixture(scope="module")
def case(model):
    """Inputs of TRL's loss; the old and the reference policy are a little off the present one."""
    torch.manual_seed(1)
    prompts, completions = (torch.randint(2, VOCAB, (ROWS, n)) for n in (PROMPT, NEW))
    lengths = torch.tensor([NEW, 2, 4, 1])
    mask = (torch.arange(NEW) < lengths[:, None]).int()
    with torch.no_grad():
        logits = model(torch.cat([prompts, completions], 1)).logits[:, PROMPT - 1 : -1]
    present = torch.log_softmax(logits, -1).gather(-1, completions[..., None])[..., 0]
    return {
        "prompt_ids": prompts,
        "prompt_mask": torch.ones_like(prompts),
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": torch.tensor([1.0, -0.5, -1.0, 0.5]),
        "old_per_token_logps": present + 0.3 * torch.randn(ROWS, NEW),
        "ref_per_token_logps": present + 0.3 * torch.randn(ROWS, NEW),
        "num_items_in_batch": mask.sum(),
    }


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("name", ["group", "grpo", "dr_grpo", "dapo", "gspo"])
def test_loss_and_gradient_equal_those_of_grpo_trainer(
    name, beta, model, tokenizer, case, tmp_path
):
    from datasets import Dataset

    kinds = {"group": "bnpo", "gspo": "grpo"}
    algorithm = surrogate(name, **({"length": NEW} if name == "dr_grpo" else {}))
    args = trl.GRPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=ROWS,
        num_generations=2,
        max_completion_length=NEW,
        report_to="none",
        beta=0.0,
        loss_type=kinds.get(name, name),
        importance_sampling_level=algorithm.level,
        epsilon=algorithm.clip,
        epsilon_high=algorithm.clip_high,
        use_bias_correction_kl=False,
    )
    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=args,
        train_dataset=Dataset.from_dict({"prompt": ["w2 w3 w4"] * ROWS}),
        processing_class=tokenizer,
    )
    # No reference model is needed: its log-probs are given.
    trainer.beta = beta
    trainer.current_gradient_accumulation_steps = 1
    recorded = {}
    score = trainer._get_per_token_logps_and_entropies

    def record(*inputs, **settings):
        log_probs, *rest = score(*inputs, **settings)
        log_probs.retain_grad()
        recorded["log_probs"] = log_probs
        return log_probs, *rest

    trainer._get_per_token_logps_and_entropies = record
    model.train()
    want = trainer._compute_loss(model, case)
    want.backward()

    old, reference, advantages = (
        jnp.asarray(case[key].numpy())
        for key in ("old_per_token_logps", "ref_per_token_logps", "advantages")
    )
    mask = jnp.asarray(case["completion_mask"].numpy(), bool)

    def loss(log_probs):
        (total, count), metrics = algorithm.loss(log_probs, old, advantages, mask)
        penalty, _ = aggregate(
            kl_estimate(log_probs, reference, mask),
            mask,
            aggregation=algorithm.aggregation,
            length=algorithm.length,
        )
        return (total + beta * penalty) / count, metrics

    present = jnp.asarray(recorded["log_probs"].detach().numpy())
    (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(present)
    np.testing.assert_allclose(value, want.item(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient, recorded["log_probs"].grad.numpy(), rtol=1e-3, atol=1e-6)
    assert 0 < metrics["clip_fraction"] < 1  # some tokens are clipped, not all
