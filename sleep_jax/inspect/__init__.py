"""Inspection of a run: `python -m sleep_jax inspect RUN`, or from a notebook.

    from sleep_jax import inspect

    run = inspect.Run("runs/sleep_smollm2")
    inspect.show("timeline", run.timeline())
    inspect.slots(run["evaluate"])
    inspect.changes(run["wake"], run["consolidate"])
    run["evaluate"].restore("current.memory.layers.level_1.experts", slot=0)

It needs no accelerator and no base model, and reads only the parts of a checkpoint that are asked
for.
"""

from sleep_jax.inspect.checkpoint import Checkpoint
from sleep_jax.inspect.memory import Change, LevelSlots, changes, slots
from sleep_jax.inspect.run import Run, difference
from sleep_jax.inspect.tables import show

__all__ = ["Change", "Checkpoint", "LevelSlots", "Run", "changes", "difference", "show", "slots"]
