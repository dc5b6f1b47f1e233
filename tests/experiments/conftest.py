"""The modules of an experiment, as its script imports them."""

import pathlib
import sys

import pytest

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def lab(request):
    """Those that the test file names: `MODULES` of `EXPERIMENT`, under their own names."""
    folder, names = str(EXPERIMENTS / request.module.EXPERIMENT), request.module.MODULES
    sys.path.insert(0, folder)
    try:
        modules = {name: __import__(name) for name in names}
    finally:
        sys.path.remove(folder)
    yield type("Lab", (), modules)
    for name in names:
        sys.modules.pop(name)
