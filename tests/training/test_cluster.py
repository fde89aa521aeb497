"""Clusters: addresses from the environment, the meeting, and real processes that train."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from vae_keras.training import callbacks, cluster
from vae_keras.utils.checks import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
TWO = ["10.0.0.1:2222", "10.0.0.2:2222"]


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM", "TF_CONFIG"))]:
        monkeypatch.delenv(name)


def tf_config(jobs, job="worker", task=0):
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": task}})


# ------------------------------------------------------------------------- what the flag means


def test_none_is_one_process_without_a_strategy():
    alone = cluster.join("none")
    assert alone.strategy is None
    assert alone.is_chief
    assert alone.on_chief(lambda: b"said") == b"said"
    assert alone.on_chief(lambda: None) == b""
    with alone.scope(), alone.watched():
        pass


def test_mirrored_takes_every_device_of_this_process():
    alone = cluster.join("mirrored")
    assert alone.strategy.num_replicas_in_sync == 1  # tests run on one CPU
    assert alone.is_chief
    assert not alone.has_peers


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "must be JSON. Received: '{'"),
        ("[]", "must hold cluster, task.type and task.index"),
        ("3", "must hold cluster"),
        ('{"cluster": {"worker": ["a:1"]}}', "must hold cluster"),
        ('{"cluster": ["a:1"], "task": {"type": "worker", "index": 0}}', "must hold cluster"),
        (tf_config({}), "must name the job worker"),
        (tf_config({"worker": TWO, "ps": ["a:1"]}), "Received: ['ps', 'worker']"),
        (tf_config({"worker": TWO, "chief": ["a:1", "b:1"]}), "may name one chief"),
        (tf_config({"worker": ["a"]}), "as host:port. Received: 'a'"),
        (tf_config({"worker": [7]}), "as host:port. Received: 7"),
        (tf_config({"worker": ["a:1", "a:1"]}), "a different address"),
        (tf_config({"worker": TWO}, "chief"), "a task.type in ['worker']. Received: 'chief'"),
        (tf_config({"worker": TWO}, task=2), "a task.index from 0 to 1. Received: 2"),
        (tf_config({"worker": TWO}, task=-1), "a task.index from 0 to 1. Received: -1"),
        (tf_config({"worker": TWO}, task="0"), "a task.index from 0 to 1. Received: '0'"),
        (tf_config({"worker": TWO}, task=True), "a task.index from 0 to 1. Received: True"),
    ],
)
def test_a_bad_tf_config_is_refused(monkeypatch, text, sentence):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError) as caught:
        cluster.join("multi_worker")
    assert sentence in str(caught.value)
    assert "Received: " in str(caught.value)
    assert 'See the guide "Several machines".' in str(caught.value)
    assert "\n" not in str(caught.value)


def test_multi_worker_needs_an_environment():
    with pytest.raises(InputError, match=r"TF_CONFIG, or a Slurm step .* Received: neither"):
        cluster.join("multi_worker")


def test_an_unknown_strategy_is_refused():
    with pytest.raises(InputError, match=r"strategy must be one of: none, mirrored, multi_worker"):
        cluster.join("parameter_server")


def test_a_chief_job_comes_first(monkeypatch):
    jobs = {"worker": TWO, "chief": ["10.0.0.9:2222"]}
    monkeypatch.setenv("TF_CONFIG", tf_config(jobs, "worker", 1))
    assert cluster._from_environment() == (jobs, "worker", 1)


def slurm(monkeypatch, **changes):
    step = {
        "JOB_ID": "1234567",
        "STEP_NUM_TASKS": "4",
        "STEP_NODELIST": "n[9-10]",
        "STEP_TASKS_PER_NODE": "2(x2)",
        "PROCID": "0",
        "LOCALID": "0",
    }
    for name, value in (step | changes).items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_slurm_tasks_know_their_own_addresses(monkeypatch):
    port = 10000 + 1234567 % 20000
    places = [("n9", 0), ("n9", 1), ("n10", 0), ("n10", 1)]  # in the order of Slurm's ranks
    found = []
    for rank, (node, local) in enumerate(places):
        slurm(monkeypatch, PROCID=str(rank), LOCALID=str(local))
        monkeypatch.setenv("SLURMD_NODENAME", node)
        jobs, job, task = cluster._from_environment()
        assert job == "worker"
        assert jobs["worker"][task] == f"{node}:{port + local}"
        found.append(task)
    assert sorted(found) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "node"),
    [
        ({"STEP_NODELIST": "n[9"}, "n9"),
        ({"STEP_TASKS_PER_NODE": "two"}, "n9"),
        ({"JOB_ID": "x"}, "n9"),
        ({}, "elsewhere"),
    ],
)
def test_a_broken_slurm_step_is_refused(monkeypatch, changes, node):
    slurm(monkeypatch, **changes)
    monkeypatch.setenv("SLURMD_NODENAME", node)
    with pytest.raises(InputError, match=r"variables of a Slurm step. Received: .* with srun"):
        cluster.join("multi_worker")


# --------------------------------------------------------------------------------- the meeting


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = tuple(f"127.0.0.1:{server.getsockname()[1]}" for server in sockets)
    for server in sockets:
        server.close()
    return addresses


def meet(addresses, indices, seconds):
    """Lets some of the workers come; index to the exception each ended with, or None."""
    ended = {}

    def come(index):
        try:
            ended[index] = cluster._meet(addresses, index, seconds)
        except Exception as error:
            ended[index] = error

    threads = [threading.Thread(target=come, args=(index,)) for index in indices]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(30)
    return ended


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_leave_the_meeting_when_all_have_come(order):
    assert meet(free_addresses(3), order, 20) == {0: None, 1: None, 2: None}


def test_the_chief_names_who_is_missing():
    addresses = free_addresses(3)
    ended = meet(addresses, (0, 1), 1.5)
    assert isinstance(ended[0], cluster.WorkerLost)
    assert f"did not hear from worker 2 ({addresses[2]})" in str(ended[0])
    assert isinstance(ended[1], cluster.WorkerLost)
    assert f"The chief at {addresses[0]} did not answer" in str(ended[1])


def test_the_meeting_frees_the_port_at_once():
    addresses = free_addresses(2)
    for _ in range(2):
        assert meet(addresses, (0, 1), 20) == {0: None, 1: None}
    socket.create_server(("127.0.0.1", int(addresses[0].rpartition(":")[2]))).close()


def test_a_worker_of_another_cluster_is_turned_away():
    addresses = free_addresses(2)
    chief = threading.Thread(target=cluster._meet, args=(addresses, 0, 20))
    chief.start()
    with pytest.raises(InputError, match="must list the same addresses"):
        cluster._meet((addresses[0], "10.0.0.7:2222"), 1, 20)
    cluster._meet(addresses, 1, 20)
    chief.join(10)
    assert not chief.is_alive()


def test_a_busy_port_is_named():
    with socket.create_server(("", 0)) as server:
        addresses = (f"127.0.0.1:{server.getsockname()[1]}", "127.0.0.1:1")
        with pytest.raises(InputError, match=r"must be free .* \(Address already in use\)"):
            cluster._meet(addresses, 0, 5)


# -------------------------------------------------------------------------------- real processes


class Workers:
    """Two processes that train together, the second one with a run folder of its own; or one."""

    def __init__(self, folder, *flags, count=2, seconds=0.1):
        self.folders = [folder, folder.with_name(f"{folder.name}-elsewhere")][:count]
        self.known = set(folder.glob("checkpoints/epoch-*.json"))
        addresses = free_addresses(count)
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.training.worker_process", str(own), *flags],
                cwd=ROOT,
                env=os.environ
                | {"TF_CONFIG": tf_config({"worker": addresses}, task=index)}
                | {"TF_CPP_MIN_LOG_LEVEL": "3", "SECONDS": str(seconds)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for index, own in enumerate(self.folders)
        ]

    def wait_for(self, text):
        """Reads the chief's output up to a line that begins with `text`, and returns that line."""
        return next(line for line in self.processes[0].stdout if line.startswith(text))

    def place(self):
        """The step of its epoch that the chief says it goes on after."""
        return int(re.search(r"step (\d+)\.", self.wait_for("Going on after epoch"))[1])

    def wait_for_a_checkpoint(self, steps):
        """Returns as soon as the chief has written one after such a number of an epoch's steps."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            found = set(self.folders[0].glob("checkpoints/epoch-*.json")) - self.known
            if any(int(path.stem.rpartition("-")[2]) in steps for path in found):
                return
            time.sleep(0.002)
        pytest.fail("no checkpoint in the middle of an epoch")

    def end(self, seconds=300):
        """Waits for both: their exit codes, outputs and errors."""
        ended = [process.communicate(timeout=seconds) for process in self.processes]
        codes = [process.returncode for process in self.processes]
        return codes, [out for out, _ in ended], [error for _, error in ended]


EPOCHS = ("--epochs", "6")
SPREAD = (*EPOCHS, "--strategy", "multi_worker")
MIDDLE = range(2, 10)  # of an epoch's 16 steps


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """A run by two workers that nothing disturbs: its folder and what both printed."""
    workers = Workers(tmp_path_factory.mktemp("together") / "run", *SPREAD)
    codes, outputs, errors = workers.end()
    assert codes == [0, 0], errors
    return workers.folders, outputs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run by one process: its folder."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    command = [sys.executable, "-m", "tests.training.worker_process", str(folder), *EPOCHS]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300, capture_output=True)
    return folder


def curve(folder):
    rows = callbacks.read_elbo_csv(folder / "elbo.csv")
    return [{name: text for name, text in row.items() if name != "seconds"} for row in rows]


def state(folder):
    """The last checkpoint's weights and optimizer state, as bytes."""
    with zipfile.ZipFile(folder / "checkpoints" / "epoch-00006-step-0000000.keras") as archive:
        return archive.read("model.weights.h5")


