"""A variational autoencoder for Keras 3 with TensorFlow Probability distributions."""

import importlib
from typing import TYPE_CHECKING, Any

from vae_keras._version import __version__
from vae_keras.utils import startup

# The process of a command imports them later: it prints what it does before that, and reports an
# import that fails in one line.
if startup.PROGRAM is None or TYPE_CHECKING:
    with startup.without_collection():
        startup.require_environment()

        # These register their classes with Keras.
        from vae_keras import optimizers as optimizers
        from vae_keras.distributions import Bernoulli, ContinuousBernoulli
        from vae_keras.logistic_mixture import DiscretizedLogisticMixture
        from vae_keras.model import VAE
        from vae_keras.networks import (
            ConvDecoder,
            ConvEncoder,
            MLPClassifier,
            MLPDecoder,
            MLPEncoder,
        )
        from vae_keras.objectives import ELBO, IWAE
        from vae_keras.top_down import TopDownDecoder, TopDownEncoder

if TYPE_CHECKING:
    from vae_keras.data import datasets as datasets

__all__ = [
    "ELBO",
    "IWAE",
    "VAE",
    "Bernoulli",
    "ContinuousBernoulli",
    "ConvDecoder",
    "ConvEncoder",
    "DiscretizedLogisticMixture",
    "MLPClassifier",
    "MLPDecoder",
    "MLPEncoder",
    "TopDownDecoder",
    "TopDownEncoder",
    "__version__",
]

_CLASSES = {
    "ELBO": "objectives",
    "IWAE": "objectives",
    "VAE": "model",
    "Bernoulli": "distributions",
    "ContinuousBernoulli": "distributions",
    "ConvDecoder": "networks",
    "ConvEncoder": "networks",
    "DiscretizedLogisticMixture": "logistic_mixture",
    "MLPClassifier": "networks",
    "MLPDecoder": "networks",
    "MLPEncoder": "networks",
    "TopDownDecoder": "top_down",
    "TopDownEncoder": "top_down",
}
_MODULES = {
    "datasets": "data.datasets",
    "detection": "detection",
    "evaluation": "evaluation",
    "export": "export",
    "training": "training",
}


def __getattr__(name: str) -> Any:
    """Imports a public class or module when it is first used."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name in _CLASSES:
        return getattr(importlib.import_module(f"{__name__}.{_CLASSES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
