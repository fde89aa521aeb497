"""The Keras trainer of the package's models: compile, fit, evaluate and predict."""

from vae_keras.trainer.nonfinite import Diverged
from vae_keras.trainer.step import Bound
from vae_keras.trainer.trainer import Trainer

__all__ = ["Bound", "Diverged", "Trainer"]
