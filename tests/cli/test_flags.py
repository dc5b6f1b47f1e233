import pathlib
import re
import warnings

import pytest
from absl import flags

from sleep_jax.cli.flags import parse, run_with_config
from sleep_jax.cli.help import help_text
from sleep_jax.cli.version import version
from sleep_jax.setting import Setting

CONFIG = '''"""The {name} run."""

import ml_collections


def get_config(variant="plain"):
    if variant not in ("plain", "large"):
        raise ValueError(f"variant {{variant!r}}: choose plain or large")
    return ml_collections.ConfigDict(
        {{
            "seed": 0,
            "documents": "samples",
            "variant": variant,
            "seeding": {{"steps": 3, "rate": 1e-3, "is_on": True, "layers": (1, 2)}},
        }}
    )
'''


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    for name in ("small", "large"):
        (tmp_path / "configs" / f"{name}.py").write_text(CONFIG.format(name=name))
    monkeypatch.chdir(tmp_path)


def line(*args):
    return ["launch.py", *args]


def test_parse_reads_config_overrides_and_workdir():
    given = (
        "--config.seeding.steps=5 --config=configs/small.py --workdir out --config.seeding.rate=1 "
        "--noconfig.seeding.is_on --config.seeding.layers=(4,) --config.documents notes"
    )
    config, workdir = parse(line(*given.split()))
    assert config.seeding.steps == 5 and config.seeding.rate == 1.0
    assert config.seeding.is_on is False and config.seeding.layers == (4,)
    assert config.documents == "notes" and config.seed == 0
    assert workdir == "out"
    with pytest.raises(AttributeError):  # the config is locked
        config.sead = 1


def test_parse_names_the_workdir_after_the_config_each_time():
    for _ in range(2):
        config, workdir = parse(line("--config", "configs/small.py:large", "--config.seed=4"))
        assert (config.seed, config.variant, workdir) == (4, "large", "runs/small-large")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.seeding.stpes=3", "--config.seeding.stpes: no such field; nearest: "
                                     "--config.seeding.steps"),
        ("--config.sedeing.steps=3", "nearest: --config.seeding.steps"),
        ("--config.steps=3", "nearest: --config.seeding.steps"),
        ("--config.zzzzzz=3", "--config.zzzzzz: no such field; --help beside --config lists"),
        ("--config.seeding.zzzzzz=3", "zzzzzz: no such field; --help beside --config lists"),
        ("--noconfig.seeding.on", "nearest: --config.seeding.is_on"),
        ("--config.seeding.steps=abc", "steps=abc: expected int; the config has 3"),
        ("--config.seeding.steps=1.5", "--config.seeding.steps=1.5: expected int"),
        ("--config.seeding.is_on=maybe", "expected bool; the config has True"),
        ("--config.seeding.steps[0]=3", "seeding.steps[0]"),
        ("--config.seeding=3", "set a field of it, e.g. --config.seeding.is_on=VALUE"),
        ("--config.seeding.steps", "Missing value for flag --config.seeding.steps"),
        ("--wrkdir=x", "--wrkdir: no such flag; nearest: --workdir"),
        ("--zzzzzz=x", "--zzzzzz: no such flag; --help lists them"),
        ("stray", "'stray': no such argument"),
    ],
)  # fmt: skip
def test_parse_names_a_wrong_flag_with_the_nearest_one(argument, message):
    with pytest.raises(ValueError) as error:
        parse(line("--config=configs/small.py", argument))
    assert message in str(error.value)


def test_parse_of_a_missing_file_lists_the_existing_ones():
    with pytest.raises(FileNotFoundError, match=r"nearest: configs/small\.py"):
        parse(line("--config=configs/smal.py"))
    with pytest.raises(FileNotFoundError, match=r"there are: configs/large\.py, configs/small\.py"):
        parse(line("--config=zzz"))
    with pytest.raises(ValueError, match=r"Give --config=FILE, one of: configs/large\.py, "):
        parse(line())


