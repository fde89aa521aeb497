"""The commands in the guide and in `deploy/` for other machines are commands that exist."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from vae_keras import training
from vae_keras.cli import outcome
from vae_keras.cli.main import main
from vae_keras.training import cluster

ROOT = Path(__file__).resolve().parent.parent.parent
GUIDES = ROOT / "docs" / "guides"
MACHINES = (GUIDES / "several_machines.md").read_text(encoding="utf-8")
FIT = (GUIDES / "fit.md").read_text(encoding="utf-8")
KUBERNETES = (ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8")
SLURM = (ROOT / "deploy" / "slurm.sh").read_text(encoding="utf-8")


def test_the_two_shells_are_two_workers_of_one_cluster():
    configs = re.findall(r"export TF_CONFIG='(.*)'\n.* --strategy multi_worker", MACHINES)
    found = [cluster._from_tf_config(config) for config in configs]
    assert [task for _, _, task in found] == [0, 1]
    assert found[0][0] == found[1][0]


def pod(tmp_path, index):
    """Returns the command and the TF_CONFIG in the pod with this index."""
    (block,) = re.findall(r"args:\n\s+- \|\n((?: {14}.*\n)+)", KUBERNETES)
    stub = tmp_path / "python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n%s" "$*" "$TF_CONFIG"\n')
    stub.chmod(0o755)
    (workers,) = re.findall(r'name: WORKERS.*\n\s+value: "(\d+)"', KUBERNETES)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "WORKERS": workers,
        "JOB_COMPLETION_INDEX": str(index),
    }
    script = "".join(line[14:] for line in block.splitlines(keepends=True))
    run = subprocess.run(
        ["sh", "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    command, _, config = run.stdout.partition("\n")
    return command, config


def test_each_pod_is_a_worker_of_one_cluster(tmp_path):
    (count,) = {int(n) for n in re.findall(r"(?:completions|parallelism): (\d+)", KUBERNETES)}
    found = [cluster._from_tf_config(pod(tmp_path, index)[1]) for index in range(count)]
    assert [task for _, _, task in found] == list(range(count))
    (addresses,) = {tuple(jobs["worker"]) for jobs, _, _ in found}
    name, subdomain = re.findall(
        r"name: (\S+)\nspec:\n  completionMode|subdomain: (\S+)", KUBERNETES
    )
    assert addresses == tuple(f"{name[0]}-{i}.{subdomain[1]}:2222" for i in range(count))


def test_the_jobs_exit_codes_are_the_commands():
    assert f"values: [{outcome.USAGE_ERROR}, {outcome.DIVERGED}]" in KUBERNETES
    assert f"| {outcome.TRY_AGAIN} | another worker was lost" in FIT
    assert f"exit code {outcome.TRY_AGAIN}" in MACHINES
    assert f"exit code {outcome.TRY_AGAIN}" in KUBERNETES


def test_the_slurm_script_is_sound_shell():
    subprocess.run(["bash", "-n", ROOT / "deploy" / "slurm.sh"], check=True)


@pytest.mark.parametrize("where", ["slurm", "kubernetes"])
def test_the_jobs_commands_are_what_train_takes(where, tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr(training, "train", wanted.append)
    if where == "slurm":
        (line,) = re.findall(r"^srun .*?python (train.py .*)$", SLURM, re.MULTILINE)
    else:
        line, _ = pod(tmp_path, 0)
    assert main(["train", *shlex.split(line)[1:]]) == 0
    assert wanted[0].strategy == "multi_worker"
    assert wanted[0].recipe().epochs > 0
