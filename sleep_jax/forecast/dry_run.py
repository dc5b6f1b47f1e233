"""What a run holds and does (`--dry_run`): its documents are read, and shapes and schedule follow
from them and from the config; no weights are read. On the local devices a few steps are timed.
"""

import math
from collections.abc import Iterator

import jax
from jax.sharding import AbstractMesh, AxisType

from sleep_jax.continuation import KnownRun, check_room
from sleep_jax.data.documents import NONE, read_source
from sleep_jax.days import cut_into_days
from sleep_jax.experiment import NOTHING, memories_of, template_options
from sleep_jax.forecast.programs import flops_of, programs_of
from sleep_jax.forecast.run_plan import RunPlan, about_tokens
from sleep_jax.forecast.timing import minutes, seconds_of, time_steps
from sleep_jax.interop.load import local_tokenizer
from sleep_jax.interop.prompts import Prompts, document_text
from sleep_jax.lengths import check_lengths, check_positions, of_days
from sleep_jax.models.sharding import AXES, path_of, shardings
from sleep_jax.programs.abstract import collections_of, decoder_of
from sleep_jax.run_schedule import phases_left, schedule_of_days
from sleep_jax.runtime.hardware import GIB, chip_of
from sleep_jax.runtime.mesh import mesh_line, mesh_shape
from sleep_jax.slot_plan import slots_in_use


def plan_of(config, known: KnownRun | None = None) -> RunPlan:
    """The plan of a run whose model is not loaded; tokens are counted by its tokenizer where that
    is on this machine.

    Args:
      config: of the run, or of the new days of one that is continued.
      known: that run.

    Raises:
      ValueError, OSError: the documents are not as they should be, do not fit the settings, or a
        level would never learn; or as `KnownRun.with_days`; or nothing is left to do.
    """
    cfg, before = decoder_of(config), known.days_kept(config) if known else ()
    tokenizer = local_tokenizer(config.model.name, **template_options(config))
    encode = about_tokens if tokenizer is None else tokenizer.encode
    source, new = NOTHING, ()
    if config.data.documents != NONE or not before:
        whole_documents = read_source(config.data.documents, config.data.limit)
        source, new = cut_into_days(config, whole_documents, encode, before)
    days = (*before, *new)
    if tokenizer is None:
        lengths = [sum(len(encode(document_text(x))) for x in day.documents) for day in days]
    else:
        prompts, documents = Prompts(tokenizer), [x for day in new for x in day.documents]
        check_positions(config, cfg, check_lengths(of_days(config, len(days)), prompts, documents))
        lengths = [sum(len(prompts.plain_document(x)) for x in day.documents) for day in days]
    memories = memories_of(days, {None: cfg.memory})
    dreams = [(day.config or config).dreaming.steps > 0 for day in days]
    schedule = schedule_of_days(memories, lengths, dreams)
    phases = known.phases if known else {}
    if known:
        known.check_used(config, len(new))
        check_room(schedule, memories, phases)
        if not phases_left(schedule, phases):
            raise ValueError(f"{known.workdir}: it is finished, and no new documents are given")
    return RunPlan.of(
        config,
        cfg,
        source,
        days,
        encode,
        phases_left(schedule, phases),
        tokenizer is not None,
        slots_in_use(schedule, memories, phases),
    )


def dry_run(
    config,
    topology: str,
    plan: RunPlan,
    workdir: str | None = None,
    known: KnownRun | None = None,
) -> Iterator[str]:
    """What a run holds and does, as lines.

    Args:
      config: of the run.
      topology: the slice; empty: the devices of this machine.
      plan: of the run.
      workdir: that it would be written in; None: unknown.
      known: the run that is continued there; None: a new one.
    """
    if known:
        yield from known.lines(config, len(plan.days), plan.source)
    chips = chip_of(topology)[1] if topology else jax.device_count()
    shape = mesh_shape(config, chips)
    mesh = AbstractMesh(shape, AXES, (AxisType.Auto,) * len(AXES))
    cfg = plan.cfg
    where = topology or f"{chips} local devices"
    yield f"{config.model.name} on {where}: {mesh_line(config, chips)}"
    yield ""
    model = 0.0
    for name, tree in collections_of(config, cfg).items():
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        placed = jax.tree.leaves(shardings(tree, name, mesh))
        count, size = (sum(f(x) for _, x in leaves) for f in (lambda x: x.size, _bytes))
        share = sum(_bytes(x) * _share(s, x) for (_, x), s in zip(leaves, placed))
        model += share if name in ("params", "memory", "slots") else 0
        yield (f"{name}: {count:,} numbers, {size / GIB:.3f} GiB, {share / GIB:.3f} GiB a device")
        for (path, x), s in zip(leaves, placed):
            yield f"  {path_of(name, path):48} {x.dtype.name:9} {list(x.shape)!s:28} {s.spec}"
    yield ""
    yield f"a device holds {model / GIB:.2f} GiB of the model at all times"
    yield ""
    yield f"{'a day and its night':34} {'calls':>6} {'tokens a call':>14} {'PFLOP':>9}"
    total, programs = 0.0, programs_of(config, mesh, plan.sizes)
    for p in programs:
        needed = p.calls * flops_of(p, cfg)
        total += needed
        yield f"  {p.name:32} {p.calls:6} {p.tokens:14,} {needed / 1e15:9.3f}"
    yield f"  {'together':32} {'':6} {'':14} {total / 1e15:9.3f}"
    if topology:
        seconds = total / (chips * chip_of(topology)[0].flops)
        yield f"  {seconds:,.1f} s at the peak of {topology}; --aot={topology} says what is left"
    yield ""
    yield from plan.lines()
    if not topology:
        yield f"time        {_duration(config, plan, programs)}"
    warnings = plan.warnings(workdir, is_here=not topology, is_loaded=False)
    yield from (f"warning: {text}" for text in warnings)


def _duration(config, plan: RunPlan, programs) -> str:
    """How long the run would take, from a few timed steps."""
    try:
        rates = time_steps(config, plan.cfg, plan.sizes)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return "unknown: a step would fill the memory of this machine"
    night = seconds_of(programs, plan.cfg, rates, plan.seedings)
    device = jax.devices()[0].device_kind
    return (
        f"about {minutes(night)} for a day and its night, {minutes(night * len(plan.ahead))} for "
        f"all, if replies are as long as they may be; {len(rates) - 1} kinds of steps were timed "
        f"on {jax.device_count()} x {device}"
    )


def _bytes(x) -> float:
    return x.size * x.dtype.itemsize


def _share(sharding, x) -> float:
    """The part of an array that one device holds."""
    return math.prod(sharding.shard_shape(x.shape)) / max(x.size, 1)
