"""Rate and width: its text, its nights against those of the library, and its table."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sleep_jax.memory.slots import init_memory, take_slot, unlock
from sleep_jax.models.decoder import Decoder
from sleep_jax.seeding.consolidate import seed_slot
from sleep_jax.seeding.sequences import Teacher, make_batch, pack_exchanges
from sleep_jax.seeding.trunk import precompute
from sleep_jax.wake.context import read

EXPERIMENT = "rate_and_width"
MODULES = ("text", "base", "night", "figures", "run")


def test_pages_give_known_people_their_home(lab):
    text = lab.text
    pages = text.pages(np.random.default_rng(0), 20)
    assert pages.shape == (20, 1 + 2 * text.SENTENCES)
    homes = dict(zip(text.KNOWN, text.KNOWN_HOMES))
    for name, home in pages[:, 1:].reshape(-1, 2):
        assert text.FIRST_NAME <= name < text.FIRST_HOME <= home < text.VOCAB
        assert homes.get(name, home) == home


def test_exchanges_of_a_night_fill_one_batch(lab):
    day = lab.night.day_of(0)
    packed = pack_exchanges([*day.new, *day.known], lab.night.SHAPE)
    assert [len(row) for row in packed] == [20, 20]
    assert {e.document for e in day.new} == set(range(len(day.documents)))


@pytest.mark.slow
def test_night_in_one_program_is_that_of_seed_slot(lab):
    """Up to rounding, and the order of sequences in the batch."""
    cfg, rate, steps = lab.base.decoder_of(64, 4), 3e-3, 8
    day, rng = lab.night.day_of(0), jax.random.key(0)
    params = Decoder(cfg).init({"params": rng, "memory": rng}, jnp.zeros((1, 1), jnp.int32))[
        "params"
    ]
    memory, slots = init_memory(rng, cfg.memory, layers=cfg.layers, width=cfg.width)
    awake = {"params": params, "memory": memory, "slots": slots}
    student = awake | {"slots": unlock(slots, 1)[0]}
    teachers = [Teacher(cfg, awake, read(cfg, awake, [*day.documents, ()])[0])]
    exchanges, shape = [*day.new, *day.known], lab.night.SHAPE
    states = precompute(cfg, student, teachers, exchanges, shape)
    batch = make_batch(exchanges, states, pack_exchanges(exchanges, shape), shape)
    want = seed_slot(
        cfg,
        None,
        None,
        dataclasses.replace(lab.night.SEEDING, steps=steps, learning_rate=rate),
        student=student,
        teachers=teachers,
        level=1,
        index=0,
        exchanges=exchanges,
        rng=rng,
        log=lambda step, figures: None,
    )
    [got] = lab.night.seed_slots(cfg, steps, student, batch, jnp.asarray([rate]))["down"]
    np.testing.assert_allclose(got, take_slot(want["memory"], 1, 0)["down"], atol=2e-4)
    assert jnp.abs(got).max() > 5e-3


def test_report_names_the_best_rate(lab, tmp_path):
    figures = {
        "kl_before": 2.0, "known_kl": 0.01, "first_order_fall": 2.5, "open_book": 0.5,
        "recall_after": 0.5, "known_before": 1.0, "known_after": 1.0,
    }  # fmt: skip
    nights = [
        {"width": 64, "rank": 16, "seed": 0, "factor": f, "rate": 0.03 * f, "kl_after": after}
        | figures
        for f, after in ((0.5, 0.4), (1.0, 0.2), (2.0, 0.1))
    ]
    readme = tmp_path / "README.md"
    readme.write_text("before\n{}\nold\n{}\nafter\n".format(*lab.figures.MARKS))
    lab.figures.report(tmp_path, nights, readme)
    row = (
        "| 64 | 16 | 1 | 0.03 | 10.0% | 0.06 (x 2) | 5.0% | 2.5 | 0.0100 | 50%, 50% | 100%, 100% |"
    )
    assert row in readme.read_text()
    assert (tmp_path / "rates.svg").exists()
