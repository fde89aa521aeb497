"""The start of a process, before TensorFlow is imported.

This module imports neither TensorFlow nor NumPy, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
_M_TOP_PAD = -2  # from the GNU C library's malloc.h


def command_line(argv: Sequence[str], orig_argv: Sequence[str]) -> str | None:
    """Returns how the user started the command line, or None in every other process.

    Args:
        argv: `sys.argv` at the first import of the package. Python sets its first element to "-m"
            while it looks for the module that it runs.
        orig_argv: `sys.orig_argv`.

    Returns:
        "python -m vae_keras", "vae-keras" for the console script, "python train.py" for the
        script of a checkout, or None.

    Example:
        >>> command_line(["/usr/bin/vae-keras", "presets"], [])
        'vae-keras'
    """
    script = argv[0] if argv else ""
    if script == "-m":
        return "python -m vae_keras" if "vae_keras" in orig_argv else None
    if Path(script).stem == "vae-keras":
        return "vae-keras"
    # A user's own script may be called train.py, too.
    if script and Path(script).resolve() == _PACKAGE.parent / "train.py":
        return "python train.py"
    return None


PROGRAM = command_line(getattr(sys, "argv", ()), getattr(sys, "orig_argv", ()))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Discards everything written to standard error inside the `with` block.

    TensorFlow's C++ libraries write to the file descriptor itself, and some of their lines ignore
    TF_CPP_MIN_LOG_LEVEL.
    """
    if sys.stderr is None:  # the descriptor is closed
        yield
        return
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def keep_freed_memory() -> None:
    """Lets this process keep up to 64 MiB of memory that it frees, on Linux with the GNU C library.

    Without this, the C library returns memory to Linux after each step under a `tf.distribute`
    strategy, and the next step gets it back page by page. The environment variable
    `MALLOC_TOP_PAD_=67108864` has the same effect on a process that starts with it.
    """
    if sys.platform == "linux":
        # Other C libraries for Linux do not have this function.
        getattr(ctypes.CDLL(None), "mallopt", lambda *_: None)(_M_TOP_PAD, 64 * 2**20)


@contextlib.contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Makes libraries look as if they were not installed, for imports inside the `with` block."""
    names = tuple(name for name in names if name not in sys.modules)
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Stops Python's garbage collector inside the `with` block.

    Imports make many objects that stay, and the collector searches all of them again and again.
    This takes a fifth of the processor time of `import tensorflow`.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def require_environment() -> None:
    """Imports Keras, and raises ImportError if the package cannot work in this environment.

    Raises:
        ImportError: if Python, the dependencies or Keras' backend are not those that the package
            needs.
    """
    from vae_keras.utils import checks

    checks.python_version()
    checks.dependencies()
    # This comes before the import, because Keras fails to import on a backend that is missing.
    checks.keras_backend(os.environ.get("KERAS_BACKEND", "tensorflow"))

    # Keras imports these for plots, data frames and its wrappers where they are installed. No
    # command uses those. Without them, `evaluate` of a preset takes 0.88 of the processor time.
    unused = ("matplotlib", "pandas", "sklearn") if PROGRAM else ()
    with _hidden(*unused):
        # TensorFlow Probability comes before Keras, which imports TensorFlow. If TensorFlow came
        # first, it would import its experimental parts at once, which nothing here uses. Now it
        # imports them at their first use.
        import tensorflow_probability  # noqa: F401, I001

        import keras

    checks.keras_backend(keras.backend.backend())
