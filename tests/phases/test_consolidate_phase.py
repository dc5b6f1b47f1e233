"""What the bar of a night shows."""

import types

from sleep_jax.phases import consolidate as module
from sleep_jax.runtime.progress import PhaseBar
from sleep_jax.seeding.seeding_config import SeedingConfig


def test_bar_shows_no_reward_before_rollouts(monkeypatch):
    bar, shown = PhaseBar("consolidate", 4, "step"), []
    logger = types.SimpleNamespace(
        update=lambda *_: None,
        scalars=lambda *_: None,
        mid_phase=None,
        timer=None,
        time_estimate=None,
    )

    def run_consolidation(*_, log, **__):
        log(-1, {"kl_before": 2.0})
        for number, metrics in enumerate(({}, {"reward": 0.25}, {})):
            log(number, {"kl_off": 1.0, **metrics})
            shown.append(bar.words().partition("reward ")[2])
        return "now", {"kl_before": 2.0, "kl_after": 1.5, "rolled_back": "too little"}

    monkeypatch.setattr(module, "run_consolidation", run_consolidation)
    experiment = types.SimpleNamespace(
        config=types.SimpleNamespace(seed=0),
        cfg=None, params=None, tokenizer=None, judge=None,
        prompts=types.SimpleNamespace(shared_prefix=()),
        settings=types.SimpleNamespace(gate=None, seeding=SeedingConfig(steps=3, warmup=0)),
    )  # fmt: skip
    scheduled = types.SimpleNamespace(phase="consolidate", rng_stream=0, day=0)
    module._seed(experiment, logger, bar, scheduled, types.SimpleNamespace(), [], [], [])
    assert shown == ["-", "0.25", "0.25"]
