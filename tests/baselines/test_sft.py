"""Supervised fine-tuning: the order of its rows, and its adapter beside that of a trial."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.baselines.model import Leaves, Model
from sleep_jax.baselines.sft import (
    FULL,
    SEAL_LORA,
    SFTConfig,
    cross_entropy_for,
    document_pairs,
    epochs,
    fine_tuned,
    rows_of,
    sft,
    text_pairs,
    with_lora,
    written_pairs,
)
from sleep_jax.data.documents import Document
from sleep_jax.data.examples import make_examples
from sleep_jax.dreaming.adapters import init_adapters
from sleep_jax.dreaming.trial import TrialConfig, train_adapters
from sleep_jax.interop.prompts import Prompts
from sleep_jax.models.decoder import Decoder, lm_logits
from sleep_jax.models.decoder_config import LoraConfig
from sleep_jax.seeding.sequences import Exchange

LORA = LoraConfig(rank=2, alpha=4.0, targets=("q", "down"))


def random_pairs(count):
    rng = np.random.default_rng(0)
    return [
        (tuple(rng.integers(0, 200, 3).tolist()), tuple(rng.integers(0, 200, 2 + n).tolist()))
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny


@pytest.mark.parametrize("batch_size", [2, 0])
def test_sft_trains_an_adapter_as_a_trial_does(model, batch_size):
    pairs, key = random_pairs(5), jax.random.key(3)
    shared = {"epochs": 3, "learning_rate": 1e-2, "schedule": "linear"}
    losses = []
    trained = sft(
        with_lora(model, LORA, key),
        Leaves("lora/.*"),
        pairs,
        SFTConfig(**shared, batch_size=batch_size),
        rng=key,
        log=lambda step, figures: losses.append(figures["loss"]),
    )
    assert len(losses) == 3 * (3 if batch_size else 1)
    trial = TrialConfig(**shared, batch_size=batch_size or 5)
    adapters, trial_losses = train_adapters(
        trained.cfg,
        trial,
        model.variables,
        init_adapters(trained.cfg, model.variables["params"], key, 1),
        make_examples([pairs], is_packed=False),
        rng=key,
    )
    np.testing.assert_allclose(losses, trial_losses[0], rtol=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y[:, 0], rtol=1e-3, atol=1e-5),
        trained.variables["lora"],
        adapters,
    )
    for x, y in zip(
        *map(jax.tree.leaves, (trained.variables["params"], model.variables["params"]))
    ):
        np.testing.assert_array_equal(x, y)


def test_with_lora_changes_nothing_yet(model):
    adapted = with_lora(model, LORA, jax.random.key(0))
    assert adapted.cfg.lora == LORA and model.cfg.lora != LORA
    assert not any(np.any(x["b"]) for group in adapted.variables["lora"]["layers"].values()
                   for x in group.values())  # fmt: skip


def test_document_pairs_ask_for_the_title_and_answer_with_the_text(model):
    tokenizer = model.tokenizer
    [(prompt, reply)] = document_pairs(
        Prompts(tokenizer), [Document("d", "The kiln", "It is hot.")]
    )
    assert "Tell me about The kiln." in tokenizer.decode(prompt)
    assert tokenizer.reply_text(reply) == "It is hot."


def test_epochs_have_every_row_once_each_time_in_another_order():
    rows = jax.tree.map(lambda x: x[0], make_examples([random_pairs(5)], is_packed=False))
    batches = list(epochs(rows, 3, 2, jax.random.key(0)))
    assert len(batches) == 9 and all(len(batch.tokens) == 2 for batch in batches)
    orders = []
    for epoch in (batches[:3], batches[3:6], batches[6:]):
        lengths = [int(n) for batch in epoch for n in batch.mask.sum(-1)]
        assert lengths[-1] == 0  # fills up the last batch
        assert sorted(lengths[:-1]) == [2, 3, 4, 5, 6]
        orders.append(lengths)
    assert orders[0] != orders[1] != orders[2]
    [whole] = epochs(rows, 1, 8, jax.random.key(0))
    assert whole.mask.sum(-1).tolist() == [2, 3, 4, 5, 6, 0, 0, 0]


def test_sft_without_a_reply_is_refused(model):
    with pytest.raises(ValueError, match="no pair to learn from has a reply"):
        sft(model, Leaves("params/.*"), [((1, 2), ())], SFTConfig(), rng=jax.random.key(0))


def plain_loss(model, params, rows):
    """Mean cross-entropy of the labels, from whole logits."""
    hidden = Decoder(model.cfg).apply({"params": params}, rows.tokens, rows.segment_ids)
    log_p = jax.nn.log_softmax(lm_logits(model.cfg, params, hidden[:, :-1]))
    nats = -jnp.take_along_axis(log_p, rows.tokens[:, 1:, None], -1)[..., 0]
    return jnp.sum(nats * rows.mask[:, 1:]) / rows.mask.sum()


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_full_fine_tuning_has_the_whole_gradient_the_head_included(model, tied):
    cfg, params = model.cfg.replace(tie_embeddings=tied), model.variables["params"]
    if not tied:
        params = params | {"head": {"kernel": 0.5 * params["embed"]["embedding"].T}}
    whole, rows = Model(cfg, {"params": params}), rows_of(random_pairs(3))
    loss = cross_entropy_for(whole, Leaves("params/.*"))

    def mean(params):
        total, count = loss(whole.replace(variables={"params": params}), rows, None)
        return total / count

    want = jax.grad(lambda p: plain_loss(whole, p, rows))(params)
    for got, leaf in zip(jax.tree.leaves(jax.grad(mean)(params)), jax.tree.leaves(want)):
        np.testing.assert_allclose(got, leaf, rtol=1e-4, atol=1e-6)
        assert np.any(leaf)


def test_fine_tuned_trains_all_weights_or_an_adapter_of_its_rank_that_goes_on(model):
    pairs, key = random_pairs(3), jax.random.key(0)
    config = SFTConfig(steps=2, batch_size=2)
    full = fine_tuned(model, pairs, config, lora=None, rng=key)
    changed = jax.tree.map(lambda x, y: bool(np.any(x != y)), full.variables, model.variables)
    assert all(jax.tree.leaves(changed)) and "lora" not in full.variables
    adapted = fine_tuned(model, pairs, config, rng=key)
    q = adapted.variables["lora"]["layers"]["attention"]["q"]
    assert q["a"].shape[-1] == q["b"].shape[-2] == SEAL_LORA.rank and np.any(q["b"])
    again = fine_tuned(adapted, pairs, config, rng=key)
    assert again.cfg == adapted.cfg
    assert np.any(again.variables["lora"]["layers"]["attention"]["q"]["b"] != q["b"])
    with pytest.raises(ValueError, match=r"the model has an adapter of .*rank=32.*give the same"):
        fine_tuned(adapted, pairs, config, lora=LORA, rng=key)


def test_sft_config_counts_updates_by_epochs_or_steps():
    assert FULL.updates(9) == 4 * 2 and FULL.passes(9) == 4
    config = SFTConfig(steps=5, batch_size=4)
    assert config.updates(9) == 5 and config.passes(9) == 2 and config.passes(400) == 1


def test_pairs_of_text_and_of_exchanges(model):
    prompts, document = Prompts(model.tokenizer), Document("d", "The kiln", "It is hot.")
    [(first, rest)] = text_pairs(prompts, [document])
    assert (
        model.tokenizer.decode((*first, *rest)) == "The kiln\n\nIt is hot.\n\n" and len(first) == 1
    )
    exchange = Exchange(0, (1, 2), (1, 2, 3), (4, 5), "answer")
    assert written_pairs([exchange]) == [((1, 2), (4, 5))]
