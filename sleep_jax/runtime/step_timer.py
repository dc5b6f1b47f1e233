"""What updates and phases cost: seconds by part, tokens a second, MFU, memory, compilations.

Nothing here waits for the device. JAX runs an update while the host prepares the next, so seconds
are those of a turn of the host's loop, which ends when the update before is known to be over: over
several turns they add up to the time that passed. Of its parts, `rollout` ends when the sampled
tokens are on the host and holds what was left of the update before; `score` is what teachers and
student make of the rollouts; `update` is all that is not one of the others.
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

COMPILED = "/jax/core/compile/backend_compile_duration"


class StepTimer:
    """Takes the time of the updates of one phase.

    Args:
      cfg: of the model that learns.
      label: of the phase.
      profile: what is to be traced, if anything.
    """

    def __init__(self, cfg: DecoderConfig, label: str, profile: Profile | None = None):
        self._cfg, self._label, self._profile = cfg, label, profile
        peak = peak_flops(jax.devices()[0].device_kind)
        self._peak = peak and peak * jax.device_count()
        self._seconds: dict[str, float] = {}
        self._began = self._since = time.perf_counter()

    def begin(self, step: int) -> None:
        """A turn of the loop begins; it ends with update `step` under way."""
        if self._profile is not None:
            self._profile.begin(self._label, step)
        self._seconds = {}
        self._began = self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        """What passed since the last call, or the beginning, went to this part of the turn."""
        now = time.perf_counter()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._since
        self._since = now

    def end(self, sequences: Sequence[tuple[int, int, int]]) -> dict[str, float]:
        """The turn is over.

        Args:
          sequences: of the update: (tokens that each follows, its own, those that are scored).

        Returns:
          Figures by name: step, its seconds, and those of its parts; tokens_per_second; mfu where
          the device's peak is known: the FLOPs of the update, not of rollouts, over what all
          devices could do in the whole turn; memory and memory_peak, in GiB.
        """
        seconds = time.perf_counter() - self._began
        figures = {"step": seconds, **self._seconds}
        figures["update"] = seconds - sum(self._seconds.values())
        figures["tokens_per_second"] = sum(own for _, own, _ in sequences) / seconds
        if self._peak:
            figures["mfu"] = update_flops(self._cfg, sequences) / (seconds * self._peak)
        figures |= memory()
        return {f"{MEASURED}{name}": value for name, value in figures.items()}

    def finished(self, step: int) -> None:
        """Update `step` is known to be over."""
        if self._profile is not None:
            self._profile.finished(self._label, step)


def update_flops(cfg: DecoderConfig, sequences: Sequence[tuple[int, int, int]]) -> float:
    """FLOPs that the model needs for an update: forward and back through the layers above the
    trunk, and two heads with a gradient each.

    Args:
      cfg: the decoder.
      sequences: as for `StepTimer.end`.
    """
    tokens = sum(own for _, own, _ in sequences)
    keys = sum(own * (before + (own + 1) / 2) for before, own, _ in sequences)
    scored = 4 * sum(scored for _, _, scored in sequences)
    layers = len(cfg.stacks["layers"])
    return model_flops(
        cfg, tokens=tokens, keys=keys / max(tokens, 1), scored=scored, passes=2, layers=layers
    )


class Compilations:
    """Counts the programs that XLA compiles or fetches from its cache; a context manager.

    Attributes:
      count: since it was entered.
    """

    count = 0

    def __enter__(self) -> "Compilations":
        jax.monitoring.register_event_duration_secs_listener(self._listen)
        return self

    def __exit__(self, *exception: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._listen)

    def _listen(self, event: str, duration: float, **_) -> None:
        self.count += event == COMPILED


def memory() -> dict[str, float]:
    """GiB in use and at most so far, as {memory, memory_peak}: of the fullest device of this
    process, or of the process where devices do not say."""
    stats = [found for x in jax.local_devices() if (found := x.memory_stats())]
    if stats:
        names = {"memory": "bytes_in_use", "memory_peak": "peak_bytes_in_use"}
        return {
            name: max(device.get(of, 0) for device in stats) / GIB for name, of in names.items()
        }
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    held = peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if (status := pathlib.Path("/proc/self/statm")).exists():
        held = int(status.read_text().split()[1]) * resource.getpagesize()
    return {"memory": held / GIB, "memory_peak": peak / GIB}
