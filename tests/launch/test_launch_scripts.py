"""The scripts of launch/, as a person types them, with stand-ins for the programs they call."""

import base64
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from sleep_jax.runtime.preemption import STATUS

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(x.name for x in LAUNCH.glob("*.sh") if os.access(x, os.X_OK))
TPU = {"PROJECT": "p", "ZONE": "z", "TPU_NAME": "t", "ACCELERATOR_TYPE": "v5litepod-16"}
RUN = ("--config=a.py", "--workdir=gs://bucket/run")
GKE = {"NAME": "n", "IMAGE": "i:1", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"}


def start(script, *arguments, path="", **variables):
    """Runs a script in an environment of these variables alone."""
    environment = {"PATH": f"{path}:/usr/bin:/bin", "HOME": str(path or "/nonexistent")}
    return subprocess.run(
        [LAUNCH / script, *arguments],
        env=environment | variables, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def dry(script, *arguments, **variables):
    """The commands that a script would run, as lists of words."""
    done = start(script, *arguments, DRY_RUN="1", **variables)
    assert done.returncode == 0, done.stderr
    words = [f"printf '%s\\0' {line}" for line in done.stdout.splitlines()]
    said = [subprocess.run(["bash", "-c", x], capture_output=True, text=True) for x in words]
    return [x.stdout.split("\0")[:-1] for x in said]


def stand_in(folder, name, body):
    """A program of this name on the path."""
    file = folder / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)
    return file


def test_the_scripts_are_clean():
    here = pathlib.Path(sys.executable).parent
    shellcheck = shutil.which("shellcheck", path=f"{here}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck comes with pip install -e '.[test]'")
    files = [*LAUNCH.glob("*.sh"), ROOT / ".ci" / "run"]
    done = subprocess.run(
        [shellcheck, "-x", *files], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_header_and_nothing_is_baked_in(script):
    text = (LAUNCH / script).read_text()
    assert "\nset -euo pipefail\n" in text
    shown = start(script, "--help")
    assert shown.returncode == 0 and f"launch/{script}" in shown.stdout
    assert shown.stdout == start(script).stdout
    assert "DRY_RUN=1" in shown.stdout and "#" not in shown.stdout


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke.sh"])
def test_what_is_not_set_is_named(script):
    done = start(script, "--config=x" if script == "gke.sh" else "create", DRY_RUN="1")
    names = ["NAME"] if script == "gke.sh" else ["PROJECT", "ZONE", "TPU_NAME"]
    assert done.returncode == 2 and not done.stdout
    assert all(f"error: {name} is not set" in done.stderr for name in names)


def test_a_missing_program_is_named(tmp_path):
    for name in ("bash", "env", "basename", "dirname", "awk"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        [LAUNCH / "tpu_vm.sh", "create"], env={"PATH": str(tmp_path), **TPU},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "gcloud is not installed; see https://" in done.stderr


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_a_slice_is_made_with_its_image(kind, image):
    [made] = dry("tpu_vm.sh", "create", **TPU | {"ACCELERATOR_TYPE": kind})
    assert made == [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "t"),
        *(f"--accelerator-type={kind}", f"--version={image}", "--project=p", "--zone=z"),
    ]
    [queued] = dry("tpu_vm.sh", "queue", SPOT="1", **TPU | {"ACCELERATOR_TYPE": kind})
    assert queued[3:6] == ["queued-resources", "create", "t"]
    assert {"--node-id=t", f"--runtime-version={image}", "--spot"} <= set(queued)


def test_an_unknown_kind_of_slice_asks_for_its_image():
    done = start("tpu_vm.sh", "create", DRY_RUN="1", **TPU | {"ACCELERATOR_TYPE": "v9-8"})
    assert done.returncode == 2 and "ACCELERATOR_TYPE=v9-8; set RUNTIME_VERSION" in done.stderr
    given = TPU | {"ACCELERATOR_TYPE": "v9-8", "RUNTIME_VERSION": "mine"}
    assert "--version=mine" in dry("tpu_vm.sh", "create", **given)[0]


def test_set_up_copies_the_checkout_to_every_worker():
    archive, copy, install = dry("tpu_vm.sh", "setup", **TPU)
    assert archive[:3] == ["git", "-C", str(ROOT)] and archive[-1] == "HEAD"
    assert archive[-2] == f"--output={copy[5]}"
    assert {"t:sleep_jax.tar.gz", "--worker=all"} <= set(copy)
    assert "--worker=all" in install
    command = next(x for x in install if x.startswith("--command="))
    assert "-e '.[tpu,hf,gs,documents]'" in command


@pytest.fixture
def checkout(tmp_path):
    """A repository of its own with the scripts in it, and documents that are not committed."""
    shutil.copytree(LAUNCH, tmp_path / "checkout" / "launch")
    root = tmp_path / "checkout"
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", root, *author, *words], check=True)
    return root


def test_set_up_warns_of_what_is_not_committed(checkout):
    def said():
        return subprocess.run(
            [checkout / "launch" / "tpu_vm.sh", "setup"],
            env={"PATH": "/usr/bin:/bin", "DRY_RUN": "1", **TPU}, capture_output=True, text=True,
        )  # fmt: skip

    clean = said()
    assert clean.returncode == 0 and not clean.stderr
    (checkout / "my_notes").mkdir()
    (checkout / "my_notes" / "a.txt").write_text("a")
    dirty = said()
    assert dirty.returncode == 0
    assert "warning: what is not committed is not copied (my_notes/)" in dirty.stderr
    assert "launch/tpu_vm.sh copy PATH" in dirty.stderr
    for name in "abcd":
        (checkout / name).write_text("")
    assert "(a b c ...)" in said().stderr


def test_documents_are_copied_to_the_place_that_a_run_looks_for_them(worker, monkeypatch):
    here = worker / "here"
    (here / "texts" / "my notes").mkdir(parents=True)
    (here / "texts" / "my notes" / "a.txt").write_text("A kiln.")
    monkeypatch.chdir(here)
    argument = "--config.data.documents=texts/my notes/"
    done = start("tpu_vm.sh", "run", "--config=a.py", argument, path=worker, **TPU)
    assert done.returncode == 2 and not (worker / "said").exists()
    assert "error: texts/my notes/ is not on this worker; launch/tpu_vm.sh copy" in done.stderr
    stand_in(
        worker, "gcloud",
        'for x; do [[ $x == --command=* ]] && exec bash -c "${x#--command=}"; done\n'
        'cp "$5" ~/"${6#t:}"',
    )  # fmt: skip
    done = start("tpu_vm.sh", "copy", "texts/my notes", path=worker, **TPU)
    assert done.returncode == 0, done.stderr
    assert (worker / "sleep_jax" / "texts" / "my notes" / "a.txt").read_text() == "A kiln."
    done = start("tpu_vm.sh", "run", "--config=a.py", argument, path=worker, **TPU)
    assert done.returncode == 0, done.stderr
    assert argument in wait_for(worker / "said", "notes")
    start("tpu_vm.sh", "stop", path=worker, **TPU)
    for path in ("nowhere", str(here), "../here", "~"):
        done = start("tpu_vm.sh", "copy", path, path=worker, **TPU)
        assert done.returncode == 2 and "give gs://BUCKET/FOLDER" in done.stderr


def test_a_token_reaches_the_workers_and_no_command_line(worker):
    words = dry("tpu_vm.sh", "run", "--config=a.py", HF_TOKEN="hf_secret", **TPU)
    copy, run = words
    assert copy[4] == "scp" and copy[6] == "t:.sleep_jax_token" and "--worker=all" in copy
    assert "hf_secret" not in str(words) and "export HF_TOKEN" in str(run)
    stand_in(
        worker, "gcloud",
        f'echo "$@" >>{worker}/commands\n'
        'for x; do [[ $x == --command=* ]] && exec bash -c "${x#--command=}"; done\n'
        'cp "$5" ~/"${6#t:}"; stat --format=%a "$5" >~/mode',
    )  # fmt: skip
    python = worker / "sleep_jax" / ".venv" / "bin"
    stand_in(python, "python", 'echo "$HF_TOKEN" >~/said')
    done = start("tpu_vm.sh", "run", "--config=a.py", path=worker, HF_TOKEN="hf_secret", **TPU)
    assert done.returncode == 0, done.stderr
    assert wait_for(worker / "said", "hf_") == "hf_secret\n"
    assert (worker / "mode").read_text() == "600\n"
    assert "hf_secret" not in (worker / "commands").read_text() + done.stdout + done.stderr


def test_pods_have_the_token_from_a_secret_that_is_not_printed(tmp_path, commands):
    done = start("gke.sh", *RUN, DRY_RUN="1", HF_TOKEN="hf_secret", **GKE)
    assert done.returncode == 0 and "hf_secret" not in done.stdout + done.stderr, done.stderr
    secret, jobset = yaml.safe_load_all(done.stdout)
    assert secret["data"] == {"HF_TOKEN": "<HF_TOKEN in base64>"}
    [slices] = jobset["spec"]["replicatedJobs"]
    [pod] = slices["template"]["spec"]["template"]["spec"]["containers"]
    [variable] = pod["env"]
    reference = variable["valueFrom"]["secretKeyRef"]
    assert variable["name"] == reference["key"] == "HF_TOKEN" and reference["optional"] is True
    assert reference["name"] == secret["metadata"]["name"] == "n-hf-token"
    stand_in(tmp_path, "kubectl", f'echo "$@" >{tmp_path}/said; cat >{tmp_path}/applied')
    assert start("gke.sh", *RUN, path=tmp_path, HF_TOKEN="hf_secret", **GKE).returncode == 0
    applied, _ = yaml.safe_load_all((tmp_path / "applied").read_text())
    assert base64.b64decode(applied["data"]["HF_TOKEN"]) == b"hf_secret"
    assert "hf_" not in (tmp_path / "said").read_text()
    done = start("gke.sh", str(commands), DRY_RUN="1", HF_TOKEN="hf_secret", **GKE)
    names = [x["metadata"]["name"] for x in yaml.safe_load_all(done.stdout)]
    assert names == ["n-1-hf-token", "n-1", "n-2-hf-token", "n-2"]
    assert ["kubectl", "delete", "secret", "n-hf-token", "--ignore-not-found"] in dry(
        "gke.sh", "delete", **GKE
    )


def test_documents_that_no_image_has_are_refused(tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    for given in (["--config.data.documents=notes"], ["--config.data.documents", str(tmp_path)]):
        done = start("gke.sh", *RUN, *given, DRY_RUN="1", **GKE)
        assert done.returncode == 2 and "is not in the image: put it into" in done.stderr
    monkeypatch.chdir(ROOT)
    given = "--config.data.documents=README.md"
    assert start("gke.sh", *RUN, given, DRY_RUN="1", **GKE).returncode == 0


@pytest.fixture
def worker(tmp_path):
    """A stand-in for gcloud that does on this machine, in another home, what a worker would do."""
    stand_in(
        tmp_path, "gcloud",
        'for x; do [[ $x == --command=* ]] && exec bash -c "${x#--command=}"; done; exit 1',
    )  # fmt: skip
    python = tmp_path / "sleep_jax" / ".venv" / "bin"
    python.mkdir(parents=True)
    trap = "trap 'echo saved >>~/said; exit 0' TERM"
    said = 'printf "%s\\n" "$@" >~/said'
    stand_in(
        python, "python", f"{trap}\n{said}\necho started\nfor i in {{1..200}}; do sleep 0.05; done"
    )
    return tmp_path


def wait_for(file, words):
    for _ in range(200):
        if file.exists() and words in file.read_text():
            return file.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{file} never said {words!r}")


def test_a_run_starts_on_a_worker_with_the_words_it_was_given_and_stops(worker):
    arguments = [
        "--config=configs/a.py",
        "--config.data.documents=my notes/",
        "--config.x=('a', $HOME)",
    ]
    done = start("tpu_vm.sh", "run", *arguments, path=worker, **TPU)
    assert done.returncode == 0, done.stderr
    said = wait_for(worker / "said", "$HOME")
    assert said.splitlines() == ["launch.py", *arguments]
    assert "started" in wait_for(worker / "sleep_jax.log", "started")
    again = start("tpu_vm.sh", "run", *arguments, path=worker, **TPU)
    assert again.returncode == 1 and "error: a run is under way" in again.stderr
    assert start("tpu_vm.sh", "stop", path=worker, **TPU).returncode == 0
    wait_for(worker / "said", "saved")


def test_a_run_needs_to_be_told_which():
    done = start("tpu_vm.sh", "run", DRY_RUN="1", **TPU)
    assert done.returncode == 2 and "which run?" in done.stderr
    assert start("tpu_vm.sh", "dance", DRY_RUN="1", **TPU).returncode == 2


@pytest.mark.parametrize(
    ("topology", "chips", "hosts"), [("4x4", "4", 4), ("2x2x2", "4", 2), ("2x4", "8", 1)]
)
def test_the_manifest_has_a_pod_a_host(topology, chips, hosts):
    arguments = ["--config=configs/a.py", "--config.x=(\"a\", 'b')", "--workdir=gs://bucket/run"]
    variables = GKE | {"TOPOLOGY": topology, "CHIPS": chips, "SLICES": "2"}
    done = start("gke.sh", *arguments, DRY_RUN="1", **variables)
    assert "{{" not in done.stdout
    manifest = yaml.safe_load(done.stdout)
    [slices] = manifest["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    assert (manifest["kind"], manifest["metadata"]["name"]) == ("JobSet", "n")
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (2, hosts, hosts)
    assert job["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": GKE["ACCELERATOR"],
        "cloud.google.com/gke-tpu-topology": topology,
    }
    [container] = pod["containers"]
    assert container["args"] == arguments and container["image"] == "i:1"
    assert container["resources"]["limits"] == {"google.com/tpu": int(chips)}


def test_a_mistake_in_the_command_is_not_made_again_and_all_else_is_started_again():
    filled = start("gke.sh", *RUN, DRY_RUN="1", RESTARTS="7", **GKE).stdout
    spec = yaml.safe_load(filled)["spec"]
    [slices] = spec["replicatedJobs"]
    job = slices["template"]["spec"]
    [rule] = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    [of_pods] = job["podFailurePolicy"]["rules"]
    [container] = job["template"]["spec"]["containers"]
    assert of_pods["action"] == "FailJob"
    assert of_pods["onExitCodes"] == {
        "containerName": container["name"], "operator": "In", "values": [2],
    }  # fmt: skip
    assert STATUS != 2 and spec["failurePolicy"]["maxRestarts"] == 7 and job["backoffLimit"] == 0


@pytest.fixture
def commands(tmp_path):
    """Two commands as `--sweep_print` prints them, and an empty line."""
    file = tmp_path / "commands.txt"
    file.write_text(
        "python launch.py --config=a.py --workdir=gs://bucket/sweep/seed=0\n"
        "python launch.py --config=b.py '--config.x=(1, 2)' --workdir=/runs/b\n\n"
    )
    return file


def test_every_line_of_a_file_is_a_jobset_of_its_own(commands, tmp_path):
    done = start("gke.sh", str(commands), DRY_RUN="1", **GKE | {"NAME": "abl"})
    assert done.returncode == 0, done.stderr
    first, second = yaml.safe_load_all(done.stdout)
    assert [x["metadata"]["name"] for x in (first, second)] == ["abl-1", "abl-2"]
    args = [
        x["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0][
            "args"
        ]
        for x in (first, second)
    ]
    assert args[0] == ["--config=a.py", "--workdir=gs://bucket/sweep/seed=0"]
    assert args[1] == ["--config=b.py", "--config.x=(1, 2)", "--workdir=/runs/b"]
    stand_in(tmp_path, "kubectl", f"cat >{tmp_path}/said")
    assert start("gke.sh", str(commands), path=tmp_path, **GKE | {"NAME": "abl"}).returncode == 0
    assert (tmp_path / "said").read_text() == done.stdout


def test_a_file_of_something_else_starts_nothing(commands):
    with commands.open("a") as file:
        file.write("rm -r runs\n")
    done = start("gke.sh", str(commands), DRY_RUN="1", **GKE)
    assert done.returncode == 2 and "line 4 of" in done.stderr and not done.stdout
    commands.write_text("")
    done = start("gke.sh", str(commands), DRY_RUN="1", **GKE)
    assert done.returncode == 2 and "has no line; give one command a line" in done.stderr
    done = start("gke.sh", "commands.tx", DRY_RUN="1", **GKE)
    assert done.returncode == 2 and "no action and no file 'commands.tx'" in done.stderr


def test_a_name_that_kubernetes_would_refuse_is_refused(commands):
    # NAME-1-slice-0-3-abcde has 63 characters, no more.
    for name, is_good in (("a" * 45, True), ("a" * 46, False), ("Abl", False), ("1st", False)):
        done = start("gke.sh", str(commands), DRY_RUN="1", **GKE | {"NAME": name})
        assert done.returncode == (0 if is_good else 2), done.stderr
        if not is_good:
            assert f"cannot be called {name}-1" in done.stderr and not done.stdout
    assert (
        "47 characters at most" in start("gke.sh", *RUN, DRY_RUN="1", **GKE | {"NAME": "A"}).stderr
    )


def test_a_topology_that_hosts_cannot_fill_is_refused():
    done = start("gke.sh", *RUN, DRY_RUN="1", **GKE | {"TOPOLOGY": "1x1"})
    assert done.returncode == 2 and "1 chips, no multiple of CHIPS=4" in done.stderr
    done = start("gke.sh", *RUN, DRY_RUN="1", **GKE | {"TOPOLOGY": "four"})
    assert done.returncode == 2 and "TOPOLOGY=four; give e.g. 4x4" in done.stderr


def test_a_run_that_would_go_with_its_pod_is_refused(commands):
    for arguments in ((), ("--workdir=runs/x",), (RUN[1], "--workdir", "runs/x")):
        done = start("gke.sh", RUN[0], *arguments, DRY_RUN="1", **GKE)
        assert done.returncode == 2 and "give --workdir=gs://BUCKET/RUN" in done.stderr
    assert start("gke.sh", RUN[0], "--workdir", "gs://b/r", DRY_RUN="1", **GKE).returncode == 0
    commands.write_text("\npython launch.py --config=a.py\n")
    done = start("gke.sh", str(commands), DRY_RUN="1", **GKE)
    assert done.returncode == 2 and "in line 2 of" in done.stderr and not done.stdout
    commands.write_text("\n\n")
    assert start("gke.sh", str(commands), DRY_RUN="1", **GKE).returncode == 2


@pytest.mark.parametrize("name", ["CHIPS", "SLICES", "RESTARTS"])
def test_what_is_no_count_is_refused(name):
    for value in ("0", "-1", "many"):
        done = start("gke.sh", *RUN, DRY_RUN="1", **GKE | {name: value})
        if (name, value) == ("RESTARTS", "0"):
            assert "maxRestarts: 0" in done.stdout
            continue
        assert done.returncode == 2 and f"error: {name}={value}; give" in done.stderr


def test_the_manifest_is_applied(tmp_path):
    stand_in(tmp_path, "kubectl", f'echo "$@" >{tmp_path}/said; cat >>{tmp_path}/said')
    assert start("gke.sh", *RUN, path=tmp_path, **GKE).returncode == 0
    words, manifest = (tmp_path / "said").read_text().split("\n", 1)
    assert words == "apply --filename=-" and yaml.safe_load(manifest)["kind"] == "JobSet"


def test_slurm_runs_the_command_line_and_each_element_of_an_array_its_own(commands):
    task = {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(ROOT)}
    [alone] = dry("slurm.sh", "--config=a.py", "--config.x=a b", **task)
    assert alone[-3:] == ["launch.py", "--config=a.py", "--config.x=a b"] and alone[0] == "srun"
    [second] = dry("slurm.sh", str(commands), SLURM_ARRAY_TASK_ID="2", **task)
    assert second[-4:] == ["launch.py", "--config=b.py", "--config.x=(1, 2)", "--workdir=/runs/b"]
    done = start("slurm.sh", str(commands), SLURM_ARRAY_TASK_ID="3", **task)
    assert done.returncode == 2 and "has no line 3" in done.stderr
    done = start("slurm.sh", str(commands), **task)
    assert done.returncode == 2 and "sbatch --array=1-2 " in done.stderr
    done = start("slurm.sh", "command.txt", **task)
    assert done.returncode == 2 and "command.txt: no such file of commands" in done.stderr
    commands.write_text("rm -r runs\n")
    done = start("slurm.sh", str(commands), SLURM_ARRAY_TASK_ID="1", **task)
    assert done.returncode == 2 and "is no 'python launch.py ...': rm -r runs" in done.stderr
    done = start("slurm.sh", "--config=a.py")
    assert done.returncode == 2 and "type: sbatch launch/slurm.sh --config=a.py" in done.stderr


@pytest.fixture
def slurm(tmp_path):
    """Stand-ins for Slurm's programs: (status of the run, state of the job, variables) -> (what the
    script ended with, what `scontrol` was told)."""

    def submit(status, state, **more):
        told = tmp_path / "told"
        told.write_text("")
        # Slurm may signal the script, too.
        stand_in(tmp_path, "srun", f"kill -TERM $PPID; exit {status}")
        stand_in(tmp_path, "squeue", f'[[ $* == *--jobs="$EXPECTED "* ]] && echo {state}')
        stand_in(tmp_path, "scontrol", f'echo "$@" >>{told}')
        task = {"SLURM_JOB_ID": "9", "SLURM_SUBMIT_DIR": str(ROOT), "EXPECTED": "9"} | more
        done = start("slurm.sh", "--config=a.py", path=tmp_path, **task)
        return done.returncode, told.read_text().split()

    return submit


def test_slurm_queues_again_what_was_asked_to_stop_and_nothing_else(slurm):
    assert slurm(STATUS, "RUNNING") == (STATUS, ["requeue", "9"])
    assert slurm(STATUS, "COMPLETING") == (STATUS, [])  # cancelled
    for status in (0, 1, 2, 143):
        assert slurm(status, "RUNNING") == (status, [])
    # The last task of an array has the id of the whole.
    task = {"SLURM_ARRAY_JOB_ID": "9", "SLURM_ARRAY_TASK_ID": "4", "EXPECTED": "9_4"}
    assert slurm(STATUS, "RUNNING", **task) == (STATUS, ["requeue", "9_4"])


def test_local_processes_share_an_address(tmp_path):
    words = dry("local.sh", "3", "--config=a.py", PYTHON=sys.executable)
    assert [x[-1] for x in words] == ["--process_id=2", "--process_id=1", "--process_id=0"]
    assert len({x[-3] for x in words}) == 1 and words[0][-3].startswith("--coordinator=127.0.0.1:")
    assert {x[-2] for x in words} == {"--num_processes=3"}


def test_when_a_local_process_fails_the_others_are_stopped(tmp_path):
    python = stand_in(
        tmp_path, "python",
        f'[[ $* == *process_id=1* ]] && exit 3; echo $$ >{tmp_path}/pid; exec sleep 60',
    )  # fmt: skip
    begin = time.monotonic()
    done = start("local.sh", "2", "--config=a.py", PYTHON=str(python), PORT="1234")
    assert done.returncode == 3 and "ended with status 3" in done.stderr
    assert time.monotonic() - begin < 30
    pid = tmp_path / "pid"
    if pid.exists():  # else it was stopped before it spoke
        time.sleep(0.2)
        assert not pathlib.Path(f"/proc/{pid.read_text().strip()}").exists()
    assert start("local.sh", "many", "--config=a.py").returncode == 2


def test_when_local_processes_are_asked_to_stop_all_keep_their_place(tmp_path):
    trap = f"trap 'sleep 0.2; echo saved >>{tmp_path}/said; exit {STATUS}' TERM"
    python = stand_in(
        tmp_path, "python",
        f"{trap}\necho begun >>{tmp_path}/begun\nfor i in {{1..200}}; do sleep 0.05; done",
    )  # fmt: skip
    variables = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "PORT": "1234"}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    script = subprocess.Popen([LAUNCH / "local.sh", "2", "--config=a.py"], env=variables, **quiet)
    wait_for(tmp_path / "begun", "begun\nbegun")
    script.send_signal(signal.SIGTERM)
    said, _ = script.communicate(timeout=30)
    assert script.returncode == STATUS and "error" not in said, said
    assert "asked to stop; the same command goes on" in said
    assert (tmp_path / "said").read_text() == "saved\nsaved\n"


def test_when_a_local_process_was_asked_to_stop_the_others_are_waited_for(tmp_path):
    late = f"trap 'echo cut >>{tmp_path}/said' TERM; sleep 0.3; echo saved >>{tmp_path}/said"
    python = stand_in(
        tmp_path, "python", f"[[ $* == *process_id=1* ]] || {{ {late}; }}\nexit {STATUS}"
    )
    done = start("local.sh", "2", "--config=a.py", PYTHON=str(python), PORT="1234")
    assert done.returncode == STATUS and not done.stderr
    assert (tmp_path / "said").read_text() == "saved\n"
