"""A run of three days, as `written_run` writes it."""

import shutil

import pytest
from written_run import Life


@pytest.fixture(scope="session")
def three_days(tmp_path_factory):
    """A run of three days; not to be changed."""
    return Life(tmp_path_factory.mktemp("life")).live(3)


@pytest.fixture
def life(three_days, tmp_path):
    """A copy of it, which a test may change, as (workdir, states after each day)."""
    shutil.copytree(three_days.workdir / "checkpoints", tmp_path / "checkpoints")
    return tmp_path, three_days.states
