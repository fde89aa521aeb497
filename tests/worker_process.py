"""One of several workers that train on a cut of MNIST; `test_cluster.py` starts them.

Arguments: the run folder, and what else `train.py` takes. Trains without XLA, whose compilation
takes seconds, and writes a checkpoint every SECONDS. Prints a digest of the trained weights.
"""

import functools
import hashlib
import os
import sys

import train
from vae_keras import VAE, checkpoints, datasets, training

SECONDS = float(os.environ.get("SECONDS", "0.1"))


def cut(load=datasets.load_mnist):
    mnist = load()
    return datasets.Images(
        mnist.x_train[:1200], mnist.y_train[:1200], mnist.x_test[:50], mnist.y_test[:50]
    )


def fit(model, *arguments, fit=training._fit):
    fit(model, *arguments)
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    print("weights", hashlib.sha256(weights).hexdigest(), flush=True)


datasets.load_mnist = cut
training._fit = fit
training.checkpoints.Checkpointer = functools.partial(checkpoints.Checkpointer, seconds=SECONDS)
VAE.xla_pays = lambda _: False
folder, *flags = sys.argv[1:]
# 70 divides neither the images nor by the workers' number.
sys.exit(train.main(["--workdir", folder, "--batch-size", "70", "--validation", "100", *flags]))
