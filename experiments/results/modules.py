"""The modules and the results of other experiments."""

import importlib.util
import pathlib
import sys
import types
from typing import Any

from sleep_jax.fields import read_json

EXPERIMENTS = pathlib.Path(__file__).parents[1]


def module_of(experiment: str, name: str) -> types.ModuleType:
    """A module of an experiment. It finds those beside it as its own script does, and shares none
    of them with other experiments, whose modules have the same names.

    Args:
      experiment: its folder.
      name: of the module.
    """
    folder, known = EXPERIMENTS / experiment, {*sys.modules}
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location(f"{experiment}.{name}", folder / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
        for added in {*sys.modules} - known:
            if pathlib.Path(getattr(sys.modules[added], "__file__", None) or "").parent == folder:
                del sys.modules[added]
    return module


def results_of(experiment: str, folder: pathlib.Path = EXPERIMENTS) -> Any | None:
    """What an experiment's results.json has; None: it has not been run to the end yet.

    Args:
      experiment: its folder.
      folder: of all experiments.
    """
    path = folder / experiment / "results.json"
    return read_json(path) if path.exists() else None
