"""The modules of an experiment, imported as its script does."""

import pathlib
import sys
import types

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def lab(request):
    """A namespace with the `MODULES` of `EXPERIMENT` that the test file names."""
    folder, names = str(EXPERIMENTS / request.module.EXPERIMENT), request.module.MODULES
    sys.path.insert(0, folder)
    try:
        modules = {name: __import__(name) for name in names}
    finally:
        sys.path.remove(folder)
    yield types.SimpleNamespace(**modules)
    for name in names:
        sys.modules.pop(name)
