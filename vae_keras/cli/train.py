"""The command `train`: trains a preset and writes a run folder."""

from __future__ import annotations

import argparse

from vae_keras import training


def run(arguments: argparse.Namespace) -> None:
    """Trains what the flags ask for."""
    training.train(
        training.TrainConfig(
            preset=arguments.preset,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            seed=arguments.seed,
            workdir=arguments.workdir,
            data=arguments.data,
            image_size=arguments.image_size,
            skip_damaged=arguments.skip_damaged,
            group_by=arguments.group_by,
            validation=arguments.validation,
            binarization=arguments.binarization,
            condition=arguments.condition,
            strategy=arguments.strategy,
            test=arguments.test,
            overwrite=arguments.overwrite,
        )
    )
