"""launch/tpu_vm.sh: slices, their workers, and a run on them, with a stand-in for gcloud."""

import shutil
import subprocess

import pytest
from launch_scripts import LAUNCH, ROOT, TPU, dry_run, run_script, stand_in, wait_for


@pytest.fixture
def checkout(tmp_path):
    """A repository that holds the scripts, all committed."""
    shutil.copytree(LAUNCH, tmp_path / "checkout" / "launch")
    root = tmp_path / "checkout"
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", root, *author, *words], check=True)
    return root


@pytest.fixture
def worker(tmp_path):
    """HOME of a worker, with a stand-in for gcloud that runs a worker's commands there."""
    stand_in(
        tmp_path, "gcloud",
        'for x; do [[ $x == --command=* ]] && exec bash -c "${x#--command=}"; done; exit 1',
    )  # fmt: skip
    python = tmp_path / "sleep_jax" / ".venv" / "bin"
    python.mkdir(parents=True)
    trap = "trap 'echo saved >>~/said; exit 0' TERM"
    print_arguments = 'printf "%s\\n" "$@" >~/said'
    stand_in(
        python,
        "python",
        f"{trap}\n{print_arguments}\necho started\nfor i in {{1..200}}; do sleep 0.05; done",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_create_and_queue_choose_the_image_of_the_accelerator(kind, image):
    [made] = dry_run("tpu_vm.sh", "create", **TPU | {"ACCELERATOR_TYPE": kind})
    assert made == [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "t"),
        *(f"--accelerator-type={kind}", f"--version={image}", "--project=p", "--zone=z"),
    ]
    [queued] = dry_run("tpu_vm.sh", "queue", SPOT="1", **TPU | {"ACCELERATOR_TYPE": kind})
    assert queued[3:6] == ["queued-resources", "create", "t"]
    assert {"--node-id=t", f"--runtime-version={image}", "--spot"} <= set(queued)


def test_create_of_an_unknown_accelerator_asks_for_the_image():
    done = run_script("tpu_vm.sh", "create", DRY_RUN="1", **TPU | {"ACCELERATOR_TYPE": "v9-8"})
    assert done.returncode == 2 and "ACCELERATOR_TYPE=v9-8; set RUNTIME_VERSION" in done.stderr
    variables = TPU | {"ACCELERATOR_TYPE": "v9-8", "RUNTIME_VERSION": "mine"}
    assert "--version=mine" in dry_run("tpu_vm.sh", "create", **variables)[0]


def test_setup_copies_the_checkout_to_every_worker():
    archive, copy, install = dry_run("tpu_vm.sh", "setup", **TPU)
    assert archive[:3] == ["git", "-C", str(ROOT)] and archive[-1] == "HEAD"
    assert archive[-2] == f"--output={copy[5]}"
    assert {"t:sleep_jax.tar.gz", "--worker=all"} <= set(copy)
    assert "--worker=all" in install
    command = next(x for x in install if x.startswith("--command="))
    assert "-e '.[tpu,hf,gs,documents]'" in command


def test_setup_warns_of_uncommitted_files(checkout):
    def set_up():
        return subprocess.run(
            [checkout / "launch" / "tpu_vm.sh", "setup"],
            env={"PATH": "/usr/bin:/bin", "DRY_RUN": "1", **TPU}, capture_output=True, text=True,
        )  # fmt: skip

    clean = set_up()
    assert clean.returncode == 0 and not clean.stderr
    (checkout / "my_notes").mkdir()
    (checkout / "my_notes" / "a.txt").write_text("a")
    dirty = set_up()
    assert dirty.returncode == 0
    assert "warning: what is not committed is not copied (my_notes/)" in dirty.stderr
    assert "launch/tpu_vm.sh copy PATH" in dirty.stderr
    for name in "abcd":
        (checkout / name).write_text("")
    assert "(a b c ...)" in set_up().stderr


