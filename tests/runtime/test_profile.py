"""A trace of chosen updates."""

import re

import jax
import jax.numpy as jnp
import pytest

from sleep_jax.runtime.profile import Profile

UPDATES = {"consolidate": 6, "learn": 2}


def test_profile_traces_its_updates_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda *_, **__: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    with Profile.of("consolidate:2-3", UPDATES, str(tmp_path)) as profile:
        for label in ("learn", "consolidate", "consolidate"):  # the second time it is done
            for step in range(6):
                profile.begin(label, step)
                calls.append(f"{label} {step}")
                profile.finished(label, step)
    begun = calls.index("start")
    assert calls[begun : begun + 4] == ["start", "consolidate 2", "consolidate 3", "stop"]
    assert calls.count("start") == 1 and profile.state == "written"
    assert profile.folder == tmp_path / "profile" / "consolidate-2-3"


def test_profile_ends_with_the_run_and_writes_a_trace(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt),
        Profile.of("learn:0-1", UPDATES, str(tmp_path)) as profile,
    ):
        profile.begin("learn", 0)
        jnp.zeros(3).block_until_ready()
        raise KeyboardInterrupt
    assert profile.state == "written"
    names = {path.name for path in profile.folder.rglob("*") if path.is_file()}
    assert any(name.endswith(".xplane.pb") for name in names)
    assert "perfetto_trace.json.gz" in names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("consolidate", "give PHASE:FIRST-LAST, e.g. consolidate:3-5"),
        ("consolidate:a-b", "give PHASE:FIRST-LAST"),
        ("dream:1", "no such phase with updates; choose from consolidate, learn"),
        ("dream-2:1", "no such phase with updates; choose from consolidate, learn"),
        ("learn-2:2", "learn has updates 0 to 1"),
        ("consolidate:4-6", "consolidate has updates 0 to 5"),
        ("consolidate:3-2", "consolidate has updates 0 to 5"),
    ],
)
def test_profile_of_names_a_wrong_value(text, words):
    with pytest.raises(ValueError, match=re.escape(f"--profile={text}: ") + f".*{words}"):
        Profile.of(text, UPDATES, "runs/x")


def test_check_phase_refuses_a_phase_that_the_run_lacks():
    profile = Profile.of("consolidate-2:3", UPDATES, "runs/x")
    profile.check_phase(["consolidate", "consolidate-2"])
    with pytest.raises(ValueError, match=r"--profile=consolidate-2: .* choose from consolidate$"):
        profile.check_phase(["consolidate"])


def test_profile_of_refuses_an_address():
    with pytest.raises(ValueError, match="--workdir=gs://bucket/run is an address"):
        Profile.of("learn:1", UPDATES, "gs://bucket/run")
