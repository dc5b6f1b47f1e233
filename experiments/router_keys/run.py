"""How well initial router keys tell documents apart on a real model; only forward passes.

    python experiments/router_keys/run.py [--documents samples:6] [--model SmolLM2-135M-Instruct]

For every document a key is made from what its night would learn without generated questions
(recitation and cues) and from rehearsals. Prints, for thirds of the layers, on how many tokens the
gate of a slot is above 1/2, and on how many tokens of its own document's questions a slot has the
largest score of all slots. Tokens of the header that all prompts begin with are left out.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from sleep_jax.data.batches import bucket, pad
from sleep_jax.data.documents import read_anchors, read_rehearsal_topics, read_source
from sleep_jax.interop.load import load_model
from sleep_jax.interop.prompts import Prompts
from sleep_jax.memory.memory_config import LevelConfig, MemoryConfig
from sleep_jax.memory.slots import INITIAL_BIAS, init_memory
from sleep_jax.models.decoder import Decoder
from sleep_jax.seeding.router_key import discriminant
from sleep_jax.study import self_study
from sleep_jax.study.study_config import StudyConfig

ROWS = 8  # sequences whose hidden states are computed at a time
KEYS = ("mean", "contrast", "contrast, earlier questions known")
COLUMNS = (
    *("keys", "study of its document", "its questions", "others' questions", "anchor texts"),
    *("anchor questions", "rehearsals", "largest on its questions"),
)


def texts_of(documents, prompts: Prompts, rehearsed) -> dict:
    """Token sequences: {(kind, index of the document or None): [sequences]}. Of each document's
    questions the first half may be asked again on later nights, and the second half measures.
    """
    rng, texts = np.random.default_rng(0), {("rehearsals", None): rehearsed}
    for i, document in enumerate(documents):
        study = self_study.recite([document], prompts, 1)
        study += self_study.complete([document], prompts, 2, rng)
        texts["study", i] = [e.student + e.completion for e in study]
        half = len(document.questions) // 2
        for kind, part in (("asked", slice(half)), ("questions", slice(half, None))):
            texts[kind, i] = [
                prompts.without_context(wording) + prompts.reply(q.answer)
                for q in document.questions[part]
                for wording in (q.question, q.paraphrase)
                if wording
            ]
    anchors = read_anchors()
    texts["anchor texts", None] = [prompts.plain(text) for text in anchors.texts]
    texts["anchor questions", None] = [
        prompts.without_context(q.question) + prompts.reply(q.answer) for q in anchors.questions
    ]
    return texts


def inputs_of(cfg, variables, sequences) -> list[np.ndarray]:
    """The inputs of level 1 along each sequence, float16 [layers, time, d]."""

    @jax.jit
    def forward(tokens, mask):
        _, sown = Decoder(cfg).apply(variables, tokens, mask, mutable=["intermediates"])
        [h] = sown["intermediates"]["layers"]["level_1"]["input"]
        return h.astype(jnp.float16)

    out = [None] * len(sequences)
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for start in range(0, len(by_length), ROWS):
        part = by_length[start : start + ROWS]
        rows = [sequences[i] for i in part]
        rows += [rows[0]] * (ROWS - len(rows))
        hidden = np.asarray(forward(*pad(rows, bucket(max(map(len, rows)), 32))))
        for i, h in zip(part, hidden.swapaxes(0, 1)):
            out[i] = h[:, : len(sequences[i])]
    return out


def moments(parts):
    """(tokens, mean [layers, d], scatter about it [layers, d, d]) of all tokens of some inputs."""
    h = np.concatenate(parts, axis=1).astype(np.float32)
    centred = h - (mean := h.mean(1))[:, None]
    return h.shape[1], mean, centred.swapaxes(1, 2) @ centred


def keys_of(kind: str, inputs: dict, documents: int):
    """Key and bias of a slot for each document: [documents, layers, d], [documents, layers]."""
    keys, biases = [], []
    for i in range(documents):
        known = list(inputs["rehearsals", None])
        if kind == KEYS[2]:
            known += [h for earlier in range(i) for h in inputs["asked", earlier]]
        n_known, m_known, s_known = moments(known)
        n_new, m_new, s_new = moments(inputs["study", i])
        total = n_known + n_new
        if kind == "mean":
            keys.append((n_known * m_known + n_new * m_new) / total)
            biases.append(np.full(len(m_new), INITIAL_BIAS))
        else:
            leaves = discriminant(m_new, m_known, s_new + s_known, jnp.float32(total))
            keys.append(np.asarray(leaves["key"]))
            biases.append(np.asarray(leaves["bias"]))
    return np.stack(keys), np.stack(biases)


def shares(inputs: dict, keys, biases, header: int) -> list[np.ndarray]:
    """Shares of tokens for `COLUMNS`, in each layer: float [layers]."""

    def scores(kind, document=None):
        """[documents, layers, tokens]"""
        h = np.concatenate([x[:, header:] for x in inputs[kind, document]], axis=1)
        score = np.einsum("ltd,sld->slt", h.astype(np.float32), keys, optimize=True)
        return score * h.shape[-1] ** -0.5 + biases[..., None]

    documents = range(len(keys))
    questions = [scores("questions", i) for i in documents]
    others = [(np.delete(questions[i], i, axis=0) > 0).mean((0, 2)) for i in documents]
    return [
        np.mean([(scores("study", i)[i] > 0).mean(-1) for i in documents], axis=0),
        np.mean([(questions[i][i] > 0).mean(-1) for i in documents], axis=0),
        np.mean(others, axis=0),
        *((scores(kind) > 0).mean((0, 2)) for kind in ("anchor texts", "anchor questions")),
        (scores("rehearsals") > 0).mean((0, 2)),
        np.mean([(questions[i].argmax(0) == i).mean(-1) for i in documents], axis=0),
    ]


def table(inputs: dict, documents: int, header: int) -> str:
    """Markdown; cells are percent of tokens in the lower, middle and upper third of the layers."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for kind in KEYS:
        measured = shares(inputs, *keys_of(kind, inputs, documents), header)
        cells = [
            " / ".join(f"{100 * third.mean():.0f}" for third in np.array_split(layers, 3))
            for layers in measured
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--documents", default="samples:6")
    parser.add_argument("--model", default="SmolLM2-135M-Instruct")
    args = parser.parse_args()
    memory = MemoryConfig((LevelConfig(slots=1, rank=1),))
    cfg, params, tokenizer = load_model(args.model, dtype="float32", memory=memory, remat="none")
    weights, slots = init_memory(jax.random.key(0), memory, layers=cfg.layers, width=cfg.width)
    params = jax.tree.map(jnp.asarray, params)
    variables = {"params": params, "memory": weights, "slots": slots}
    documents = read_source(args.documents).chunk(256, tokenizer.encode).documents
    study, topics = StudyConfig(rehearsals=1), read_rehearsal_topics()
    rehearsed = self_study.rehearse(cfg, variables, tokenizer, topics, study, jax.random.key(1))
    prompts = Prompts(tokenizer)
    texts = texts_of(documents, prompts, [e.student + e.completion for e in rehearsed])
    hidden = iter(inputs_of(cfg, variables, [x for part in texts.values() for x in part]))
    inputs = {name: [next(hidden) for _ in part] for name, part in texts.items()}
    print(table(inputs, len(documents), len(prompts.shared_prefix)))


if __name__ == "__main__":
    main()
