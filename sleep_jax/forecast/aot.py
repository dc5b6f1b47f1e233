"""Ahead of time: what the TPU compiler says of every program of a run on a slice, without one
(`--aot=v5e:4x4`).

No weight is read and nothing is computed: shapes come from the config. The compiler is that of
libtpu, which `pip install -e '.[tpu]'` brings; it raises where a program does not fit.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import re
import time
from collections.abc import Iterator

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from sleep_jax.config import read
from sleep_jax.continuation import KnownRun
from sleep_jax.forecast.counts import Counts, count
from sleep_jax.forecast.dry_run import dry_run, plan_of
from sleep_jax.forecast.programs import flops_of, programs_of
from sleep_jax.forecast.roofline import Estimate, estimate
from sleep_jax.models.sharding import AXES
from sleep_jax.programs.abstract import decoder_of
from sleep_jax.programs.program import Program
from sleep_jax.programs.sizes import Sizes
from sleep_jax.runtime.hardware import ACCELERATORS, GIB, Chip, chip_of, slice_of
from sleep_jax.runtime.mesh import make_mesh, mesh_line, mesh_shape

# libtpu asks the machine what it runs on; these say it.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "true",  # several forecasts at a time: none uses a TPU
}


class DoesNotFit(Exception):
    """A program of a run does not fit a chip; the report that ends with this says which."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program.

    Attributes:
      program: which.
      seconds: that compiling took.
      hbm: bytes of a chip's memory: arguments, results, temporaries, code; where the compiler gave
        up, what it asked for, or None if it did not say.
      arguments, temporaries: of them; 0 where the compiler gave up.
      fits: the compiler accepted it.
      counts, estimate: what a chip does and how long that takes at least; None where it gave up.
    """

    program: Program
    seconds: float
    hbm: float | None
    arguments: float = 0.0
    temporaries: float = 0.0
    fits: bool = True
    counts: Counts | None = None
    estimate: Estimate | None = None


def too_large(compiled: Compiled, chip: Chip) -> bool:
    """Whether a program does not fit: the compiler gave up, or asks for more than a chip has."""
    return not compiled.fits or compiled.hbm > chip.hbm


def forecast(
    config,
    topology: str | None,
    is_dry: bool,
    workdir: str | None = None,
    known: KnownRun | None = None,
) -> Iterator[str]:
    """`report` of a slice, or `dry_run`, as lines, after checking that it can be made; `workdir` is
    where the run would be written, `known` a run that is continued there.

    Raises:
      ValueError: a setting that cannot be, no such slice, no compiler, a mesh that does not match
        the slice, a model of unknown shape, or documents that do not fit the settings.
      OSError: documents that cannot be read.
    """
    read(config)
    topology = slice_of(topology or config.mesh.slice)
    mesh_shape(config, chip_of(topology)[1] if topology else jax.device_count())
    plan = plan_of(config, known)
    if is_dry:
        return dry_run(config, topology, plan, workdir, known)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--aot={topology} needs the TPU compiler; pip install -e '.[tpu]' brings it, no "
            "TPU is needed"
        )
    return report(config, topology, plan.sizes)


def slice_devices(topology: str):
    """The chips of a slice such as `v5e:4x4`, for compiling only."""
    jax.config.update("jax_platforms", "cpu")  # what runs here, whatever is installed
    kind, _, sides = topology.partition(":")
    name, cores = ACCELERATORS[kind]
    count = cores * math.prod(map(int, sides.split("x")))
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    os.environ["TPU_ACCELERATOR_TYPE"] = f"{name}-{count}"
    # Both cores of a v4 chip are one device, as on a real slice.
    options = {"chip_config_name": "megacore"} if kind == "v4" else {}
    topology_desc = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    return topology_desc.devices


def compile_all(config, topology: str, sizes: Sizes) -> Iterator[Compiled]:
    """Compiles every program of a run for a slice, one after the other; one that several phases
    call is compiled once.

    Args:
      config: of the run.
      topology: the slice.
      sizes: of the run's documents.
    """
    chip, _ = chip_of(topology)
    mesh = make_mesh(config, slice_devices(topology))
    cfg, done = decoder_of(config), {}
    for program in programs_of(config, mesh, sizes):
        if (known := done.get(program.signature)) is not None:
            yield dataclasses.replace(known, program=program, seconds=0.0)
            continue
        done[program.signature] = _compile(program, mesh, chip, flops_of(program, cfg))
        yield done[program.signature]


def _compile(program: Program, mesh: Mesh, chip: Chip, needed: float) -> Compiled:
    start = time.monotonic()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = program.function.trace(*program.args).lower(lowering_platforms=("tpu",))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT])", str(error))
        units = dict(zip("KMGT", (2**10, 2**20, 2**30, 2**40)))
        hbm = float(size[1]) * units[size[2]] if size else None
        return Compiled(program, time.monotonic() - start, hbm, fits=False)
    seconds, memory = time.monotonic() - start, compiled.memory_analysis()
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    parts = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    counts = count(compiled.as_text(), program.trips)
    return Compiled(
        program,
        seconds,
        sum(parts) + results + memory.generated_code_size_in_bytes,
        *parts,
        counts=counts,
        estimate=estimate(counts, chip, needed, mesh.size),
    )


def report(config, topology: str, sizes: Sizes) -> Iterator[str]:
    """`compile_all` as lines: one block a program, then a table of the day and what to change.

    Raises:
      DoesNotFit: after the last line, where a program does not fit.
    """
    chip, chips = chip_of(topology)
    shape = dict(zip(AXES, mesh_shape(config, chips)))
    yield f"{config.model.name} on {topology}: {chips} chips, {mesh_line(config, chips)}"
    yield ""
    done = []
    for compiled in compile_all(config, topology, sizes):
        done.append(compiled)
        yield from _block(compiled, chip)
    yield from _day(done, chip, chips)
    unfit = [compiled for compiled in done if too_large(compiled, chip)]
    for compiled in unfit:
        yield f"{compiled.program.name}: {advice(compiled, config, shape)}"
    if unfit:
        yield ""
        yield f"This run does not fit {topology}."
        raise DoesNotFit(topology)


def _block(compiled: Compiled, chip: Chip) -> Iterator[str]:
    name, available = compiled.program.name, f"{chip.hbm / GIB:.0f} GiB a chip"
    if too_large(compiled, chip):
        needed = "more than" if compiled.hbm is None else f"{compiled.hbm / GIB:.2f} of"
        name = f"{name}: DOES NOT FIT, asks for {needed} {available}"
    yield name
    if not compiled.fits:
        yield f"  compiled in  {compiled.seconds:.0f} s, until the compiler gave up"
        yield ""
        return
    counts, e = compiled.counts, compiled.estimate
    arguments, temporaries = compiled.arguments / GIB, compiled.temporaries / GIB
    yield (
        f"  HBM a chip   {compiled.hbm / GIB:.2f} of {chip.hbm / GIB:.0f} GiB: arguments "
        f"{arguments:.2f}, temporaries {temporaries:.2f}"
    )
    yield f"  products     {counts.flops / 1e12:.3f} TFLOP a chip, {1e3 * e.products:.2f} ms"
    yield f"  HBM traffic  {counts.bytes / 1e9:.2f} GB a chip, {1e3 * e.memory:.2f} ms"
    sent = ", ".join(
        f"{kind} {counts.times[kind]:,.0f} x, {size / 1e9:.3f} GB"
        for kind, size in counts.sent.most_common()
    )
    yield f"  links        {sent or 'nothing sent'}; {1e3 * e.links:.2f} ms"
    yield (
        f"  at least     {1e3 * e.seconds:.2f} ms a call, bound by {e.bound}; MFU at most "
        f"{100 * e.mfu:.1f} %"
    )
    yield f"  compiled in  {compiled.seconds:.0f} s"
    yield ""


def _day(done: list[Compiled], chip: Chip, chips: int) -> Iterator[str]:
    yield f"{'a day and its night':34} {'calls':>6} {'at least':>10} {'GiB a chip':>11}"
    for compiled in done:
        calls = compiled.program.calls
        seconds = calls * compiled.estimate.seconds if compiled.estimate else None
        yield _row(compiled.program.name, calls, seconds, compiled.hbm)
    fitting = [compiled for compiled in done if not too_large(compiled, chip)]
    total = sum(compiled.program.calls * compiled.estimate.seconds for compiled in fitting)
    yield _row("together", "", total, max((compiled.hbm for compiled in fitting), default=None))
    spent, hours = sum(compiled.seconds for compiled in done), total * chips / 3600
    yield f"  compiled in {spent:.0f} s; at least {hours:.2f} chip-hours"
    if len(fitting) < len(done):
        yield "  time, memory and chip-hours together are without those that do not fit"
    yield ""


def _row(name: str, calls: int | str, seconds: float | None, hbm: float | None) -> str:
    """A row of the table of the day; a dash where nothing is known."""
    time = "-" if seconds is None else f"{seconds:.1f} s"
    return f"  {name:32} {calls:6} {time:>10} {'-' if hbm is None else f'{hbm / GIB:.2f}':>11}"


def advice(compiled: Compiled, config, shape: dict[str, int]) -> str:
    """What to change where a program does not fit a mesh of this shape."""
    ways = shape["data"] * shape["fsdp"]
    rows, parts = config.seeding.batch_size, config.seeding.accumulate
    can = {
        "model.remat": config.model.remat == "none",
        "seeding.accumulate": rows % (2 * parts * ways) == 0,
        "seeding.batch_size": rows > parts * ways,
    }
    remedies = []
    for knob in compiled.program.knobs:
        section, _, field = knob.rpartition(".")
        value = functools.reduce(getattr, section.split("."), config)[field]
        if not can.get(knob, True):
            continue
        if knob == "model.remat":
            remedies.append("set model.remat='full'")
        elif knob == "seeding.accumulate":
            remedies.append(f"raise seeding.accumulate from {value} to {2 * value}")
        else:
            remedies.append(f"lower {knob} from {value}")
    if shape["data"] > 1:
        remedies.append(
            f"move mesh.data={shape['data']} to mesh.fsdp, which splits the weights, too"
        )
    remedies.append("take a slice with more chips, or a chip with more memory")
    return "; ".join(remedies)
