"""What labels bring: log p(x | y), images of the class that was asked for, and classification.

`python -m benchmarks.labels WHAT` measures one figure on the test images of MNIST, adds it to the
`labels.json` beside the preset's weights, and renders the card. `--validation` measures the last
10,000 training images instead and writes nothing: choices are made there. WHAT is one of:

| figure | what is measured |
|---|---|
| `likelihood` | -log p(x given y) beside -log p(x) of a plain model, paired by image |
| `drawn` | the share of images drawn for a class that a classifier, trained apart, names so |
| `classify` | the error of `VAE.classify` |
| `few` | the error with 100 labels in all, for several draws of the labels |

References:
    Kingma et al. 2014, "Semi-supervised learning with deep generative models", table 1.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import keras
import numpy as np
from scipy import ndimage

from vae_keras import VAE, MLPDecoder, MLPEncoder, data, datasets, evaluation
from vae_keras.labels import MISSING
from vae_keras.optimizers import cosine
from vae_keras.report.provenance import provenance
from vae_keras.utils import files, keras_file
from vae_keras.zoo import cards, presets

PRESET = "conditional_mnist"
CLASSES, HELD_OUT = 10, 10_000

# The model of `few`. Its values were chosen by the error on validation images. Networks with wider
# layers would take hours for each draw of the labels: an image without a label costs ten passes.
# An image with a guessed class costs one.
_LABELS = 100
_COPIES, _PASSES = 300, 4  # deformed copies of each labelled image, and epochs of them
_WIDTH, _LATENT_DIM, _CLASSIFIER_WEIGHT, _BATCH = 200, 30, 5.0, 200
_GUESSED = 20  # epochs with guessed classes
_CLASSIFIER_BATCH = 100


def images(validation: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns images and labels to train on, and binarized images and labels to measure."""
    mnist = datasets.load_mnist()
    x, y, held, labels = mnist
    if validation:
        x, held, y, labels = x[:-HELD_OUT], x[-HELD_OUT:], y[:-HELD_OUT], y[-HELD_OUT:]
    return x, y, data.binarize(held, 0), labels


def likelihood(model: str, plain: str, samples: int, validation: bool) -> dict[str, Any]:
    """Measures what knowing the label saves, in nats per image, paired by image."""
    _, _, held, labels = images(validation)
    given = evaluation.estimate_log_likelihood(load(model), held, samples, labels=labels)
    alone = evaluation.estimate_log_likelihood(load(plain), held, samples)
    saved = given.estimate.per_example - alone.estimate.per_example
    estimates = {
        "given_the_label": evaluation.Estimate.of(-given.estimate.per_example),
        "without_labels": evaluation.Estimate.of(-alone.estimate.per_example),
        "saved": evaluation.Estimate.of(saved),
    }
    shown = {
        name: {"nats": estimate.mean, "standard_error": estimate.standard_error}
        for name, estimate in estimates.items()
    }
    return shown | {"samples": samples, "images": len(held), "models": [model, plain]}


def drawn(model: str, count: int, epochs: int, validation: bool) -> dict[str, Any]:
    """Measures how many drawn images a classifier, trained apart, takes for the class asked for."""
    x, y, held, labels = images(validation)
    keras.utils.set_random_seed(0)
    judge = normalized_classifier(epochs * 2 * len(x) // _CLASSIFIER_BATCH)
    rng = np.random.default_rng(0)
    for epoch in range(epochs):
        pictures = np.concatenate([x, deformed(x, 1, rng)])
        # It sees binary pixels, as the model draws them.
        seen = data.binarize(pictures, epoch)
        judge.fit(seen, np.tile(y, 2), batch_size=_CLASSIFIER_BATCH, verbose=2)
    accuracy = 1.0 - error_of(judge.predict(held, verbose=0), labels)
    asked = np.arange(count) % CLASSES
    images_drawn = load(model).sample(count, seed=0, pixels="draw", labels=asked)
    named = judge.predict(images_drawn, verbose=0).argmax(axis=1)
    share = evaluation.Estimate.of(named == asked)
    return {
        "share": share.mean,
        "standard_error": share.standard_error,
        "images": count,
        "accuracy_of_the_classifier": accuracy,
        "models": [model],
    }


def classify(model: str, samples: int, validation: bool) -> dict[str, Any]:
    """Measures the error of Bayes' rule on binarized images."""
    _, _, held, labels = images(validation)
    found = load(model).classify(held, samples).log_prob.argmax(axis=1)
    error = evaluation.Estimate.of(found != labels)
    return {
        "error": error.mean,
        "standard_error": error.standard_error,
        "samples": samples,
        "models": [model],
    }


def few(draws: int, validation: bool) -> dict[str, Any]:
    """Measures the error with 100 labels, ten of each class, for several draws of the labels.

    Each draw has a process of its own with one thread, and each processor has a process.
    """
    os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
    one = functools.partial(with_few_labels, validation=validation)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=spawn, max_tasks_per_child=1) as pool:
        found = list(pool.map(one, range(draws)))
    errors = {name: [of_draw[name] for of_draw in found] for name in found[0]}
    return {name: _over_draws(values) for name, values in errors.items()} | {
        "errors": errors,
        "labels": _LABELS,
        "copies": _COPIES,
        "draws": draws,
    }


