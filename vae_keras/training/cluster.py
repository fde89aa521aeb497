"""The processes and devices that train together.

TensorFlow waits up to an hour for a worker that does not start, and handles no signal during that
time. Therefore the workers first meet at the chief's address: this wait has a limit, names the
workers that are missing, and can be interrupted. During training, TensorFlow's coordination
service notices within about ten seconds that a worker is dead, and then every collective operation
ends with an error.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from vae_keras.utils import checks

STRATEGIES = ("none", "mirrored", "multi_worker")

_MEET_SECONDS = 600.0  # the machines of a cluster do not start at the same time
_GUIDE = 'See the guide "Several machines".'
_PART = 1 << 16  # a message is sent in parts of so many 32-bit words
_GO, _NO = b"go\n", b"no\n"
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
)


class WorkerLost(Exception):
    """Training ended because a worker was lost. All workers must be started again."""


@dataclass(frozen=True)
class Cluster:
    """The processes that train together, from the view of one of them.

    Attributes:
        strategy: the strategy that the model is built under, or None for one process with one
            device. Default None.
        addresses: addresses "host:port" of the workers, the chief's first. Default (), one process.
        index: index of this process in `addresses`. The chief has index 0. Default 0.
    """

    strategy: tf.distribute.Strategy | None = None
    addresses: tuple[str, ...] = ()
    index: int = 0

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files and the console."""
        return self.index == 0

    @property
    def has_peers(self) -> bool:
        """Whether there are other processes."""
        return len(self.addresses) > 1

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which the model is built and compiled."""
        return contextlib.nullcontext() if self.strategy is None else self.strategy.scope()

    def on_chief(self, act: Callable[[], bytes | None]) -> bytes:
        """Runs a function on the chief. Every worker waits for its result.

        Args:
            act: the function. Its result is sent to the other workers.

        Returns:
            What `act` returned on the chief, or b"" for None.

        Raises:
            checks.InputError: on the other workers, if `act` raised an InputError or an OSError.
            WorkerLost: on the other workers, if `act` raised another exception.

        Example:
            >>> Cluster().on_chief(lambda: b"result")
            b'result'
        """
        if not self.has_peers:
            return act() or b""
        failure: Exception | None = None
        message = b""
        if self.is_chief:
            try:
                message = b"+" + (act() or b"")
            except (checks.InputError, OSError) as error:
                failure, message = error, f"!{error}".encode()
            except Exception as error:
                failure, message = error, f"?{error}".encode()
        message = self._from_chief(message)
        if failure is not None:
            raise failure
        if message[:1] == b"!":
            raise checks.InputError(message[1:].decode())
        if message[:1] == b"?":
            raise WorkerLost(f"The chief ended: {message[1:].decode()}")
        return message[1:]

    def _from_chief(self, message: bytes) -> bytes:
        """Returns the chief's message on every worker. The other workers' argument is ignored."""
        header = np.frombuffer(len(message).to_bytes(8, "little") + message, np.uint8)
        parts = [np.zeros(_PART, np.int32) for _ in range(-(-len(header) // (4 * _PART)))]
        for index, part in enumerate(parts):
            piece = header[index * 4 * _PART :][: 4 * _PART]
            part.view(np.uint8)[: len(piece)] = piece
        received, length = b"", _PART
        while len(received) < length + 8:
            part = parts.pop(0) if self.is_chief else np.zeros(_PART, np.int32)
            received += self._sum(tf.constant(part)).numpy().tobytes()
            length = int.from_bytes(received[:8], "little")
        return received[8 : 8 + length]

    @functools.cached_property
    def _sum(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Sums int32 [_PART] over the workers, with zeros for all workers but the chief."""
        strategy = self.strategy
        assert strategy is not None, "only several processes send messages"

        def add(values: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.int32)
            return context.all_reduce("sum", values * first)

        def total(values: tf.Tensor) -> tf.Tensor:
            summed = strategy.run(add, args=(values,))
            return strategy.experimental_local_results(summed)[0]

        # A collective operation has a fixed shape.
        spec = tf.TensorSpec([_PART], tf.int32)
        return tf.function(total, input_signature=[spec], autograph=False)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Turns TensorFlow's error about a lost worker into a `WorkerLost`.

        Raises:
            WorkerLost: names the worker that was lost.
        """
        try:
            yield
        except _LOST as error:
            if not self.has_peers or not re.search("[Cc]ollective|[Cc]oordination", str(error)):
                raise
            raise WorkerLost(
                f"Worker {self.index} lost {self._culprit(str(error))}; training cannot go on "
                "without it. Start every worker again with the same command: they go on from the "
                "chief's last checkpoint."
            ) from None

    def _culprit(self, text: str) -> str:
        tasks = re.findall(r"/job:(\w+)/(?:replica:\d+/)?task:(\d+)", text)
        if not tasks:
            return "another worker"
        job, task = tasks[-1]  # errors are nested, and the innermost names the origin
        has_chief_job = "/job:chief" in text
        index = int(task) + (has_chief_job and job == "worker")
        return f"worker {index} ({self.addresses[index]})"


def join(name: str) -> Cluster:
    """Joins the processes that train together, and waits until all are there.

    This function must be called before any other use of TensorFlow. It must also be called before
    signal handlers are set, because TensorFlow sets its own.

    Args:
        name: "none" for one process and one device. "mirrored" for one replica on each GPU of
            this machine, or on each logical CPU device if there is no GPU. "multi_worker" for the
            processes in TF_CONFIG or in the Slurm step, with one replica on each of their GPUs, or
            one on the CPU.

    Returns:
        The cluster.

    Raises:
        checks.InputError: if the name is unknown, or TF_CONFIG or the Slurm step cannot be used.
        WorkerLost: if a worker did not start within ten minutes.

    Example:
        >>> join("none").is_chief
        True
    """
    checks.choice("strategy", name, STRATEGIES)
    if name == "none":
        return Cluster()
    if name == "mirrored":
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return Cluster(tf.distribute.MirroredStrategy(devices))
    jobs, job, task = _from_environment()
    addresses = (*jobs.get("chief", ()), *jobs.get("worker", ()))
    index = addresses.index(jobs[job][task])
    _meet(addresses, index)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(jobs),
        task_type=job,
        task_id=task,
        rpc_layer="grpc",
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
    return Cluster(strategy, addresses, index)


# ----------------------------------------------------------------- addresses from the environment

_Jobs = dict[str, list[str]]


def _from_environment() -> tuple[_Jobs, str, int]:
    """Returns the addresses of each job, and the job and the task of this process."""
    if os.environ.get("TF_CONFIG"):
        return _from_tf_config(os.environ["TF_CONFIG"])
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return _from_slurm()
    raise checks.InputError(
        "strategy multi_worker needs TF_CONFIG, or a Slurm step (srun). Received: neither in the "
        f"environment. {_GUIDE}"
    )


def _from_tf_config(text: str) -> tuple[_Jobs, str, int]:
    def refuse(rule: str, received: object) -> checks.InputError:
        return checks.InputError(f"TF_CONFIG must {rule}. Received: {received}. {_GUIDE}")

    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise refuse("be JSON", f"{text[:80]!r} ({error})") from error
    try:
        jobs, job, task = config["cluster"], config["task"]["type"], config["task"]["index"]
        jobs = {name: list(addresses) for name, addresses in jobs.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise refuse("hold cluster, task.type and task.index", repr(text[:200])) from error
    if not jobs or not set(jobs) <= {"chief", "worker"} or len(jobs.get("chief", [])) > 1:
        raise refuse("name the job worker, and may name one chief", sorted(jobs))
    addresses = [address for group in jobs.values() for address in group]
    for address in addresses:
        if not isinstance(address, str) or not re.fullmatch(r"[^\s/]+:\d{1,5}", address):
            raise refuse("give each worker as host:port", repr(address))
    if len(set(addresses)) < len(addresses):
        raise refuse("give each worker a different address", addresses)
    if job not in jobs:
        raise refuse(f"have a task.type in {sorted(jobs)}", repr(job))
    if isinstance(task, bool) or not isinstance(task, int) or not 0 <= task < len(jobs[job]):
        raise refuse(f"have a task.index from 0 to {len(jobs[job]) - 1}", repr(task))
    return jobs, job, task


def _from_slurm() -> tuple[_Jobs, str, int]:
    """Returns the tasks of this Slurm step in the order of TensorFlow's resolver."""
    try:
        # Each Slurm job has its own ports, so that two jobs can share a node.
        first_port = 10000 + int(os.environ["SLURM_JOB_ID"]) % 20000
        resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
            port_base=first_port,
            # Slurm itself assigns GPUs to tasks. The resolver divides by these numbers.
            gpus_per_node=int(os.environ["SLURM_STEP_NUM_TASKS"]),
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        jobs = {"worker": list(resolver.cluster_spec().as_dict()["worker"])}
        # The resolver sorts nodes by name, with n10 before n9. Slurm's ranks have another order.
        port = first_port + int(os.environ["SLURM_LOCALID"])
        task = jobs["worker"].index(f"{os.environ['SLURMD_NODENAME']}:{port}")
    except (KeyError, ValueError, RuntimeError) as error:
        raise checks.InputError(
            "strategy multi_worker needs the variables of a Slurm step. "
            f"Received: {error!r}. Start the command with srun. {_GUIDE}"
        ) from error
    return jobs, "worker", task


