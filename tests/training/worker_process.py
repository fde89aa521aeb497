"""One of several workers that train on small digits; `test_cluster.py` starts them.

Arguments: the run folder, and flags of the command `train`. The worker trains without XLA, whose
compilation takes seconds, exports nothing, and writes a checkpoint every SECONDS seconds. It prints
a digest of the trained weights. With the variable ON_DISK it reads own images from the disk. The
worker whose index is in the variable HOOKED has a callback that wants every batch.
"""

import functools
import hashlib
import json
import os
import sys

import keras

from vae_keras import VAE
from vae_keras.cli.main import main
from vae_keras.data import cache, datasets, own_images
from vae_keras.training import artifacts, checkpoints, run

SECONDS = float(os.environ.get("SECONDS", "0.1"))


def made(*arguments, make=cache.make):
    *given, _ = arguments
    return make(*given, print)


if "ON_DISK" in os.environ:  # own images of any size are read from a cache
    own_images.IN_MEMORY = 0
    cache.make = made  # the worker that makes it says so, also if it is not the chief


def small(load=datasets.load_mnist):
    mnist = load()
    x, x_test = mnist.x_train[:1200, ::2, ::2], mnist.x_test[:50, ::2, ::2]
    return datasets.Images(x, mnist.y_train[:1200], x_test, mnist.y_test[:50])


def fit(model, *arguments, fit=run.fit):
    fit(model, *arguments)
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    print("weights", hashlib.sha256(weights).hexdigest(), flush=True)


class Hook(keras.callbacks.Callback):
    """Wants to be called for every batch."""

    def on_train_batch_end(self, batch, logs=None):
        pass


if "HOOKED" in os.environ:
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    hooks = [Hook()] if os.environ["HOOKED"] == str(index) else []
    plain_fit = VAE.fit
    VAE.fit = lambda *arguments, callbacks, **given: plain_fit(
        *arguments, callbacks=[*callbacks, *hooks], **given
    )
datasets.load_mnist = small
run.fit = fit
checkpoints.Checkpointer = functools.partial(checkpoints.Checkpointer, seconds=SECONDS)
VAE.xla_pays = lambda _: False
artifacts.export.export_saved_model = lambda *_, **__: None
folder, *flags = sys.argv[1:]
# A batch size of 70 divides neither the number of images nor the work of two workers.
sizes = ["--batch-size", "70", "--validation", "100"]
sys.exit(main(["train", "--workdir", folder, *sizes, *flags]))