def test_parse_raises_what_a_config_says_of_its_variant():
    with pytest.raises(ValueError, match=r"^variant 'huge': choose plain or large$"):
        parse(line("--config=configs/small.py:huge"))


def test_run_with_config_passes_the_plan_to_the_work():
    result = run_with_config(
        lambda config, workdir: (config.seed, workdir),
        lambda plan: ["done", *plan],
        about="",
        argv=line("--config=configs/small.py", "--config.seed=2", "--workdir=w"),
    )
    assert result == ["done", 2, "w"]


def fail(error):
    def raiser(*_):
        raise error

    return raiser


@pytest.mark.parametrize(
    "error,status",
    [
        (ValueError("bad rank"), 2),
        (FileNotFoundError("no notes"), 2),
        (PermissionError("locked"), 2),
        (ConnectionError("no network"), 1),
        (OSError("no space left"), 1),
    ],
)
def test_errors_of_prepare_end_in_one_line(capsys, error, status):
    with pytest.raises(SystemExit) as end:
        run_with_config(fail(error), print, about="", argv=line("--config=configs/small.py"))
    assert end.value.code == status
    assert capsys.readouterr().err == f"error: {error}\n"


def test_debug_shows_the_traceback(capsys):
    argv = line("--config=configs/small.py", "--debug")
    with pytest.raises(SystemExit):
        run_with_config(fail(ValueError("bad rank")), print, about="", argv=argv)
    assert "Traceback" in capsys.readouterr().err


def test_errors_of_work_are_raised():
    with pytest.raises(ValueError, match="ours"):
        run_with_config(
            lambda *_: None, fail(ValueError("ours")), about="",
            argv=line("--config=configs/small.py"),
        )  # fmt: skip


def test_interrupt_of_prepare_has_no_traceback(capsys):
    with pytest.raises(SystemExit) as end:
        run_with_config(
            fail(KeyboardInterrupt()), print, about="", argv=line("--config=configs/small.py")
        )
    assert end.value.code == 130 and "Traceback" not in capsys.readouterr().err


def test_version_names_the_package_and_jax(capsys):
    with pytest.raises(SystemExit) as end:
        run_with_config(fail(ValueError("not reached")), print, about="", argv=line("--version"))
    assert end.value.code == 0
    assert capsys.readouterr().out == version() + "\n"
    assert re.fullmatch(r"sleep_jax \d\S*, jax \d\S*", version())


def test_help_lists_sweeps_apart_from_configs(tmp_path):
    (tmp_path / "configs" / "sweeps").mkdir()
    (tmp_path / "configs" / "sweeps" / "rates.py").write_text('"""Three rates."""\n')
    text = help_text(line("--help"), "")
    configs, sweeps = text.split("sweeps, for --sweep=FILE:")
    assert "configs/small.py" in configs and "rates.py" not in configs
    assert "configs/sweeps/rates.py  Three rates." in sweeps
    with pytest.raises(ValueError, match=r"configs/large\.py, configs/small\.py$"):
        parse(line())
    with pytest.raises(FileNotFoundError, match=r"nearest: configs/sweeps/rates\.py"):
        parse(line("--sweep=configs/sweeps/rate.py"))


def test_interrupt_of_work_says_how_to_resume(capsys):
    with pytest.raises(SystemExit) as end:
        run_with_config(
            lambda *_: None, fail(KeyboardInterrupt()), about="",
            argv=line("--config=configs/small.py"),
        )  # fmt: skip
    assert end.value.code == 130
    assert "same command" in capsys.readouterr().err