# -------------------------------------------------------------------- the meeting of the workers


def _meet(addresses: tuple[str, ...], index: int, seconds: float = _MEET_SECONDS) -> None:
    """Waits until all workers have told the chief their index and the chief has answered.

    Raises:
        WorkerLost: if a worker did not come in time.
    """
    deadline = time.monotonic() + seconds
    # Processes with different lists of addresses must not meet.
    name = hashlib.sha256(json.dumps(addresses).encode()).hexdigest()[:16]
    if index == 0:
        _await_workers(addresses, name, deadline)
    else:
        _greet_chief(addresses[0], f"{name} {index}\n".encode(), deadline)


def _await_workers(addresses: tuple[str, ...], name: str, deadline: float) -> None:
    port = int(addresses[0].rpartition(":")[2])
    missing = set(range(1, len(addresses)))
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(socket.create_server(("", port)))
        except OSError as error:
            raise checks.InputError(
                "the chief's port must be free on its machine. "
                f"Received: {addresses[0]} ({os.strerror(error.errno or 0)}). Choose another."
            ) from error
        if missing:
            print(f"Waiting for {len(missing)} of {len(addresses)} workers...", flush=True)
        here = []
        while missing:
            server.settimeout(max(0.0, deadline - time.monotonic()) or 0.001)
            try:
                connection = stack.enter_context(server.accept()[0])
                connection.settimeout(5.0)
                greeting = connection.recv(64).decode(errors="replace").split()
            except TimeoutError:
                if time.monotonic() >= deadline:
                    absent = ", ".join(f"{i} ({addresses[i]})" for i in sorted(missing))
                    raise WorkerLost(
                        f"The chief did not hear from worker {absent}. Start every worker again."
                    ) from None
                continue
            except OSError:
                continue
            if len(greeting) == 2 and greeting[0] == name and greeting[1].isdigit():
                missing.discard(int(greeting[1]))
                here.append(connection)
            else:
                with contextlib.suppress(OSError):
                    connection.sendall(_NO)
        for connection in here:
            with contextlib.suppress(OSError):
                connection.sendall(_GO)
        # The side that closes first keeps the port busy for a minute: the workers close first.
        for connection in here:
            with contextlib.suppress(OSError):
                connection.recv(1)


def _greet_chief(address: str, greeting: bytes, deadline: float) -> None:
    host, _, port = address.rpartition(":")
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, int(port)), timeout=5.0) as connection,
        ):
            connection.sendall(greeting)
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            answer = connection.recv(len(_GO))
            if answer == _GO:
                return
            if answer == _NO:
                raise checks.InputError(
                    "every worker's TF_CONFIG must list the same addresses. Received: a list that "
                    f"differs from that of the chief at {address}. Change only task.index from "
                    "worker to worker."
                )
        time.sleep(0.5)
    raise WorkerLost(f"The chief at {address} did not answer. Start every worker again.")