@pytest.mark.slow
def test_every_worker_ends_with_identical_weights(together):
    digests = [re.findall(r"^weights (\w+)$", output, re.MULTILINE) for output in together[1]]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 1


@pytest.mark.slow
def test_only_the_chief_writes(together):
    (chief, other), outputs = together
    assert (chief / "report.html").exists()
    assert not other.exists()
    assert "Epoch: 5 ELBO: " in outputs[0]
    assert outputs[1].startswith("weights ")
    assert len(outputs[1].splitlines()) == 1


@pytest.mark.slow
def test_two_workers_train_as_one_process_does(together, alone):
    one, two = curve(alone), curve(together[0][0])
    assert len(one) == len(two) == 6
    for expected, found in zip(one, two, strict=True):
        for name in expected:
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-5), name
    weights = [
        keras.saving.load_model(folder / "model.keras").get_weights()
        for folder in (alone, together[0][0])
    ]
    for expected, found in zip(*weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_stopped_and_killed_workers_go_on_bit_for_bit(together, tmp_path):
    folder = tmp_path / "run"

    workers = Workers(folder, *SPREAD)
    workers.wait_for("Epoch: 0 ")
    workers.processes[1].send_signal(signal.SIGTERM)  # one is told, both stop after the same step
    codes, _, errors = workers.end()
    assert codes == [143, 143], errors
    stops = [re.findall(r"Stopped (.*); the state is saved", error) for error in errors]
    assert stops[0] == stops[1]
    assert len(stops[0]) == 1

    for victim in (1, 0):
        workers = Workers(folder, *SPREAD, seconds=1e-9)  # a checkpoint after every step
        assert workers.place() > 0 or victim == 1, "the other one was killed between epochs"
        workers.wait_for_a_checkpoint(MIDDLE)
        workers.processes[victim].kill()
        began = time.monotonic()
        codes, _, errors = workers.end()
        assert codes[victim] == -signal.SIGKILL
        assert codes[1 - victim] == 75, errors
        assert time.monotonic() - began < 60
        message = errors[1 - victim].splitlines()[-1]
        assert message.startswith(f"Error: Worker {1 - victim} lost worker {victim} (127.0.0.1:")
        assert "Start every worker again with the same command" in message
        assert "Traceback" not in errors[1 - victim]

    workers = Workers(folder, *SPREAD)
    assert workers.place() > 0, "the chief was killed between epochs"
    codes, _, errors = workers.end()
    assert codes == [0, 0], errors
    assert curve(folder) == curve(together[0][0])
    assert state(folder) == state(together[0][0])


@pytest.mark.slow
def test_a_callback_of_one_worker_for_every_batch_changes_nothing(together, tmp_path, monkeypatch):
    """The other worker then does one step in a call, too, and does not wait for messages."""
    monkeypatch.setenv("HOOKED", "1")
    workers = Workers(tmp_path / "run", *SPREAD)
    codes, _, errors = workers.end()
    assert codes == [0, 0], errors
    assert state(workers.folders[0]) == state(together[0][0])


@pytest.mark.slow
def test_one_process_and_two_go_on_from_each_others_checkpoints(alone, tmp_path):
    folder = tmp_path / "run"
    for flags, count, epoch in ((EPOCHS, 1, 0), (SPREAD, 2, 2), (EPOCHS, 1, None)):
        workers = Workers(folder, *flags, count=count)
        if epoch != 0:
            workers.place()
        if epoch is not None:
            workers.wait_for(f"Epoch: {epoch} ")
            workers.processes[0].send_signal(signal.SIGTERM)
        codes, _, errors = workers.end()
        assert set(codes) == {0 if epoch is None else 143}, errors
    for expected, found in zip(curve(alone), curve(folder), strict=True):
        for name in expected:
            assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-5), name