def test_user_warnings_are_shown_once_without_their_line(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", lambda *_, **__: print("as usual"))

    def prepare(*_):
        for message in ("a lamp", "a lamp", "a goat"):
            warnings.showwarning(UserWarning(message), UserWarning, "launch.py", 3)
        warnings.showwarning(DeprecationWarning("old"), DeprecationWarning, "launch.py", 3)

    run_with_config(prepare, lambda _: None, about="", argv=line("--config=configs/small.py"))
    printed = capsys.readouterr()
    assert printed.err == "warning: a lamp\nwarning: a goat\n" and printed.out == "as usual\n"


def test_help_lists_flags_configs_and_examples(capsys):
    with pytest.raises(SystemExit) as end:
        run_with_config(
            fail(AssertionError()), print, about="Runs a night.",
            examples=["python launch.py --config=configs/small.py"], argv=line("--help"),
        )  # fmt: skip
    assert end.value.code == 0
    text = capsys.readouterr().out
    for part in ("Runs a night.", "--workdir", "--debug", "configs/small.py  The small run.",
                 "  python launch.py --config=configs/small.py\n"):  # fmt: skip
        assert part in text
    assert len(text.splitlines()) < 30 and "absl" not in text


def test_help_wraps_descriptions_but_no_path(tmp_path):
    lines = ["The long run, of which", "there is a lot to say. " * 5]
    (tmp_path / "configs" / "long.py").write_text('"""' + "\n".join(lines) + '\n\nMore.\n"""\n')
    text = help_text(line("--help"), "")
    assert "The long run, of which there is a lot to say." in text and "More." not in text
    assert max(map(len, text.splitlines())) <= 80
    path = "/a" * 60
    (tmp_path / "configs" / "small.py").write_text(CONFIG.format(name=path))
    assert path in help_text(line("--help"), "")


def test_parse_refuses_a_variant_of_a_config_without_variants(tmp_path):
    (tmp_path / "configs" / "plain.py").write_text("def get_config():\n    return {}\n")
    with pytest.raises(ValueError, match=r"plain\.py:7' has no variants; leave out ':7'"):
        parse(line("--config=configs/plain.py:7"))


def test_help_with_a_config_lists_its_fields():
    text = help_text(line("--config=configs/small.py"), "")
    for flag in (
        "  --config.seeding.steps=3\n",
        "  --config.documents=samples\n",
        '  --config.seeding.layers="(1, 2)"\n',
    ):
        assert flag in f"{text}\n"


def test_help_describes_fields_and_marks_changed_ones():
    """Section by section in the order of the declarations; what is not declared comes last."""
    settings = {
        "seeding.steps": Setting(100, "updates", least=1, kind=int),
        "seeding.layers": Setting((1, 2), "which", least=0, kind=int, entries=0),
        "documents": Setting("samples", "to read"),
    }
    text = help_text(line("--config=configs/small.py"), "", settings=settings)
    assert text.partition("(* differs from the default):\n\n")[2].splitlines() == [
        "* --config.seeding.steps=3",
        "      updates [a whole number at least 1; default 100]",
        '  --config.seeding.layers="(1, 2)"',
        "      which [a tuple of one or more, each a whole number at least 0]",
        "  --config.seeding.is_on=True",
        "  --config.seeding.rate=0.001",
        "",
        "  --config.documents=samples",
        "      to read [text that is not empty]",
        "  --config.seed=0",
        "  --config.variant=plain",
    ]


def test_flags_of_the_launching_script_are_parsed_and_listed():
    flags.DEFINE_string("chips", None, "compile for these", module_name="launch.py")
    try:
        parse(line("--config=configs/small.py", "--chips=v5e:4x4"))
        assert flags.FLAGS.chips == "v5e:4x4"
        assert "--chips=VALUE" in help_text(line(), "")
    finally:
        delattr(flags.FLAGS, "chips")


def test_parse_finds_a_config_from_any_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(pathlib.Path("/"))
    config, _ = parse([str(tmp_path / "launch.py"), f"--config={tmp_path}/configs/small.py"])
    assert config.seed == 0


def test_parse_expands_a_tilde_in_config_and_workdir(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text(
        "import ml_collections\ndef get_config():\n    return ml_collections.ConfigDict({'a': 1})\n"
    )
    config, workdir = parse(line("--config=~/mine.py", "--workdir=~/out"))
    assert config.a == 1 and workdir == str(tmp_path / "out")
    assert parse(line("--config=~/mine.py"))[1] == "runs/mine"
