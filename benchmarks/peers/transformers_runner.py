"""Sampling by `transformers` (PyTorch)."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from turns import Turns


def llama(spec) -> LlamaForCausalLM:
    """The shape of the spec with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=spec.vocab,
        hidden_size=spec.width,
        intermediate_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config).to(getattr(torch, spec.dtype)).eval()


def main():
    """Completes `rows` prompts a step."""
    turns = Turns("torch", "transformers")
    spec = turns.spec
    model = llama(spec)
    prompts = torch.randint(2, spec.vocab, (spec.rows, spec.prompt))
    settings = {"do_sample": False}
    if spec.temperature > 0:
        settings = {"do_sample": True, "temperature": spec.temperature, "top_k": 0, "top_p": 1.0}

    @torch.inference_mode()
    def step():
        out = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=spec.new,
            min_new_tokens=spec.new,
            **settings,
        )
        assert out.shape == (spec.rows, spec.prompt + spec.new)

    turns.serve(step)


if __name__ == "__main__":
    main()
