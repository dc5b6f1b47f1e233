"""launch/gke.sh: the manifests that it writes, with a stand-in for kubectl."""

import base64

import pytest
import yaml
from launch_scripts import ROOT, RUN, dry_run, run_script, stand_in

from sleep_jax.runtime.preemption import STATUS

GKE = {"NAME": "n", "IMAGE": "i:1", "ACCELERATOR": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4"}


def test_pods_read_the_token_from_a_secret_that_is_not_printed(tmp_path, commands):
    done = run_script("gke.sh", *RUN, DRY_RUN="1", HF_TOKEN="hf_secret", **GKE)
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
    assert run_script("gke.sh", *RUN, path=tmp_path, HF_TOKEN="hf_secret", **GKE).returncode == 0
    applied, _ = yaml.safe_load_all((tmp_path / "applied").read_text())
    assert base64.b64decode(applied["data"]["HF_TOKEN"]) == b"hf_secret"
    assert "hf_" not in (tmp_path / "said").read_text()
    done = run_script("gke.sh", str(commands), DRY_RUN="1", HF_TOKEN="hf_secret", **GKE)
    names = [x["metadata"]["name"] for x in yaml.safe_load_all(done.stdout)]
    assert names == ["n-1-hf-token", "n-1", "n-2-hf-token", "n-2"]
    assert ["kubectl", "delete", "secret", "n-hf-token", "--ignore-not-found"] in dry_run(
        "gke.sh", "delete", **GKE
    )


def test_documents_that_are_not_in_the_image_are_refused(tmp_path, monkeypatch):
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["--config.data.documents=notes"],
        ["--config.data.documents", str(tmp_path)],
    ):
        done = run_script("gke.sh", *RUN, *arguments, DRY_RUN="1", **GKE)
        assert done.returncode == 2 and "is not in the image: put it into" in done.stderr
    monkeypatch.chdir(ROOT)
    assert (
        run_script(
            "gke.sh", *RUN, "--config.data.documents=README.md", DRY_RUN="1", **GKE
        ).returncode
        == 0
    )


@pytest.mark.parametrize(
    ("topology", "chips", "hosts"), [("4x4", "4", 4), ("2x2x2", "4", 2), ("2x4", "8", 1)]
)
def test_manifest_has_one_pod_for_each_host(topology, chips, hosts):
    arguments = ["--config=configs/a.py", "--config.x=(\"a\", 'b')", "--workdir=gs://bucket/run"]
    variables = GKE | {"TOPOLOGY": topology, "CHIPS": chips, "SLICES": "2"}
    done = run_script("gke.sh", *arguments, DRY_RUN="1", **variables)
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


def test_manifest_restarts_all_failures_but_usage_errors():
    manifest = run_script("gke.sh", *RUN, DRY_RUN="1", RESTARTS="7", **GKE).stdout
    spec = yaml.safe_load(manifest)["spec"]
    [slices] = spec["replicatedJobs"]
    job = slices["template"]["spec"]
    [rule] = spec["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    [pod_rule] = job["podFailurePolicy"]["rules"]
    [container] = job["template"]["spec"]["containers"]
    assert pod_rule["action"] == "FailJob"
    assert pod_rule["onExitCodes"] == {
        "containerName": container["name"], "operator": "In", "values": [2],
    }  # fmt: skip
    assert STATUS != 2 and spec["failurePolicy"]["maxRestarts"] == 7 and job["backoffLimit"] == 0


def test_every_line_of_a_file_makes_one_jobset(commands, tmp_path):
    done = run_script("gke.sh", str(commands), DRY_RUN="1", **GKE | {"NAME": "abl"})
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
    assert (
        run_script("gke.sh", str(commands), path=tmp_path, **GKE | {"NAME": "abl"}).returncode == 0
    )
    assert (tmp_path / "said").read_text() == done.stdout


def test_file_of_other_commands_is_refused(commands):
    with commands.open("a") as file:
        file.write("rm -r runs\n")
    done = run_script("gke.sh", str(commands), DRY_RUN="1", **GKE)
    assert done.returncode == 2 and "line 4 of" in done.stderr and not done.stdout
    commands.write_text("")
    done = run_script("gke.sh", str(commands), DRY_RUN="1", **GKE)
    assert done.returncode == 2 and "has no line; give one command a line" in done.stderr
    done = run_script("gke.sh", "commands.tx", DRY_RUN="1", **GKE)
    assert done.returncode == 2 and "no action and no file 'commands.tx'" in done.stderr


def test_name_that_kubernetes_would_refuse_is_refused(commands):
    # NAME-1-slice-0-3-abcde has 63 characters, no more.
    for name, is_good in (("a" * 45, True), ("a" * 46, False), ("Abl", False), ("1st", False)):
        done = run_script("gke.sh", str(commands), DRY_RUN="1", **GKE | {"NAME": name})
        assert done.returncode == (0 if is_good else 2), done.stderr
        if not is_good:
            assert f"cannot be called {name}-1" in done.stderr and not done.stdout
    assert (
        "47 characters at most"
        in run_script("gke.sh", *RUN, DRY_RUN="1", **GKE | {"NAME": "A"}).stderr
    )


def test_topology_that_hosts_cannot_fill_is_refused():
    done = run_script("gke.sh", *RUN, DRY_RUN="1", **GKE | {"TOPOLOGY": "1x1"})
    assert done.returncode == 2 and "1 chips, no multiple of CHIPS=4" in done.stderr
    done = run_script("gke.sh", *RUN, DRY_RUN="1", **GKE | {"TOPOLOGY": "four"})
    assert done.returncode == 2 and "TOPOLOGY=four; give e.g. 4x4" in done.stderr


def test_workdir_on_the_disk_of_a_pod_is_refused(commands):
    for arguments in ((), ("--workdir=runs/x",), (RUN[1], "--workdir", "runs/x")):
        done = run_script("gke.sh", RUN[0], *arguments, DRY_RUN="1", **GKE)
        assert done.returncode == 2 and "give --workdir=gs://BUCKET/RUN" in done.stderr
    assert run_script("gke.sh", RUN[0], "--workdir", "gs://b/r", DRY_RUN="1", **GKE).returncode == 0
    commands.write_text("\npython launch.py --config=a.py\n")
    done = run_script("gke.sh", str(commands), DRY_RUN="1", **GKE)
    assert done.returncode == 2 and "in line 2 of" in done.stderr and not done.stdout
    commands.write_text("\n\n")
    assert run_script("gke.sh", str(commands), DRY_RUN="1", **GKE).returncode == 2


@pytest.mark.parametrize("name", ["CHIPS", "SLICES", "RESTARTS"])
def test_variable_that_is_no_count_is_refused(name):
    for value in ("0", "-1", "many"):
        done = run_script("gke.sh", *RUN, DRY_RUN="1", **GKE | {name: value})
        if (name, value) == ("RESTARTS", "0"):
            assert "maxRestarts: 0" in done.stdout
            continue
        assert done.returncode == 2 and f"error: {name}={value}; give" in done.stderr


def test_manifest_is_applied(tmp_path):
    stand_in(tmp_path, "kubectl", f'echo "$@" >{tmp_path}/said; cat >>{tmp_path}/said')
    assert run_script("gke.sh", *RUN, path=tmp_path, **GKE).returncode == 0
    words, manifest = (tmp_path / "said").read_text().split("\n", 1)
    assert words == "apply --filename=-" and yaml.safe_load(manifest)["kind"] == "JobSet"
