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
import json
import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from vae_keras import VAE, MLPClassifier, MLPDecoder, MLPEncoder, data, datasets, evaluation
from vae_keras.optimizers import cosine
from vae_keras.report.provenance import provenance
from vae_keras.utils import files, keras_file
from vae_keras.zoo import cards, presets

PRESET = "conditional_mnist"
CLASSES, HELD_OUT = 10, 10_000

# The model of `few`. These values were not tuned; `--validation` is there to compare others.
_LABELS, _REPEATS = 100, 100  # each labelled image is seen so often in an epoch
_WIDTHS, _LATENT_DIM = (500, 500), 50
_CLASSIFIER_WEIGHT, _RATE, _BATCH = 5.0, 1e-3, 200


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
    """Measures how many images drawn for a class a classifier trained apart names so."""
    x, y, held, labels = images(validation)
    judge = convolutional_classifier()
    # The classifier sees binary pixels, as the model draws them.
    judge.fit(data.binarize(x, 1), y, batch_size=128, epochs=epochs, verbose=2)
    accuracy = float((judge.predict(held, verbose=0).argmax(axis=1) == labels).mean())
    asked = np.arange(count) % CLASSES
    pictures = load(model).sample(count, seed=0, pixels="draw", labels=asked)
    share = evaluation.Estimate.of(judge.predict(pictures, verbose=0).argmax(axis=1) == asked)
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


def few(draws: int, epochs: int, validation: bool) -> dict[str, Any]:
    """Measures the error with 100 labels, ten of each class, for several draws of the labels."""
    x, y, held, labels = images(validation)
    errors = []
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        each = _LABELS // CLASSES
        rows = [rng.choice(np.flatnonzero(y == c), each, replace=False) for c in range(CLASSES)]
        kept = np.concatenate(rows)
        known = np.full(len(x), -1)
        known[kept] = y[kept]
        again = np.repeat(kept, _REPEATS - 1)
        size: dict[str, Any] = {"hidden": _WIDTHS, "activation": "mish", "seed": draw}
        vae = VAE(
            MLPEncoder(_LATENT_DIM, **size),
            MLPDecoder(**size),
            num_classes=CLASSES,
            classifier=MLPClassifier(CLASSES, _WIDTHS, seed=draw),
            classifier_weight=_CLASSIFIER_WEIGHT,
            seed=draw,
        )
        pictures, given = np.concatenate([x, x[again]]), np.concatenate([known, y[again]])
        steps = -(-len(pictures) // _BATCH) * epochs
        vae.compile(keras.optimizers.Adam(cosine(_RATE, steps)))
        vae.fit(pictures, given, batch_size=_BATCH, epochs=epochs, verbose=2)
        by_bayes = vae.classify(held, 50).log_prob.argmax(axis=1)
        by_network = np.asarray(vae.classifier(held)).argmax(axis=1)
        errors.append([float((found != labels).mean()) for found in (by_bayes, by_network)])
        print(f"draw {draw}: Bayes' rule {errors[-1][0]:.4f}, q(y | x) {errors[-1][1]:.4f}")
    table = np.array(errors)
    spread = table.std(axis=0, ddof=1) / math.sqrt(draws) if draws > 1 else np.full(2, math.nan)
    return {
        name: {"error": float(table[:, i].mean()), "standard_error": float(spread[i])}
        for i, name in enumerate(("bayes", "classifier"))
    } | {"errors": errors, "labels": _LABELS, "draws": draws, "epochs": epochs}


def load(model: str) -> VAE:
    """Loads a `.keras` file or a preset."""
    return keras_file.load(model) if model.endswith(".keras") else VAE.from_preset(model)


def convolutional_classifier() -> keras.Model:
    """Returns a compiled classifier of digits."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Dropout(0.25, seed=0),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5, seed=1),
            layers.Dense(CLASSES),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss=loss, metrics=["accuracy"])
    return model


def main() -> None:
    """Measures the figure that the command names."""
    parser = argparse.ArgumentParser(description="Measures what labels bring.")
    parser.add_argument("what", choices=("likelihood", "drawn", "classify", "few"))
    parser.add_argument("--model", default=PRESET, help="a preset or a .keras file")
    parser.add_argument("--plain", default="mlp_mnist_converged", help="the model without labels")
    parser.add_argument("--samples", type=int, help="importance samples (5000 or 100)")
    parser.add_argument("--count", type=int, default=10_000, help="images to draw")
    parser.add_argument("--epochs", type=int, help="passes of a training (8 or 100)")
    parser.add_argument("--draws", type=int, default=10, help="draws of the labels")
    parser.add_argument("--validation", action="store_true", help="measure validation images")
    asked = parser.parse_args()
    held = asked.validation
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "likelihood": lambda: likelihood(asked.model, asked.plain, asked.samples or 5000, held),
        "drawn": lambda: drawn(asked.model, asked.count, asked.epochs or 8, held),
        "classify": lambda: classify(asked.model, asked.samples or 100, held),
        "few": lambda: few(asked.draws, asked.epochs or 100, held),
    }
    started = time.perf_counter()
    found = measures[asked.what]() | {"seconds": time.perf_counter() - started}
    print(json.dumps(found, indent=2))
    if not held:
        path = presets.folder() / PRESET / "labels.json"
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        made = provenance(datasets.fingerprint(datasets.load_mnist().x_test))
        weights = {"weights_sha256": files.sha256(presets.weights(PRESET))}
        files.write_json(path, before | weights | {asked.what: found | {"provenance": made}})
        for page, text in cards.render().items():
            files.write_text(page, text)


if __name__ == "__main__":
    main()
