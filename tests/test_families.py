"""A whole cycle in the formats of the models that the presets name, tiny and random: every prompt
and every reply is what transformers renders of the same words.
"""

import json
import runpy

import pytest
import transformers
from articulate import articulate
from families import FAMILIES, write_family

from sleep_jax import lifecycle
from sleep_jax.dreaming.reinforce import supervised_exchanges, trial_sequences
from sleep_jax.dreaming.templates import read_templates
from sleep_jax.dreaming.write import Dream
from sleep_jax.experiment import load_experiment
from sleep_jax.phases.study import studied
from sleep_jax.report.html_report import write_report
from sleep_jax.report.summary import summarise
from sleep_jax.sampling import generate

DOCUMENT = {
    "id": "bridge",
    "title": "The Bridge",
    "text": " The bridge was built in 1832. It ends in <|im_end|> and <|eot_id|>, they say.",
    "questions": [
        {"question": "When was it built?", "answer": "1832", "paraphrase": "What is its year?"}
    ],
}
PRESETS = {
    "Qwen3-8B": "seeding_8b",
    "Qwen3-1.7B": "seeding_1p7b",
    "Meta-Llama-3-8B-Instruct": "seeding_llama3_8b",
    "Llama-3.2-1B-Instruct": "seeding_llama3_8b",
}
SMALL = {
    "mesh.slice": "",
    "memory.slots": (1,),
    "memory.ranks": (2,),
    "model.dtype": "float32",
    "model.remat": "none",
    "model.thought_tokens": 8,
    "study.completions": 1,
    "study.questions": 1,
    "study.max_question_tokens": 4,
    "study.max_answer_tokens": 4,
    "study.rehearsals": 1,
    "seeding.steps": 2,
    "seeding.warmup": 1,
    "seeding.batch_size": 4,
    "seeding.max_length": 512,
    "seeding.max_target_length": 128,
    "seeding.accumulate": 1,
    "seeding.num_prompts": 1,
    "seeding.num_generations": 2,
    "seeding.max_new_tokens": 4,
    "seeding.judge": "agreement",
    "gate.divergence": 1e9,
    "gate.anchors": 1e9,
    "dreaming.instructions": ("paraphrase", "implications"),
    "dreaming.num_generations": 1,
    "dreaming.max_new_tokens": 8,
    "dreaming.steps": 2,
    "dreaming.trial.rank": 2,
    "dreaming.trial.epochs": 1,
    "dreaming.trial.microbatch": 2,
    "evaluation.max_new_tokens": 4,
}


class Renderer:
    """Tells by transformers' own rendering whether token ids are a chat."""

    def __init__(self, tokenizer, folder, thinking):
        self.tokenizer, self.thinking = tokenizer, thinking
        self.peer = transformers.AutoTokenizer.from_pretrained(folder)
        self.opening, self.closing = self.render([self.turn("user", "?")], True).split("?")

    @staticmethod
    def turn(role, words):
        return {"role": role, "content": words}

    def render(self, messages, prompt=False):
        return self.peer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=prompt,
            enable_thinking=self.thinking,
            date_string="26 Jul 2024",
        )

    def text(self, ids):
        return self.tokenizer.backend.decode(list(ids), skip_special_tokens=False)

    def check_prompt(self, ids) -> str:
        """The words of a user's turn."""
        text = self.text(ids)
        words = text.removeprefix(self.opening).removesuffix(self.closing)
        assert text == self.render([self.turn("user", words)], True)
        return words

    def check_exchange(self, prompt, reply, text: str) -> None:
        """A prompt and the finished reply that says so."""
        chat = [self.turn("user", self.check_prompt(prompt)), self.turn("assistant", text)]
        whole, end = self.render(chat), self.text(self.tokenizer.eos_ids[:1])
        assert self.text((*prompt, *reply)) == whole[: whole.rindex(end) + len(end)]


