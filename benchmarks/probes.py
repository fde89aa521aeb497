"""Measures what the latents of the presets tell of the labels, beside a PCA of the same dimension.

    python -m benchmarks.probes            # all trained presets with labels
    python -m benchmarks.probes mlp_mnist

The classifiers are those of scikit-learn with fixed settings: nothing is chosen on the test set.
The results lie beside the weights as `probes.json`, and the cards show them.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any

import numpy as np

from vae_keras import VAE
from vae_keras.data import datasets
from vae_keras.report.provenance import provenance
from vae_keras.utils import files
from vae_keras.zoo import cards, presets

NEIGHBOURS = 10
_NORMAL = 1.959964  # the quantile of N(0, 1) at 0.975


def measure(
    features: dict[str, tuple[np.ndarray, np.ndarray]], y_train: np.ndarray, y_test: np.ndarray
) -> list[dict[str, Any]]:
    """Measures the accuracy of both classifiers on each kind of features.

    Args:
        features: training and test features [N, D] under their names.
        y_train: labels of the training features.
        y_test: labels of the test features.

    Returns:
        An entry for each kind and classifier, with Wilson's 95% interval.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    entries = []
    for kind, (train, test) in features.items():
        for name, classifier in (
            ("k_nearest_neighbours", KNeighborsClassifier(NEIGHBOURS)),
            ("linear_probe", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
        ):
            start = time.perf_counter()
            classifier.fit(train, y_train)
            accuracy = float(np.mean(classifier.predict(test) == y_test))
            low, high = wilson(accuracy, len(y_test))
            entries.append(
                {
                    "name": name,
                    "features": kind,
                    "dimensions": train.shape[1],
                    "accuracy": accuracy,
                    "interval": [low, high],
                    "num_images": len(y_test),
                    "split": "test",
                    "seconds": time.perf_counter() - start,
                }
            )
    return entries


def wilson(share: float, count: int) -> tuple[float, float]:
    """Returns Wilson's 95% interval of a share of `count` trials."""
    square = _NORMAL**2 / count
    middle = (share + square / 2) / (1 + square)
    half = _NORMAL / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return middle - half, middle + half


def run(name: str) -> None:
    """Measures a preset and writes its `probes.json`."""
    from sklearn.decomposition import PCA

    recipe = presets.load_recipe(name)
    images = datasets.load(recipe.data).images
    kept = len(images.x_train) - recipe.validation
    model = VAE.from_preset(name)
    x_train, y_train = images.x_train[:kept], images.y_train[:kept]
    pixels = [x.reshape(len(x), -1).astype(np.float32) / 255 for x in (x_train, images.x_test)]
    # There are not more components than pixels, and latents in groups may be more.
    pca = PCA(min(model.latent_dim, pixels[0].shape[1]), random_state=0).fit(pixels[0])
    test = model.paired(images.x_test, images.y_test)
    features = {
        "posterior means": (
            model.encode(model.paired(x_train, y_train)).loc,
            model.encode(test).loc,
        ),
        "principal components": (pca.transform(pixels[0]), pca.transform(pixels[1])),
    }
    content = {
        "weights_sha256": files.sha256(presets.weights(name)),
        "neighbours": NEIGHBOURS,
        "train_images": kept,
        "probes": measure(features, y_train, images.y_test),
        "provenance": provenance(datasets.fingerprint(images.x_test)),
    }
    files.write_json(presets.folder() / name / "probes.json", content)
    for entry in content["probes"]:
        print(name, entry["features"], entry["name"], f"{entry['accuracy']:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probes", description=__doc__)
    parser.add_argument("presets", nargs="*", help="names (default: all)")
    for name in parser.parse_args().presets or presets.trained():
        if datasets.load(presets.load_recipe(name).data).images.y_test is not None:
            run(name)
    cards.write()


if __name__ == "__main__":
    main()
