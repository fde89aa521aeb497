"""What TensorFlow's profiler sees of our training step: `python -m benchmarks trace`.

The time of each operation by itself, without those inside of it, on the threads that compute; the
threads that only wait for them are left out. Shares are kept, no times: with company on the machine
all operations take longer.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results

PATH = results.FOLDER / "trace.json"
_BATCH_SIZE, _NUM_IMAGES = 200, 60000
_TOP = 15
_COPY = re.compile(r"(_\d+)?(\.\d+)*$")  # of one operation, as the compiler numbers them


def measure() -> dict[str, Any]:
    """Profiles an epoch of `VAE.fit` on MNIST after one that compiles, and sums its operations."""
    import tensorflow as tf

    from vae_keras import VAE
    from vae_keras.data import datasets

    about = results.machine()
    images = datasets.load_mnist().x_train[:_NUM_IMAGES]
    vae = VAE()
    vae.compile()
    vae.fit(images, batch_size=_BATCH_SIZE, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            vae.fit(images, batch_size=_BATCH_SIZE, verbose=0)
        (path,) = Path(folder).rglob("*.xplane.pb")
        seconds = sum_up(_operations(path.read_bytes()))
    total = sum(seconds.values())
    top = seconds.most_common(_TOP)
    return {
        "batch_size": _BATCH_SIZE,
        "steps": len(images) // _BATCH_SIZE,
        "shares": {name: value / total for name, value in top},
        "machine": about,
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "keras")},
    }


def sum_up(lines: Iterable[list[tuple[str, int, int]]]) -> Counter[str]:
    """Sums the seconds of each operation without those of the operations inside of it.

    Args:
        lines: a thread each, (name, start, end) in picoseconds; names may carry a copy's number.
    """
    seconds: Counter[str] = Counter()
    for line in lines:
        opened: list[tuple[str, int]] = []
        for name, start, end in sorted(line, key=lambda event: (event[1], -event[2])):
            while opened and opened[-1][1] <= start:
                opened.pop()
            name = _COPY.sub("", name)
            seconds[name] += (end - start) / 1e12
            if opened:
                seconds[opened[-1][0]] -= (end - start) / 1e12
            opened.append((name, end))
    return seconds


def text(path: Path = PATH) -> str:
    """Renders the shares as a Markdown table."""
    if not path.exists():
        return "Not measured yet."
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    machine = found["machine"]
    named = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = ["| operation | share of the operations' time |", "|---|---|"]
    lines += [f"| `{name}` | {share:.1%} |" for name, share in found["shares"].items()]
    rest = 1.0 - sum(found["shares"].values())
    lines.append(f"| all others | {rest:.1%} |")
    return "\n".join(lines) + (
        "\n\n`ThunkExecutor::Execute` is the time in XLA's executor outside of its operations. "
        f"Batch size {found['batch_size']}, {found['steps']} steps, "
        f"{machine['cores']} cores of {machine['cpu']}, load average before the run "
        f"{machine['load_average']}, hence shares and no times; {named}."
    )


def _operations(content: bytes) -> Iterator[list[tuple[str, int, int]]]:
    """The operations of each thread that computes: TensorFlow's, and those XLA made."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (plane,) = (
        plane for plane in xplane_pb2.XSpace.FromString(content).planes if plane.name == "/host:CPU"
    )
    for line in plane.lines:
        compiled = "Eigen" in line.name  # XLA's pool
        if not compiled and not line.name.startswith("tf_"):
            continue
        events = []
        for event in line.events:
            name = plane.event_metadata[event.metadata_id].name
            # TensorFlow's operations are "name:Type"; what is not is the machinery around them.
            operation = re.fullmatch(r"[^: ]+:(\w+)", name)
            if compiled or operation:
                name = operation[1] if operation else name
                events.append((name, event.offset_ps, event.offset_ps + event.duration_ps))
        yield events
