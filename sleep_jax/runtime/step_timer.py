"""Cost of updates and phases: seconds by part, tokens a second, MFU, memory, compilations.

Nothing here waits for the device. JAX runs an update while the host prepares the next one, so times
are those of an iteration of the host's loop, which ends when the previous update is known to be
over; summed over iterations they are the time that passed. Of the parts of an iteration, `rollout`
ends when the sampled tokens are on the host and includes the rest of the previous update; `score`
is the scoring of rollouts by teachers and student; `update` is everything else.
"""

import pathlib
import resource
import sys
import time
from collections.abc import Sequence

import jax

from sleep_jax.models.decoder_config import DecoderConfig
from sleep_jax.runtime.hardware import GIB, model_flops, peak_flops
from sleep_jax.runtime.metrics import MEASURED
from sleep_jax.runtime.profile import Profile

COMPILED = "/jax/core/compile/backend_compile_duration"  # or loaded
LOADED = "/jax/compilation_cache/cache_hits"


class StepTimer:
    """Measures the updates of one phase.

    Args:
      cfg: of the model that is trained.
      label: of the phase.
      profile: updates to trace; None: none.
    """

    def __init__(self, cfg: DecoderConfig, label: str, profile: Profile | None = None):
        self._cfg, self._label, self._profile = cfg, label, profile
        peak = peak_flops(jax.devices()[0].device_kind)
        self._peak = peak and peak * jax.device_count()
        self._seconds: dict[str, float] = {}
        self._start = self._lap_start = time.perf_counter()

    def begin(self, step: int) -> None:
        """Call at the start of an iteration, which launches update `step`."""
        if self._profile is not None:
            self._profile.begin(self._label, step)
        self._seconds = {}
        self._start = self._lap_start = time.perf_counter()

    def lap(self, part: str) -> None:
        """Adds the time since the last call, or since the start, to a part of the iteration."""
        now = time.perf_counter()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._lap_start
        self._lap_start = now

    def end(self, sequences: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        """Call at the end of an iteration.

        Args:
          sequences: of the update, as (tokens of the context, own tokens, scored tokens).

        Returns:
          Metrics by name: step, the seconds of the iteration, and those of its parts;
          tokens_per_second; mfu, if the peak of the device is known: FLOPs of the update, without
          rollouts, over the peak FLOPs of all devices in the whole iteration; memory and
          memory_peak, in GiB.
        """
        seconds = time.perf_counter() - self._start
        figures = {"step": seconds, **self._seconds}
        figures["update"] = seconds - sum(self._seconds.values())
        figures["tokens_per_second"] = sum(length for _, length, _ in sequences) / seconds
        if self._peak:
            figures["mfu"] = update_flops(self._cfg, sequences) / (seconds * self._peak)
        figures |= memory()
        return {f"{MEASURED}{name}": value for name, value in figures.items()}

    def finished(self, step: int) -> None:
        """Call when update `step` is known to have ended."""
        if self._profile is not None:
            self._profile.finished(self._label, step)


def update_flops(cfg: DecoderConfig, sequences: Sequence[tuple[int, int, int]]) -> float:
    """FLOPs that the model needs for an update: forward and backward through the layers above the
    trunk, and two heads with a gradient each.

    Args:
      cfg: the decoder.
      sequences: as for `StepTimer.end`.
    """
    tokens = sum(length for _, length, _ in sequences)
    keys = sum(length * (before + (length + 1) / 2) for before, length, _ in sequences)
    scored = 4 * sum(scored for _, _, scored in sequences)
    layers = len(cfg.stacks["layers"])
    return model_flops(
        cfg, tokens=tokens, keys=keys / max(tokens, 1), scored=scored, passes=2, layers=layers
    )


class Compilations:
    """Counts the programs that XLA compiles, or loads from those that were kept; a context manager.

    Attributes:
      count: number of programs since it was entered.
      loaded: of them, those that were loaded.
    """

    count = loaded = 0

    @property
    def compiled(self) -> int:
        """The others."""
        return self.count - self.loaded

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_duration_secs_listener(self._made)
        jax.monitoring.register_event_listener(self._event)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._made)
        jax.monitoring.unregister_event_listener(self._event)

    def _made(self, event: str, duration: float, **_) -> None:
        self.count += event == COMPILED

    def _event(self, event: str, **_) -> None:
        self.loaded += event == LOADED


def memory() -> dict[str, float]:
    """GiB in use and the peak so far, as {memory, memory_peak}: of the fullest device of this
    process, or of the process itself where devices do not report them.
    """
    all_stats = [stats for x in jax.local_devices() if (stats := x.memory_stats())]
    if all_stats:
        names = {"memory": "bytes_in_use", "memory_peak": "peak_bytes_in_use"}
        return {
            name: max(stats.get(key, 0) for stats in all_stats) / GIB for name, key in names.items()
        }
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    used = peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if (status := pathlib.Path("/proc/self/statm")).exists():
        used = int(status.read_text().split()[1]) * resource.getpagesize()
    return {"memory": used / GIB, "memory_peak": peak / GIB}
