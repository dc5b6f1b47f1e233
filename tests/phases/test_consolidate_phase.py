"""What the bar of a night shows."""

import types

import jax

from sleep_jax.phases import consolidate as module
from sleep_jax.runtime.progress import PhaseBar


def test_bar_shows_the_bound_and_no_reward_before_rollouts(monkeypatch):
    bar, shown = PhaseBar("consolidate", 4, "step"), []
    logger = types.SimpleNamespace(
        update=lambda *_: None,
        scalars=lambda *_: None,
        mid_phase=None,
        timer=None,
        time_estimate=None,
    )

    def run_consolidation(*_, log, **__):
        before = {"kl_before": 2.0, "first_order_fall": 0.456}
        log(-1, before)
        assert bar.words() == "kl before 2  first order fall 0.46 of it"
        assert before["first_order_fall"] == 0.456
        for number, metrics in enumerate(({}, {"reward": 0.25}, {})):
            log(number, {"kl_off": 1.0, **metrics})
            shown.append(bar.words().partition("reward ")[2])
        return "now", {"kl_before": 2.0, "kl_after": 1.5, "rolled_back": "too little"}

    monkeypatch.setattr(module, "run_consolidation", run_consolidation)
    experiment = types.SimpleNamespace(
        config=types.SimpleNamespace(seeding=types.SimpleNamespace(steps=3)),
        cfg=None, params=None, tokenizer=None, judge=None,
        prompts=types.SimpleNamespace(shared_prefix=()),
        settings=types.SimpleNamespace(
            gate=None, seeding=types.SimpleNamespace(with_shared_prefix=lambda tokens: None)
        ),
    )  # fmt: skip
    key = jax.random.key(0)
    module._seed(experiment, logger, bar, types.SimpleNamespace(), [], [], [], key, 0)
    assert shown == ["-", "0.25", "0.25"]
