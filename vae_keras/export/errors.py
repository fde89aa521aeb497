"""Errors of TensorFlow's writers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf


@contextlib.contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Re-raises a TensorFlow error as the OSError of the file that could not be written.

    Args:
        target: file or folder that the block writes.

    Raises:
        OSError: if the block raises `tf.errors.OpError`.

    Example:
        >>> with write_errors(Path("exported/1")):
        ...     pass
    """
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"{target} could not be written: {error.message}") from error
