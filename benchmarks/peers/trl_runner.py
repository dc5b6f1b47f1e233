"""One training step of a TRL trainer: DistillationTrainer, SDFTTrainer or GRPOTrainer.

The trainer's own loop runs; between its steps it waits for its turn. A LoRA adapter on the MLP
learns; lengths are exact, since no completion may end early.
"""

import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, TrainerCallback
from transformers_runner import llama
from trl import DistillationConfig, DistillationTrainer, GRPOConfig, GRPOTrainer
from trl.experimental.sdft import SDFTConfig, SDFTTrainer
from turns import Turns

MANY = 4096  # prompts, and steps that the loop would take


def words(spec) -> PreTrainedTokenizerFast:
    """A tokenizer whose word `t7` is token 7; 0 pads and 1 ends."""
    vocabulary = {"<pad>": 0, "<end>": 1} | {f"t{i}": i for i in range(2, spec.vocab)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )


def texts(spec, length: int) -> list[str]:
    """Random prompts."""
    tokens = torch.randint(2, spec.vocab, (MANY, length))
    return [" ".join(f"t{t}" for t in row) for row in tokens.tolist()]


def reward(completion_ids, **_) -> list[float]:
    """A reward without cost: the parity of the first token."""
    return [float(ids[0] % 2) for ids in completion_ids]


class OneAtATime(TrainerCallback):
    """Ends a turn with every step of the trainer."""

    def __init__(self, turns: Turns):
        self._turns = turns

    def on_step_end(self, args, state, control, **_):
        """Waits for the next turn; without one, training ends."""
        control.should_training_stop = not self._turns.next()


def trainer_of(turns: Turns, folder: str):
    """The trainer that the spec's task names."""
    spec = turns.spec
    path = str(Path(folder, "model"))
    llama(spec).save_pretrained(path)
    loading = {"dtype": spec.dtype}
    settings = {
        "output_dir": folder,
        "use_cpu": True,
        "per_device_train_batch_size": spec.rows,
        "max_steps": MANY,
        "max_completion_length": spec.new,
        "generation_kwargs": {"min_new_tokens": spec.new},
        "bf16": spec.dtype == "bfloat16",
        "gradient_checkpointing": spec.checkpointing,
        "learning_rate": 1e-4,
        "model_init_kwargs": loading,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    columns = {"prompt": texts(spec, spec.prompt)}
    common = {
        "model": path,
        "processing_class": words(spec),
        "callbacks": [OneAtATime(turns)],
        "peft_config": LoraConfig(
            r=spec.rank,
            lora_alpha=2 * spec.rank,
            target_modules=["gate_proj", "up_proj", "down_proj"],
            task_type="CAUSAL_LM",
        ),
    }
    if spec.task == "distillation":
        args = DistillationConfig(**settings, teacher_model_init_kwargs=dict(loading))
        data = Dataset.from_dict(columns)
        trainer = DistillationTrainer(teacher_model=path, args=args, train_dataset=data, **common)
        trainer._generate_single_turn = turns.timed("rollout", trainer._generate_single_turn)
        time_without_gradient(turns, trainer, "_get_last_hidden_state")
    elif spec.task == "sdft":
        args = SDFTConfig(**settings, num_generations=spec.group)
        data = Dataset.from_dict(columns | {"privileged_context": texts(spec, spec.document)})
        trainer = SDFTTrainer(args=args, train_dataset=data, **common)
        trainer._generate = turns.timed("rollout", trainer._generate)
        time_without_gradient(turns, trainer, "_forward_logits")
    else:
        args = GRPOConfig(**settings, num_generations=spec.group, beta=spec.kl)
        data = Dataset.from_dict(columns)
        trainer = GRPOTrainer(reward_funcs=reward, args=args, train_dataset=data, **common)
        trainer._generate_single_turn = turns.timed("rollout", trainer._generate_single_turn)
        time_without_gradient(turns, trainer, "_get_per_token_logps_and_entropies")
    return trainer


def time_without_gradient(turns: Turns, trainer, name: str) -> None:
    """Counts a method's calls without gradient as the teacher's (or reference's) phase."""
    method = getattr(trainer, name)
    scoring = turns.timed("teacher", method)

    def either(*args, **kwargs):
        return (method if torch.is_grad_enabled() else scoring)(*args, **kwargs)

    setattr(trainer, name, either)


def main():
    """Trains, a step a turn."""
    turns = Turns("torch", "transformers", "trl")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(turns, folder)
        if turns.next():
            trainer.train()


if __name__ == "__main__":
    main()
