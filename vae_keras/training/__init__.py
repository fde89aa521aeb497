"""Runs: from a recipe to a folder with a trained model."""

from vae_keras.training.config import TrainConfig
from vae_keras.training.run import train

__all__ = ["TrainConfig", "train"]
