import importlib.util
import re
import runpy
import types

import jax
import pytest

from sleep_jax.forecast import aot
from sleep_jax.forecast.counts import Counts
from sleep_jax.forecast.roofline import Estimate
from sleep_jax.programs.program import Program
from sleep_jax.runtime.hardware import GIB, chip_of

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed"
)


def preset(name):
    return runpy.run_path(f"configs/{name}.py")["get_config"]()


def test_dry_run_lists_arrays_and_costs():
    lines = list(aot.forecast(preset("seeding_8b"), None, is_dry=True))
    assert lines[0] == "Qwen/Qwen3-8B on v5e:4x4: mesh data 1 x fsdp 16 x tensor 1"
    text = "\n".join(lines)
    # 8,190,735,360 numbers, bfloat16 but for the norms; all but these over 16 chips.
    assert "params: 8,190,735,360 numbers, 15.257 GiB, 0.955 GiB a device" in text
    # 36 layers x 5 slots x 3 matrices x 4096 x 64.
    assert "memory: 141,557,760 numbers, 0.527 GiB, 0.033 GiB a device" in text
    assert re.search(r"params/layers/mlp/up/kernel +bfloat16 .*P\(None, 'fsdp'\)", text)
    calls = {name: int(n) for name, n in re.findall(r"^  (\w+: [\w ]+?) +(\d+) ", text, re.M)}
    assert calls["consolidate: update"] == 100 and calls["learn: update"] == 20


def test_dry_run_of_another_slice():
    lines = list(aot.forecast(preset("seeding_8b"), "v5p:2x2x2", is_dry=True))
    assert "fsdp 8" in lines[0] and "v5p:2x2x2" in lines[0]


def test_forecast_raises_before_any_work(monkeypatch):
    config = preset("seeding_8b")
    with pytest.raises(ValueError, match="no TPU slice"):
        aot.forecast(config, "v5e", is_dry=True)
    config.mesh.fsdp = 4
    with pytest.raises(ValueError, match="16 devices"):
        aot.forecast(config, "v5e:4x4", is_dry=True)
    config.mesh.fsdp, config.dreaming.scorer = -1, "containz"
    with pytest.raises(ValueError, match=r"dreaming\.scorer='containz'"):
        aot.forecast(config, "v5e:4x4", is_dry=True)
    config.dreaming.scorer, config.model.name = "contains", "org/unknown"
    with pytest.raises(ValueError, match="nothing is downloaded"):
        aot.forecast(config, "v5e:4x4", is_dry=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"-e '\.\[tpu\]'"):
        aot.forecast(preset("seeding_8b"), "v5e:4x4", is_dry=False)


@pytest.mark.parametrize("is_dry", [True, False])
def test_forecast_reads_documents_before_any_work(tmp_path, monkeypatch, is_dry):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    config = preset("seeding_8b")
    config.data.documents = str(tmp_path / "none.txt")
    with pytest.raises(FileNotFoundError, match=r"none\.txt' does not exist"):
        aot.forecast(config, "v5e:4x4", is_dry=is_dry)
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text("A note.")
    config.data.documents, compiled = str(tmp_path), []
    monkeypatch.setattr(aot, "compile_all", lambda *given: compiled.append(given) or iter(()))
    monkeypatch.setattr(aot, "_day", lambda *_: iter(()))
    lines = [*aot.forecast(config, "v5e:4x4", is_dry=is_dry)]
    if is_dry:
        assert any(line.startswith("documents   20 parts of 20 files, all read") for line in lines)
        return
    config.data.documents = "samples:7-10"
    assert [*aot.forecast(config, "v5e:4x4", is_dry=False)]
    assert [len(sizes.contexts) for _, _, sizes in compiled] == [20, 4]


def test_advice_names_settings_with_their_values():
    config = preset("seeding_8b")
    config.model.remat = "none"
    knobs = ("model.remat", "seeding.accumulate", "seeding.batch_size", "dreaming.trial.microbatch")
    program = Program("consolidate: update", None, (), 1, 1, 1.0, 1, knobs=knobs)
    compiled_program = aot.Compiled(program, 1.0, 17 * 2**30, fits=False)
    text = aot.advice(compiled_program, config, {"data": 2, "fsdp": 4, "tensor": 2})
    assert text.startswith("set model.remat='full'; raise seeding.accumulate from 1 to 2; lower ")
    assert (
        "lower seeding.batch_size from 16" in text
        and "lower dreaming.trial.microbatch from 1" in text
    )
    assert "mesh.data=2 to mesh.fsdp" in text
    # One row a shard cannot be cut any further.
    config.model.remat = "full"
    text = aot.advice(compiled_program, config, {"data": 1, "fsdp": 16, "tensor": 1})
    assert text.startswith("lower dreaming.trial.microbatch") and "seeding" not in text


