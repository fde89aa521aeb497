"""TensorFlow as our users have it: it imports JAX where it finds it, as in this environment.

That takes a second and 160 MB, which are not TensorFlow's and not ours.
"""

from __future__ import annotations

import sys

HIDE_JAX = "import sys; sys.modules['jax'] = None; "
"""Python code that lets no later import in its process find JAX."""


def hide_jax() -> None:
    """Lets no later import in this process find JAX."""
    sys.modules["jax"] = None  # type: ignore[assignment]  # Python's own way to say so
