import json

import jax.numpy as jnp
import numpy as np
import pytest
from attempts import reproducible
from tensorboardX.proto import event_pb2

from sleep_jax.runtime import metrics
from sleep_jax.runtime.metrics import MetricWriter, metrics_path, read_metrics


def events(folder, value_of=lambda value: value.simple_value):
    """(tag, step, value) of everything in the event files under `folder`."""
    entries = []
    for path in sorted(folder.rglob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):  # TFRecord: length, its checksum, the record, its checksum.
            size = int.from_bytes(data[at : at + 8], "little")
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
            entries += [(v.tag, event.step, value_of(v)) for v in event.summary.value]
            at += 16 + size
    return entries


def test_scalars_are_on_disk_at_once(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.scalars("wake", 3, {"loss": jnp.float32(1.5), "tokens": np.int64(7)})
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record.pop("time") > 1.6e9
    assert record == {"phase": "wake", "step": 3, "loss": 1.5, "tokens": 7.0}
    writer.close()


def test_tensorboard_has_the_same_values_by_phase(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 0, {"loss": 2.0})
        writer.scalars("learn", 5, {"reward": 0.25})
    assert events(tmp_path / "tensorboard" / "wake") == [("loss", 0, 2.0)]
    assert events(tmp_path / "tensorboard" / "learn") == [("reward", 5, 0.25)]


def test_non_finite_values_are_valid_json(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 0, {"a": float("nan"), "b": float("inf"), "c": float("-inf")})
    text = (tmp_path / "metrics.jsonl").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    (record,) = read_metrics(tmp_path)
    assert (record["a"], record["b"], record["c"]) == ("nan", "inf", "-inf")
    assert np.isnan(float(record["a"]))


def test_restart_removes_the_lines_of_its_phase_alone(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 0, {"loss": 1.0})
        writer.scalars("learn", 0, {"reward": 0.0})
        writer.scalars("learn", 1, {"reward": 0.0})
    with MetricWriter(tmp_path) as writer:  # The run is resumed in its dream phase.
        writer.restart("learn")
        writer.scalars("learn", 0, {"reward": 1.0})
        writer.text("learn", 0, "sample", "**words**")
    seen = [(r["phase"], r["step"], r.get("reward")) for r in read_metrics(tmp_path)]
    assert seen == [("wake", 0, None), ("learn", 0, 1.0), ("learn", 0, None)]
    scalars = [e for e in events(tmp_path / "tensorboard" / "learn") if e[0] == "reward"]
    assert scalars == [("reward", 0, 1.0)]
    assert events(tmp_path / "tensorboard" / "wake") == [("loss", 0, 1.0)]


def test_incomplete_last_line_is_dropped(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 0, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "wake", "st')
    assert [r["step"] for r in read_metrics(tmp_path)] == [0]
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 1, {"loss": 0.5})
    assert [r["step"] for r in read_metrics(tmp_path)] == [0, 1]


@pytest.mark.parametrize("name", ["phase", "step", "time"])
def test_scalars_refuses_reserved_names(tmp_path, name):
    with MetricWriter(tmp_path) as writer, pytest.raises(ValueError, match=name):
        writer.scalars("wake", 0, {name: 1.0})


@pytest.mark.parametrize("phase", ["", ".", "../wake"])
def test_restart_refuses_a_phase_that_names_no_folder(tmp_path, phase):
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 0, {"loss": 1.0})
        with pytest.raises(ValueError, match="cannot name a folder"):
            writer.restart(phase)
        writer.scalars("wake", 1, {"loss": 1.0})
    assert len(read_metrics(tmp_path)) == 2


def test_read_metrics_names_a_damaged_line(tmp_path):
    metrics_path(tmp_path).write_text('{"phase": "wake", "step": 0, "time": 1.5}\n\x00garbage\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged: .*garbage"):
        read_metrics(tmp_path)


def test_writer_of_another_process_writes_nothing(tmp_path):
    with MetricWriter(tmp_path) as writer, MetricWriter(tmp_path, is_writer=False) as other:
        for each in (writer, other):
            each.restart("wake")
            each.scalars("wake", 0, {"tokens": 3})
            each.text("wake", 0, "sample", "words")
    assert len(read_metrics(tmp_path)) == 2


def test_lines_at_an_address_are_written_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "is_remote", lambda _: True)
    monkeypatch.setattr(metrics, "SECONDS_BETWEEN_UPLOADS", 1e9)
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 0, {"tokens": 3})
        assert not read_metrics(tmp_path)  # not yet
        writer.restart("learn")
        assert len(read_metrics(tmp_path)) == 1
        writer.scalars("learn", 0, {"loss": 1})
    with MetricWriter(tmp_path) as writer:
        writer.scalars("learn", 1, {"loss": 2})
    assert [line["step"] for line in read_metrics(tmp_path)] == [0, 0, 1]


def test_histogram_is_a_list_in_its_line_and_buckets_in_tensorboard(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.histogram("wake", 2, "rewards", np.array([0.0, 0.5, np.nan, 1.0]))
    [line] = read_metrics(tmp_path)
    assert line["rewards"] == [0.0, 0.5, "nan", 1.0]
    [(tag, step, histogram)] = events(tmp_path / "tensorboard", lambda value: value.histo)
    assert (tag, step) == ("rewards", 2)
    assert (histogram.num, histogram.sum, histogram.min, histogram.max) == (3, 1.5, 0, 1)


def test_reproducible_leaves_out_measured_times(tmp_path):
    with MetricWriter(tmp_path) as writer:
        writer.scalars("wake", 2, {"loss": 1.0, "time/step": 0.25})
    [line] = read_metrics(tmp_path)
    assert line["time/step"] == 0.25
    assert reproducible(line) == {"phase": "wake", "step": 2, "loss": 1.0}


def test_text_of_any_characters_is_read_back(tmp_path):
    text = "half a \ud83d pair, a \x00 and \x1b[2J, \u4eac and \U0001f600"
    with MetricWriter(tmp_path) as writer:
        writer.text("learn", 0, "dream", text)
    [line] = read_metrics(tmp_path)
    assert line["dream"] == text.replace("\ud83d", "\ufffd")  # UTF-8 has no half characters
    assert "\u4eac" in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert any((tmp_path / "tensorboard" / "learn").iterdir())