def compiled(name, gib, fits=True, knobs=()):
    """What the compiler might say of a program that is called ten times, a second each."""
    program = Program(name, None, (), 10, 1, 1.0, 1, knobs=knobs)
    hbm = None if gib is None else gib * GIB
    if not fits:
        return aot.Compiled(program, 1.0, hbm, fits=False)
    made = {"counts": Counts(), "estimate": Estimate(1.0, 0.5, 0.5, 0.4)}
    return aot.Compiled(program, 1.0, hbm, GIB, GIB, **made)


def lines_of(programs, monkeypatch):
    """Lines of the report of such programs on 16 chips of 16 GiB, and whether it says at its end
    that they do not fit.
    """
    monkeypatch.setattr(aot, "compile_all", lambda *_: iter(programs))
    lines, report = [], aot.report(preset("seeding_8b"), "v5e:4x4", None)
    try:
        lines.extend(report)
    except aot.DoesNotFit:
        return lines, True
    return lines, False


def test_report_of_programs_that_fit_has_totals(monkeypatch):
    lines, is_over = lines_of([compiled("a: b", 3), compiled("c: d", 16)], monkeypatch)
    text = "\n".join(lines)
    assert not is_over and "fit" not in text.lower()
    assert re.search(r"^  together +20\.0 s +16\.00$", text, re.M)
    assert f"at least {20 * 16 / 3600:.2f} chip-hours" in text


def test_report_of_programs_that_do_not_fit_sums_the_others(monkeypatch):
    unfit = [
        compiled("try: train", 17.5, fits=False, knobs=("dreaming.trial.microbatch",)),
        compiled("select: importance", None, fits=False),
        compiled("consolidate: update", 16.1),  # accepted, yet more than a chip has
    ]
    lines, is_over = lines_of([compiled("a: b", 3), *unfit], monkeypatch)
    text = "\n".join(lines)
    assert is_over and not re.search(r"\b(nan|inf)\b", text)
    assert "try: train: DOES NOT FIT, asks for 17.50 of 16 GiB a chip" in lines
    assert "select: importance: DOES NOT FIT, asks for more than 16 GiB a chip" in lines
    assert "consolidate: update: DOES NOT FIT, asks for 16.10 of 16 GiB a chip" in lines
    assert re.search(r"^  try: train +10 +- +17\.50$", text, re.M)
    assert re.search(r"^  select: importance +10 +- +-$", text, re.M)
    assert re.search(r"^  consolidate: update +10 +10\.0 s +16\.10$", text, re.M)
    assert re.search(r"^  together +10\.0 s +3\.00$", text, re.M)
    assert f"at least {10 * 16 / 3600:.2f} chip-hours" in text
    assert "without those that do not fit" in text
    # Advice goes to just those, and the verdict comes last.
    advised = [line.partition(": ")[0] for line in lines if "take a slice with more" in line]
    assert advised == ["try", "select", "consolidate"]
    assert "try: train: lower dreaming.trial.microbatch from 16; take a slice" in text
    assert lines[-1] == "This run does not fit v5e:4x4."


def test_report_where_nothing_fits(monkeypatch):
    lines, is_over = lines_of([compiled("try: train", None, fits=False)], monkeypatch)
    assert is_over and re.search(r"^  together +0\.0 s +-$", "\n".join(lines), re.M)


@pytest.mark.parametrize(
    ("message", "gib"), [("Used 17.25G of 15.75G hbm.", 17.25), ("No words on memory.", None)]
)
def test_compile_reads_the_memory_that_a_failed_program_asked_for(message, gib):
    def refuse():
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {message}")

    lowered = types.SimpleNamespace(compile=refuse)
    traced = types.SimpleNamespace(lower=lambda **_: lowered)
    program = Program("a: b", types.SimpleNamespace(trace=lambda: traced), (), 1, 1, 1.0, 1)
    mesh, chip = jax.make_mesh((1,), ("data",)), chip_of("v5e:4x4")[0]
    compiled_program = aot._compile(program, mesh, chip, 1.0)
    assert compiled_program.hbm == (None if gib is None else gib * GIB)
    assert not compiled_program.fits and aot.too_large(compiled_program, chip)


@needs_compiler
@pytest.mark.slow
def test_tiny_run_compiles_for_a_slice():
    config = preset("sleep_tiny")
    config.model.dtype = "bfloat16"
    config.mesh.tensor = 2
    lines = list(aot.forecast(config, "v5e:2x2", is_dry=False))
    text = "\n".join(lines)
    assert lines[0] == "tiny on v5e:2x2: 4 chips, mesh data 1 x fsdp 2 x tensor 2"
    assert "consolidate: update\n  HBM a chip" in text and "all-gather" in text
    assert "DOES NOT FIT" not in text
