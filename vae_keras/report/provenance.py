"""The entries of `metrics.json`: each number with how it was made, and what it was made with."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from vae_keras._version import __version__


def provenance(data_sha256: str) -> dict[str, Any]:
    """Returns the commit, the versions, the hardware and the data behind a number.

    Args:
        data_sha256: SHA-256 of the images, as `datasets.fingerprint` returns it.

    Returns:
        JSON-ready values under "commit", "versions", "hardware" and "data_sha256". The commit is
        None outside of a checkout, and ends in "-dirty" if tracked files were changed.

    Example:
        >>> provenance("0fa7")["versions"]["vae_keras"] == vae_keras.__version__
        True
    """
    return {
        "commit": _commit(),
        "versions": {
            "vae_keras": __version__,
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "tensorflow_probability": tfp.__version__,
            "numpy": np.__version__,
            "matplotlib": matplotlib.__version__,
        },
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "gpus": len(tf.config.list_physical_devices("GPU")),
        },
        "data_sha256": data_sha256,
    }


def metric(name: str, value: float, **facts: Any) -> dict[str, Any]:
    """Returns one entry of `metrics.json`: a number with how it was measured.

    Args:
        name: what was measured, such as "elbo".
        value: the number.
        **facts: how it was measured, such as `unit`, `estimator`, `split` or `standard_error`.
            A fact that is NaN is left out, because JSON has no NaN. The standard error over a
            single image is one.

    Returns:
        JSON-ready values.

    Example:
        >>> metric("elbo", -99.5, split="test", standard_error=float("nan"))
        {'name': 'elbo', 'value': -99.5, 'split': 'test'}
    """
    known = {fact: given for fact, given in facts.items() if given == given}
    return {"name": name, "value": value, **known}


def _commit() -> str | None:
    """Returns the checkout's commit, or None if the package is not run from a checkout."""
    checkout = Path(__file__).resolve().parent.parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", os.fspath(checkout), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # An installed package may lie inside of another project's checkout.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != checkout:
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
