import pytest


@pytest.fixture
def commands(tmp_path):
    """Two commands as `--sweep_print` prints them, and an empty line."""
    file = tmp_path / "commands.txt"
    file.write_text(
        "python launch.py --config=a.py --workdir=gs://bucket/sweep/seed=0\n"
        "python launch.py --config=b.py '--config.x=(1, 2)' --workdir=/runs/b\n\n"
    )
    return file
