"""TensorFlow as our users have it, without what is in this environment for the peers.

TensorFlow imports JAX and Keras scikit-learn where they find them: memory and time that are neither
theirs nor ours.
"""

from __future__ import annotations

import sys

HIDE_PEERS = f"from {__name__} import hide_peers; hide_peers(); "
"""The call of `hide_peers` as code, for a process that starts in the checkout's root."""


def hide_peers() -> None:
    """Lets no later import in this process find the peers' packages."""
    sys.modules.update(dict.fromkeys(("jax", "sklearn")))  # None is Python's own way to say so
