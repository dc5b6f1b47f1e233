"""What the bar of a night shows, and what is recorded of it."""

import types

from sleep_jax.phases import consolidate as module
from sleep_jax.phases.run_state import RunState
from sleep_jax.runtime.progress import PhaseBar
from sleep_jax.seeding.gate import Gate
from sleep_jax.seeding.seeding_config import SeedingConfig


def test_bar_shows_the_bound_and_no_reward_before_rollouts(monkeypatch):
    bar, shown, recorded = PhaseBar("consolidate", 4, "step"), [], []
    logger = types.SimpleNamespace(
        update=lambda *_: None,
        scalars=lambda *line: recorded.append(line),
        mid_phase=None,
        timer=None,
        time_estimate=None,
    )

    def run_consolidation(*_, log, **__):
        before = {"kl_before": 2.0, "kl_known_before": 0.125, "first_order_fall": 0.456}
        log(-1, before)
        assert bar.words() == "kl before 2  first order fall 0.46 of it"
        assert before["first_order_fall"] == 0.456
        for number, metrics in enumerate(({}, {"reward": 0.25}, {})):
            log(number, {"kl_off": 1.0, **metrics})
            shown.append(bar.words().partition("reward ")[2])
        known = {"kl_known_before": 0.125, "kl_known_after": 0.25}
        return "now", {"kl_before": 2.0, "kl_after": 1.5, "rolled_back": "too little"} | known

    monkeypatch.setattr(module, "run_consolidation", run_consolidation)
    experiment = types.SimpleNamespace(
        config=types.SimpleNamespace(seed=0),
        cfg=None, params=None, tokenizer=None, judge=None,
        prompts=types.SimpleNamespace(shared_prefix=()),
        settings=types.SimpleNamespace(gate=Gate(), seeding=SeedingConfig(steps=3, warmup=0)),
    )  # fmt: skip
    scheduled = types.SimpleNamespace(phase="consolidate", rng_stream=0, day=0)
    module._seed(experiment, None, logger, bar, scheduled, types.SimpleNamespace(), [], [], [])
    assert shown == ["-", "0.25", "0.25"]
    # What was known before is a curve of two points beside that of what is new.
    held_out = {"held_out_kl_before": 2.0, "held_out_kl_after": 1.5, "accepted": 0.0}
    assert recorded == [(0, {"kl_known": 0.125}), (3, held_out | {"kl_known": 0.25})]


def test_level_hands_over_no_forgotten_day(monkeypatch):
    days = [{"study": {}}, {"study": {}, "forgotten": "zeroed"}, {}, {"study": {}}]
    run = RunState(types.SimpleNamespace(wake=None), None, None, {"phases": {}, "days": days})
    handed_over, nothing = [], types.SimpleNamespace(held_out=())
    monkeypatch.setattr(module, "studied", lambda e, r, day: handed_over.append(day) or [])
    monkeypatch.setattr(module.Study, "from_record", lambda record: nothing)
    monkeypatch.setattr(module.self_study, "answer", lambda *_: [])
    for name in ("rehearse", "ask_again"):
        monkeypatch.setattr(module, name, lambda *_: [])
    monkeypatch.setattr(module, "key_of", lambda *_: None)
    experiment = types.SimpleNamespace(prompts=None)
    scheduled = types.SimpleNamespace(since=0, day=3)
    module._replay(experiment, run, scheduled, None)
    assert handed_over == [0, 3]