def test_copy_puts_documents_where_a_run_looks_for_them(worker, monkeypatch):
    folder = worker / "here"
    (folder / "texts" / "my notes").mkdir(parents=True)
    (folder / "texts" / "my notes" / "a.txt").write_text("A kiln.")
    monkeypatch.chdir(folder)
    argument = "--config.data.documents=texts/my notes/"
    done = run_script("tpu_vm.sh", "run", "--config=a.py", argument, path=worker, **TPU)
    assert done.returncode == 2 and not (worker / "said").exists()
    assert "error: texts/my notes/ is not on this worker; launch/tpu_vm.sh copy" in done.stderr
    stand_in(
        worker, "gcloud",
        'for x; do [[ $x == --command=* ]] && exec bash -c "${x#--command=}"; done\n'
        'cp "$5" ~/"${6#t:}"',
    )  # fmt: skip
    done = run_script("tpu_vm.sh", "copy", "texts/my notes", path=worker, **TPU)
    assert done.returncode == 0, done.stderr
    assert (worker / "sleep_jax" / "texts" / "my notes" / "a.txt").read_text() == "A kiln."
    done = run_script("tpu_vm.sh", "run", "--config=a.py", argument, path=worker, **TPU)
    assert done.returncode == 0, done.stderr
    assert argument in wait_for(worker / "said", "notes")
    run_script("tpu_vm.sh", "stop", path=worker, **TPU)
    for path in ("nowhere", str(folder), "../here", "~"):
        done = run_script("tpu_vm.sh", "copy", path, path=worker, **TPU)
        assert done.returncode == 2 and "give gs://BUCKET/FOLDER" in done.stderr


def test_token_reaches_the_workers_and_no_command_line(worker):
    commands = dry_run("tpu_vm.sh", "run", "--config=a.py", HF_TOKEN="hf_secret", **TPU)
    copy, run = commands
    assert copy[4] == "scp" and copy[6] == "t:.sleep_jax_token" and "--worker=all" in copy
    assert "hf_secret" not in str(commands) and "export HF_TOKEN" in str(run)
    stand_in(
        worker, "gcloud",
        f'echo "$@" >>{worker}/commands\n'
        'for x; do [[ $x == --command=* ]] && exec bash -c "${x#--command=}"; done\n'
        'cp "$5" ~/"${6#t:}"; stat --format=%a "$5" >~/mode',
    )  # fmt: skip
    python = worker / "sleep_jax" / ".venv" / "bin"
    stand_in(python, "python", 'echo "$HF_TOKEN" >~/said')
    done = run_script("tpu_vm.sh", "run", "--config=a.py", path=worker, HF_TOKEN="hf_secret", **TPU)
    assert done.returncode == 0, done.stderr
    assert wait_for(worker / "said", "hf_") == "hf_secret\n"
    assert (worker / "mode").read_text() == "600\n"
    assert "hf_secret" not in (worker / "commands").read_text() + done.stdout + done.stderr


def test_run_starts_with_its_arguments_and_stop_ends_it(worker):
    arguments = [
        "--config=configs/a.py",
        "--config.data.documents=my notes/",
        "--config.x=('a', $HOME)",
    ]
    done = run_script("tpu_vm.sh", "run", *arguments, path=worker, **TPU)
    assert done.returncode == 0, done.stderr
    printed = wait_for(worker / "said", "$HOME")
    assert printed.splitlines() == ["launch.py", *arguments]
    assert "started" in wait_for(worker / "sleep_jax.log", "started")
    again = run_script("tpu_vm.sh", "run", *arguments, path=worker, **TPU)
    assert again.returncode == 1 and "error: a run is under way" in again.stderr
    assert run_script("tpu_vm.sh", "stop", path=worker, **TPU).returncode == 0
    wait_for(worker / "said", "saved")


def test_run_without_arguments_is_refused():
    done = run_script("tpu_vm.sh", "run", DRY_RUN="1", **TPU)
    assert done.returncode == 2 and "which run?" in done.stderr
    assert run_script("tpu_vm.sh", "dance", DRY_RUN="1", **TPU).returncode == 2
