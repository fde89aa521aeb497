"""A variational autoencoder for Keras 3 with TensorFlow Probability distributions."""

import os
import sys

from vae_keras import checks
from vae_keras._version import __version__

try:
    checks.python_version()
    checks.dependencies()
    # Asked before the import too: Keras may fail to import on a backend that is not installed.
    checks.keras_backend(os.environ.get("KERAS_BACKEND", "tensorflow"))

    import keras

    checks.keras_backend(keras.backend.backend())

    from vae_keras.distributions import Bernoulli, ContinuousBernoulli
    from vae_keras.model import VAE
    from vae_keras.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
    from vae_keras.objectives import ELBO, IWAE
except (ImportError, KeyboardInterrupt) as error:
    # `python -m vae_keras` comes here before its own first line, and owes one line, too.
    if sys.argv[0] == "-m" and "vae_keras" in sys.orig_argv and "--debug" not in sys.orig_argv:
        stopped = isinstance(error, KeyboardInterrupt)
        print("\nStopped." if stopped else f"Error: {error}", file=sys.stderr)
        sys.exit(130 if stopped else 2)
    raise

__all__ = [
    "ELBO",
    "IWAE",
    "VAE",
    "Bernoulli",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "__version__",
]
