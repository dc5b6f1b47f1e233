"""Trials by PEFT and `transformers` (PyTorch), one after the other: a fresh LoRA adapter learns a
dream and answers, then it is unloaded.
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers_runner import llama
from turns import Turns

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def computed(result):
    """The result, once the device has computed it."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return result


def main():
    """Does `trials` trials a step."""
    peak = torch.cuda.max_memory_allocated if DEVICE == "cuda" else None
    turns = Turns("torch", "transformers", "peft", peak=peak)
    spec = turns.spec
    base = llama(spec).to(DEVICE)
    adapter = LoraConfig(
        r=spec.rank,
        lora_alpha=2 * spec.rank,
        target_modules=[f"{target}_proj" for target in spec.targets],
        task_type="CAUSAL_LM",
    )

    def tokens(*shape):
        return torch.randint(2, spec.vocab, shape, device=DEVICE)

    dreams = tokens(spec.trials, 1, spec.time)
    prompts = tokens(spec.trials, spec.questions, spec.prompt)

    def train(dream):
        model = get_peft_model(base, adapter).train()
        weights = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(weights, lr=1e-3)
        for _ in range(spec.epochs):
            model(input_ids=dream, labels=dream).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return model.eval()

    @torch.inference_mode()
    def answer(model, prompt):
        return model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=spec.new,
            min_new_tokens=spec.new,
            do_sample=False,
        )

    train, answer = turns.timed("train", train, computed), turns.timed("answer", answer, computed)

    def step():
        count = spec.trials if turns.is_warm else 1
        for dream, prompt in zip(dreams[:count], prompts[:count]):
            model = train(dream)
            assert answer(model, prompt).shape == (spec.questions, spec.prompt + spec.new)
            model.unload()

    turns.serve(step)


if __name__ == "__main__":
    main()
