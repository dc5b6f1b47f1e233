"""Fields that were renamed: an error for an old name gives the new one."""

import pytest

from sleep_jax.cli.flags import parse
from sleep_jax.config import RunConfig, default, read
from sleep_jax.renamed_fields import RENAMED
from sleep_jax.runtime.workdir import check_same_config
from sleep_jax.settings import every

PRESET = "configs/sleep_tiny.py"


def test_old_names_are_no_fields_and_new_names_are():
    fields = every(RunConfig)
    assert not RENAMED.keys() & fields.keys()
    assert set(RENAMED.values()) <= fields.keys()


@pytest.mark.parametrize("name", RENAMED)
def test_command_line_with_an_old_name_names_the_new_one(name):
    with pytest.raises(ValueError) as error:
        parse(["launch.py", f"--config={PRESET}", f"--config.{name}=1"])
    message = f"--config.{name}: this field is called --config.{RENAMED[name]} now"
    assert str(error.value) == message


def test_config_file_with_an_old_name_names_the_new_one():
    config = default()
    config.seeding.rows = 4
    with pytest.raises(
        ValueError, match=r"^seeding\.rows=4; this field is called seeding\.batch_s"
    ):
        read(config)


def test_workdir_of_a_run_with_old_names_is_refused_as_an_older_version(tmp_path):
    with pytest.raises(ValueError, match=r"older version .* has seeding\.rows, .*--workdir"):
        check_same_config({"seeding": {"rows": 4}}, {"seeding": {"batch_size": 4}}, tmp_path)
