"""How long a run would take on the devices of this machine, from a few timed steps.

Of each kind of program (`programs`) that most of the work goes to, one is called twice, on few
documents and on arrays of no meaning, for which no weights need to be there; the second call is
timed. What other and larger programs take follows from their FLOPs.
"""

import contextlib
import copy
import dataclasses
import os
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from sleep_jax.config import read
from sleep_jax.forecast.programs import flops_of, programs_of, work_by_kind
from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.programs.program import Program
from sleep_jax.programs.sizes import Sizes, expected_sizes
from sleep_jax.runtime.mesh import make_mesh
from sleep_jax.sampling.sampler import SamplingConfig

TIMED = 0.9  # share of the work whose kinds are timed
DOCUMENTS, SENTENCES = 2, 16  # at most, in what is timed
SECONDS = 60.0  # a timed step may take; one that would take longer is estimated from the others
SHARE = 0.5  # of the memory at hand that the arguments of a step may fill

UPDATES = 5  # that the pace is the median of

Rates = Mapping[str, float]  # seconds a FLOP by the name of a function; "" for all others


class TimeEstimate:
    """Says once, after the first updates of a run, how long it will take.

    Args:
      programs: of a day and its night.
      cfg: of the decoder.
      days: of the run.
      say: takes the line.
      seedings: of a day and its night, on average: nights and merges of levels.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        cfg: DecoderConfig,
        days: int,
        say: Callable[[str], None],
        seedings: float = 1.0,
    ):
        self._programs, self._cfg, self._days, self._say = programs, cfg, days, say
        self._seedings = seedings
        self._seconds: list[float] = []
        self._sampling: float | None = None  # seconds a FLOP
        self._is_done = False

    def add_study(self, seconds: float) -> None:
        """A study took these seconds: mostly sampling."""
        work = [p for p in self._programs if p.phase == "study"]
        if flops := sum(p.calls * flops_of(p, self._cfg) for p in work):
            self._sampling = seconds / flops

    def add_update(self, day: int, seconds: float) -> None:
        """An update of a night took these seconds; the first one has waited for a compilation."""
        if self._is_done:
            return
        self._seconds.append(seconds)
        if len(self._seconds) <= UPDATES:
            return
        self._is_done = True
        update = next(p for p in self._programs if p.name.startswith("consolidate: update"))
        each = statistics.median(self._seconds[1:])
        rates = {"": each / flops_of(update, self._cfg)}
        if self._sampling is not None:
            rates["sample"] = self._sampling
        night, left = self._night(rates), self._days - day
        more = f", {minutes(left * night)} for the {left} days that are left" if left > 1 else ""
        self._say(
            f"at this pace, {each:.2g} s an update, a day and its night take about "
            f"{minutes(night)}{more}"
        )

    def _night(self, rates: Rates) -> float:
        return seconds_of(self._programs, self._cfg, rates, self._seedings)


def minutes(seconds: float) -> str:
    """In words: `12.3 min`, from 100 minutes on `2.4 h`."""
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def seconds_of(
    programs: Sequence[Program], cfg: DecoderConfig, rates: Rates, seedings: float = 1.0
) -> float:
    """Of a day and its night, without compilations; `seedings` as for `work_by_kind`."""
    work = work_by_kind(programs, cfg, seedings)
    return sum(flops * rates.get(kind, rates[""]) for kind, flops in work.items())


def time_steps(config, cfg: DecoderConfig, sizes: Sizes) -> Rates:
    """Seconds a FLOP of the kinds of steps that a run of this config spends most of its time in.

    Args:
      config: of the run.
      cfg: its decoder.
      sizes: of its documents.

    Raises:
      MemoryError: the arguments of a step would fill too much of this machine.
    """
    mesh, platform = make_mesh(config), jax.default_backend()
    work = work_by_kind(programs_of(config, mesh, sizes, platform), cfg)
    small = copy.deepcopy(config).unlock()
    small.dreaming.trial.epochs = small.dreaming.trial.seeds = 1
    few = expected_sizes(
        read(small),
        min(len(sizes.contexts), DOCUMENTS),
        max(sizes.contexts),
        min(len(sizes.ask), SENTENCES),
    )
    samples: dict[str, Program] = {}
    for program in programs_of(small, mesh, few, platform):
        samples.setdefault(program.function.__name__, program)
    rates: dict[str, float] = {}
    with jax.set_mesh(mesh) if mesh.size > 1 else contextlib.nullcontext():
        for kind in _worth_timing(work, samples, cfg):
            flops = flops_of(samples[kind], cfg)
            if flops * max(rates.values(), default=0.0) < SECONDS:
                rates[kind] = _seconds(samples[kind]) / flops
    total = sum(work[kind] for kind in rates)
    return rates | {"": sum(work[kind] * rate for kind, rate in rates.items()) / total}


def _worth_timing(work, samples: Mapping[str, Program], cfg: DecoderConfig) -> Iterator[str]:
    """The kinds that make up most of the work, the cheapest step first."""
    chosen, covered = [], 0.0
    for kind, flops in work.most_common():
        if covered < TIMED * work.total() and kind in samples:
            chosen.append(kind)
        covered += flops
    yield from sorted(chosen, key=lambda kind: flops_of(samples[kind], cfg))


def _seconds(program: Program) -> float:
    """Of a call that is compiled."""
    needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.args) if _is_array(x))
    if needed > SHARE * memory_at_hand():
        raise MemoryError(program.name)
    for _ in range(2):
        args = jax.tree.map(_filled, _without_end(program.args), is_leaf=_is_array)
        jax.block_until_ready([x for x in jax.tree.leaves(args) if isinstance(x, jax.Array)])
        start = time.perf_counter()
        jax.block_until_ready(program.function(*args))
        seconds = time.perf_counter() - start
    return seconds


def _without_end(args: tuple) -> tuple:
    """Arguments of the sampler whose completions never end early; others as they are."""
    if not any(isinstance(x, SamplingConfig) for x in args):
        return args
    cfg, sampling, *rest = args
    return cfg, dataclasses.replace(sampling, eos_ids=(cfg.vocab - 1,)), *rest


def _filled(x: Any) -> Any:
    """An array for a shape: ones where it counts or masks, else zeros."""
    if not _is_array(x):
        return x
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    fill = jnp.zeros if jnp.issubdtype(x.dtype, jnp.floating) else jnp.ones
    return jax.device_put(fill(x.shape, x.dtype), x.sharding)


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct)


def memory_at_hand() -> float:
    """Bytes that the devices have left, or this machine where they do not say."""
    stats = [known for x in jax.local_devices() if (known := x.memory_stats())]
    if stats:
        return sum(x.get("bytes_limit", 0) - x.get("bytes_in_use", 0) for x in stats)
    if (meminfo := pathlib.Path("/proc/meminfo")).exists():
        return 1024 * int(re.search(r"MemAvailable: *(\d+)", meminfo.read_text())[1])
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
