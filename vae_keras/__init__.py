"""A variational autoencoder for Keras 3 with TensorFlow Probability distributions."""

import os

from vae_keras import checks
from vae_keras._version import __version__

checks.python_version()
checks.dependencies()
# Asked before the import too: Keras may fail to import on a backend that is not installed.
checks.keras_backend(os.environ.get("KERAS_BACKEND", "tensorflow"))

import keras  # noqa: E402

checks.keras_backend(keras.backend.backend())

from vae_keras.model import VAE  # noqa: E402
from vae_keras.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder  # noqa: E402
from vae_keras.objectives import ELBO, IWAE  # noqa: E402

__all__ = [
    "ELBO",
    "IWAE",
    "VAE",
    "ConvDecoder",
    "ConvEncoder",
    "MLPDecoder",
    "MLPEncoder",
    "__version__",
]