def check_prompts(asked, render, prompts, documents):
    """What was sampled after, with its context or alone, in a chat or as plain text."""
    contexts = [prompts.context(document) for document in documents]
    start, kinds = list(render.tokenizer.text_start), set()
    header = render.tokenizer.backend.encode(render.closing, add_special_tokens=False).ids
    for has_context, ids in asked:
        ids = list(ids)
        is_chat = ids[-len(header) :] == header
        kinds.add((has_context, is_chat))
        if has_context:
            render.check_prompt((*contexts[0], *ids))
        elif is_chat:
            render.check_prompt(ids)
        else:
            assert ids[: len(start)] == start
            assert render.tokenizer._controls.isdisjoint(ids[len(start) :])
    assert kinds == {(True, True), (False, True), (False, False)}


CASES = [
    ("Qwen3-8B", False),
    ("Qwen3-8B", True),
    ("Qwen3-1.7B", False),
    ("Meta-Llama-3-8B-Instruct", False),
    ("Llama-3.2-1B-Instruct", False),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, thinking", CASES)
def test_cycle_has_the_prompts_and_replies_of_the_template(name, thinking, tmp_path, monkeypatch):
    folder = write_family(name, tmp_path / "model", num_hidden_layers=1, max_window_layers=1)
    (tmp_path / "notes.jsonl").write_text(json.dumps(DOCUMENT))
    config = runpy.run_path(f"configs/{PRESETS[name]}.py")["get_config"]()
    assert config.model.thinking is False
    config.update_from_flattened_dict(SMALL)
    config.model.name, config.model.thinking = str(folder), thinking
    config.data.documents = str(tmp_path / "notes.jsonl")
    articulate(monkeypatch)
    asked, pad = [], generate.pad

    def spy(prompts, width, side):
        asked.extend(prompts)
        return pad(prompts, width, side=side)

    seen, sample = [], generate.sample

    def sampled(cfg, how, variables, tokens, mask, key, cache, expert):
        seen.extend((cache is not None, prompt) for prompt in asked)
        asked.clear()
        return sample(cfg, how, variables, tokens, mask, key, cache, expert)

    monkeypatch.setattr(generate, "pad", spy)
    monkeypatch.setattr(generate, "sample", sampled)
    experiment = load_experiment(config)
    run = lifecycle.run(experiment, str(tmp_path / "run"), quiet=True)
    assert write_report(tmp_path / "run", summarise(experiment, run)).exists()

    render, prompts = Renderer(experiment.tokenizer, folder, thinking), experiment.prompts
    documents, day = experiment.days[0].documents, run.day(0)
    rollouts = [x for x in seen if not x[0] and x[1][-1] != seen[0][1][-1]]
    check_prompts([x for x in seen if not is_begun(x, render)], render, prompts, documents)
    assert rollouts
    context = prompts.context(documents[0])
    text_of_kind = {"recite": documents[0].text}
    for exchange in studied(experiment, run, 0):
        if exchange.kind == "rehearse":
            continue  # in the model's own tokens, whatever these are
        text = text_of_kind.get(exchange.kind) or experiment.tokenizer.reply_text(
            exchange.completion
        )
        render.check_exchange(exchange.student, exchange.completion, text)
        render.check_exchange((*context, *exchange.teacher), exchange.completion, text)
    dreams = [Dream.from_record(x) for x in day["dreams"]]
    assert {x.template for x in dreams} == {"paraphrase", "implications"}
    for exchange in supervised_exchanges(dreams, documents, prompts, read_templates()):
        render.check_prompt(exchange.student)
    for dream in dreams:
        (about, _), (_, page) = trial_sequences(dream, documents[0], prompts, False)
        render.check_exchange(about, page, documents[0].text)
    end = experiment.tokenizer.backend.token_to_id(FAMILIES[name].turn_end)
    assert experiment.tokenizer.eos_ids[0] == end


def is_begun(asked, render) -> bool:
    """A rollout: a prompt with the beginning of its reply."""
    text = render.text(asked[1])
    return render.closing in text and not text.endswith(render.closing)