@pytest.mark.slow
def test_workers_share_a_cache_on_the_disk(tmp_path, digits, monkeypatch):
    """One of them makes it, and they train bit for bit as from memory."""
    path, cache = tmp_path / "digits.npy", tmp_path / "cache"
    np.save(path, np.concatenate([digits + np.uint8(i) for i in range(8)]))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    flags = ("--data", str(path), "--epochs", "2", "--strategy", "multi_worker")
    weights, said = {}, {}
    for place in ("memory", "disk"):
        with monkeypatch.context() as patch:
            if place == "disk":
                patch.setenv("ON_DISK", "1")
            codes, outputs, errors = Workers(tmp_path / place, *flags).end()
        assert codes == [0, 0], errors
        digests = [re.findall(r"^weights (\w+)$", out, re.MULTILINE) for out in outputs]
        assert digests[0] == digests[1]
        weights[place], said[place] = digests[0], "".join(outputs)
    assert len(weights["disk"]) == 1
    assert weights["disk"] == weights["memory"]
    assert said["disk"].count("Decoding 480 images into ") == 1
    assert "Decoding" not in said["memory"]
    assert len(list((cache / "vae_keras" / "images").iterdir())) == 1


@pytest.mark.slow
def test_what_the_chief_refuses_ends_every_worker(together):
    workers = Workers(together[0][0], *SPREAD, "--seed", "1")
    codes, _, errors = workers.end()
    assert codes == [2, 2]
    for error in errors:
        assert "which holds another seed" in error.splitlines()[-1]
