"""TensorFlow as our users have it, without what is in this environment for the peers.

TensorFlow imports JAX and Keras scikit-learn where they find them: a second and 220 MB that are
neither theirs nor ours.
"""

from __future__ import annotations

import sys

_PACKAGES = ("jax", "sklearn")

HIDE_PEERS = f"import sys; sys.modules.update(dict.fromkeys({_PACKAGES!r})); "
"""Python code that lets no later import in its process find the peers' packages."""


def hide_peers() -> None:
    """Lets no later import in this process find the peers' packages."""
    sys.modules.update(dict.fromkeys(_PACKAGES))  # None is Python's own way to say so