def with_few_labels(draw: int, validation: bool) -> dict[str, float]:
    """Measures the errors with one draw of the labels.

    The classifier q(y | x) learns from deformed copies of the labelled images. The encoder and the
    decoder then learn from all images with the classes that it guesses, because a bound on
    log p(x | y) that tells nothing of y yet would lead it astray. At last all parts learn together
    from the labelled images and from all images without a label.

    Args:
        draw: seed of the labelled images, of the weights and of the noise.
        validation: whether validation images are measured instead of test images.

    Returns:
        The share of wrong classes by the classifier that saw labels only, by the classifier at the
        end, and by Bayes' rule.
    """
    keras.utils.set_random_seed(draw)  # for the order in which Keras shuffles, and its dropout
    x, y, held, labels = images(validation)
    rng = np.random.default_rng(draw)
    each = _LABELS // CLASSES
    rows = [rng.choice(np.flatnonzero(y == c), each, replace=False) for c in range(CLASSES)]
    kept = np.concatenate(rows)
    copies, named = deformed(x[kept], _COPIES, rng), np.tile(y[kept], _COPIES)
    steps = _PASSES * len(copies) // _CLASSIFIER_BATCH
    classifier = convolutional_classifier(steps, seed=draw)
    for epoch in range(_PASSES):
        seen = data.binarize(copies, epoch)
        classifier.fit(seen, named, batch_size=_CLASSIFIER_BATCH, verbose=0)
    errors = {"labels_only": error_of(classifier.predict(held, verbose=0), labels)}

    size: dict[str, Any] = {"hidden": (_WIDTH,), "activation": "mish", "seed": draw}
    networks = MLPEncoder(_LATENT_DIM, **size), MLPDecoder(**size)
    guessed = classifier.predict(data.binarize(x, 0), verbose=0).argmax(axis=1)
    vae = VAE(*networks, num_classes=CLASSES, seed=draw)
    vae.compile(keras.optimizers.Adam(1e-3))
    vae.fit(x, guessed, batch_size=_BATCH, epochs=_GUESSED, verbose=0)

    vae = VAE(
        *networks,
        num_classes=CLASSES,
        classifier=classifier,
        classifier_weight=_CLASSIFIER_WEIGHT,
        seed=draw,
    )
    some = len(copies) // 3
    pictures = np.concatenate([x, copies[:some]])
    given = np.concatenate([np.full(len(x), MISSING), named[:some]])
    vae.compile(keras.optimizers.Adam(cosine(1e-3, -(-len(pictures) // _BATCH))))
    vae.fit(pictures, given, batch_size=_BATCH, verbose=0)
    errors["classifier"] = error_of(classifier.predict(held, verbose=0), labels)
    errors["bayes"] = error_of(vae.classify(held, 50).log_prob, labels)
    print(f"draw {draw}:", errors, flush=True)
    return errors


def _over_draws(values: list[float]) -> dict[str, float]:
    spread = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"error": float(np.mean(values)), "standard_error": float(spread)}


def error_of(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of rows whose highest score is not that of the label."""
    return float((scores.argmax(axis=1) != labels).mean())


def deformed(pictures: np.ndarray, copies: int, rng: np.random.Generator) -> np.ndarray:
    """Turns, shears, scales and bends images of handwriting at random.

    Args:
        pictures: uint8 [N, H, W, 1].
        copies: number of copies of each image.
        rng: source of the random numbers.

    Returns:
        uint8 [copies * N, H, W, 1], all images once, then all of them again.

    References:
        Simard et al. 2003, "Best practices for convolutional neural networks applied to visual
        document analysis", section 2.
    """
    height, width = pictures.shape[1:3]
    middle = np.array([height - 1, width - 1])[:, np.newaxis, np.newaxis] / 2
    grid = np.mgrid[0:height, 0:width] - middle
    made = np.empty((copies, *pictures.shape), np.uint8)
    for copy, row in np.ndindex(copies, len(pictures)):
        angle, shear = rng.uniform(-0.26, 0.26), rng.uniform(-0.3, 0.3)
        turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        linear = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(1 / rng.uniform(0.85, 1.15, 2))
        bend = ndimage.gaussian_filter(rng.uniform(-1, 1, grid.shape), (0, 5, 5)) * 30
        places = np.einsum("ij,jhw->ihw", linear, grid) + middle + bend
        made[copy, row, ..., 0] = ndimage.map_coordinates(pictures[row, ..., 0], places, order=1)
    return made.reshape(-1, *pictures.shape[1:])


def load(model: str) -> VAE:
    """Loads a `.keras` file or a preset."""
    return keras_file.load(model) if model.endswith(".keras") else VAE.from_preset(model)


def convolutional_classifier(steps: int, seed: int = 0) -> keras.Model:
    """Returns a compiled classifier of digits, to be trained for a number of steps."""
    layers = keras.layers
    shape: dict[str, Any] = {"strides": 2, "padding": "same", "activation": "relu"}
    start = [keras.initializers.GlorotUniform(seed=CLASSES * seed + number) for number in range(4)]
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 5, kernel_initializer=start[0], **shape),
            layers.Conv2D(64, 5, kernel_initializer=start[1], **shape),
            layers.Flatten(),
            layers.Dropout(0.5, seed=0),
            layers.Dense(128, activation="relu", kernel_initializer=start[2]),
            layers.Dropout(0.5, seed=1),
            layers.Dense(CLASSES, kernel_initializer=start[3]),
        ]
    )
    return _compiled(model, steps)


def normalized_classifier(steps: int) -> keras.Model:
    """Returns a slower and better classifier, compiled, to be trained for a number of steps.

    With images and deformed copies it named 98.95% of the binarized validation images right, and
    `convolutional_classifier` 98.7%.
    """
    layers = keras.layers
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for filters, strides in ((32, 1), (32, 2), (64, 1), (64, 2), (64, 1)):
        model.add(layers.Conv2D(filters, 3, strides, "same", use_bias=False))
        model.add(layers.BatchNormalization())
        model.add(layers.Activation("relu"))
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(256, "relu"))
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(CLASSES))
    return _compiled(model, steps)


def _compiled(model: keras.Model, steps: int) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(cosine(2e-3, steps)), loss=loss)
    return model


def main() -> None:
    """Measures the figure that the command names."""
    parser = argparse.ArgumentParser(description="Measures what labels bring.")
    parser.add_argument("what", choices=("likelihood", "drawn", "classify", "few"))
    parser.add_argument("--model", default=PRESET, help="a preset or a .keras file")
    parser.add_argument("--plain", default="mlp_mnist_converged", help="the model without labels")
    parser.add_argument("--samples", type=int, help="importance samples (5000 or 100)")
    parser.add_argument("--count", type=int, default=10_000, help="images to draw")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the images in `drawn`")
    parser.add_argument("--draws", type=int, default=10, help="draws of the labels")
    parser.add_argument("--validation", action="store_true", help="measure validation images")
    asked = parser.parse_args()
    held = asked.validation
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "likelihood": lambda: likelihood(asked.model, asked.plain, asked.samples or 5000, held),
        "drawn": lambda: drawn(asked.model, asked.count, asked.epochs, held),
        "classify": lambda: classify(asked.model, asked.samples or 100, held),
        "few": lambda: few(asked.draws, held),
    }
    made = provenance(datasets.fingerprint(datasets.load_mnist().x_test))
    started = time.perf_counter()
    found = measures[asked.what]() | {"seconds": time.perf_counter() - started}
    print(json.dumps(found, indent=2))
    if not held:
        path = presets.folder() / PRESET / "labels.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        weights = {"weights_sha256": files.sha256(presets.weights(PRESET))}
        files.write_json(path, before | weights | {asked.what: found | {"provenance": made}})
        cards.write()


if __name__ == "__main__":
    main()
