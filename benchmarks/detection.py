"""Measures every anomaly score on pairs of sets, beside baselines of scikit-learn.

    python -m benchmarks.detection fashion_mnist mnist digits textile served
    python -m benchmarks --render  # writes the table in the guide

A pair that was measured is not measured again; `--again` measures it anew. `served` times the
signature. The default score was chosen by the validation figures. The table shows the test figures.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import results
from vae_keras.utils import files

RESULTS = Path(__file__).resolve().parent / "results" / "detection.json"
SERVED = RESULTS.with_name("detection_served.json")
PIECES = ("fashion_mnist", "mnist", "digits", "textile", "served")
_ROUNDS, _CALLS = 21, 60
_RESAMPLES, _SEED = 200, 0
_COMPONENTS, _TREES, _MOST_FITTED = 50, 200, 10_000  # of the baselines
_PATCH = 25  # side of a textile patch, in pixels

Score = Callable[[np.ndarray], np.ndarray]


class Pair(NamedTuple):
    """One pair: images [N, H, W, C] uint8, and the model that was trained on the normal ones.

    Each of `validation` and `test` holds normal images and unusual ones.
    """

    name: str
    model: Path
    train: np.ndarray
    calibration: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    patches: bool = False


# ------------------------------------------------------------------------------------- the pairs


def presets_pair(normal: str, unusual: str) -> Pair:
    """The preset of one set, and the other set."""
    from vae_keras.data import datasets
    from vae_keras.zoo import presets

    ours, others = (datasets.load(name).images for name in (normal, unusual))
    preset = f"mlp_{normal}"
    held = len(ours.x_train) - presets.load_recipe(preset).validation
    half = (held + len(ours.x_train)) // 2
    return Pair(
        f"{normal} / {unusual}",
        Path(presets.weights(preset)),
        ours.x_train[:held],
        ours.x_train[held:half],
        (ours.x_train[half:], others.x_train[half:]),
        (ours.x_test, others.x_test),
    )


def digit_pairs(folder: Path) -> Iterator[Pair]:
    """A model of nine digits for each tenth, trained by the recipe for own images."""
    from vae_keras.data import datasets
    from vae_keras.training import TrainConfig, train

    mnist = datasets.load_mnist()
    for digit in range(10):
        known, others = mnist.y_train != digit, mnist.x_train[mnist.y_train == digit]
        x, held = mnist.x_train[known], 40_000
        data = folder / f"without_{digit}.npz"
        if not data.exists():
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(data, x_train=x[:held], x_test=x[held:])
        run = folder / f"without_{digit}"
        train(TrainConfig(preset="mlp_mnist", data=str(data), epochs=20, workdir=run))
        half = held + (len(x) - held) // 2
        is_digit = mnist.y_test == digit
        yield Pair(
            f"nine digits / {digit}",
            run / "model.keras",
            x[:held],
            x[held:half],
            (x[half:], others),
            (mnist.x_test[~is_digit], mnist.x_test[is_digit]),
        )


def textile_pairs(folder: Path, textile: Path) -> Iterator[Pair]:
    """A model of nominal textile, and its global and its local defects."""
    from vae_keras.data import own_images
    from vae_keras.training import TrainConfig, train

    sets = {
        kind: np.asarray(own_images.list_images(textile / kind).pixels)
        for kind in ("nominal", "global", "local")
    }
    x = sets["nominal"]
    data = folder / "textile"
    data.mkdir(parents=True, exist_ok=True)
    for path in sorted((textile / "nominal").glob("*.jpg"))[:600]:
        if not (data / path.name).exists():
            (data / path.name).symlink_to(path.resolve())
    run = folder / "textile_mlp"
    settings = {"preset": "mlp_mnist", "binarization": "none", "epochs": 20}
    train(TrainConfig(data=str(data), workdir=run, **settings))
    for kind in ("global", "local"):
        yield Pair(
            f"textile nominal / {kind} defects",
            run / "model.keras",
            x[:600],
            x[600:740],
            (x[740:800], sets[kind][:250]),
            (x[800:], sets[kind][250:]),
            patches=True,
        )


# ---------------------------------------------------------------------------------- measurements


def auroc(normal: np.ndarray, unusual: np.ndarray) -> float:
    """Returns the probability that an unusual image scores higher; ties count one half."""
    ordered = np.sort(normal)
    below = np.searchsorted(ordered, unusual, "left") + np.searchsorted(ordered, unusual, "right")
    return float(below.mean() / (2 * len(normal)))


def figures(normal: np.ndarray, unusual: np.ndarray) -> dict[str, float]:
    """Returns the AUROC with its bootstrap interval and standard error."""
    rng = np.random.default_rng(_SEED)
    drawn = [
        auroc(rng.choice(normal, len(normal)), rng.choice(unusual, len(unusual)))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "test_auroc": auroc(normal, unusual),
        "low": float(low),
        "high": float(high),
        "standard_error": float(np.std(drawn, ddof=1)),
    }


def baselines(pair: Pair) -> dict[str, Score]:
    """Fits the baselines to the training images, or to patches of them."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    def rows(x: np.ndarray) -> np.ndarray:
        if pair.patches:
            count, height, width, _ = x.shape
            cut = x.reshape(count, height // _PATCH, _PATCH, width // _PATCH, _PATCH)
            x = cut.transpose(0, 1, 3, 2, 4)
            return x.reshape(-1, _PATCH * _PATCH) / np.float32(255)
        return x.reshape(len(x), -1) / np.float32(255)

    def of_images(values: np.ndarray, x: np.ndarray) -> np.ndarray:
        return values.reshape(len(x), -1).max(axis=1)

    fitted = rows(pair.train)
    keep = np.random.default_rng(_SEED).permutation(len(fitted))[:_MOST_FITTED]
    pca = PCA(_COMPONENTS, random_state=_SEED).fit(fitted[keep])
    forest = IsolationForest(n_estimators=_TREES, random_state=_SEED).fit(fitted[keep])

    def error(x: np.ndarray) -> np.ndarray:
        each = rows(x)
        left = each - pca.inverse_transform(pca.transform(each))
        return of_images((left**2).sum(axis=1), x)

    return {
        "PCA error": error,
        "isolation forest": lambda x: of_images(-forest.score_samples(rows(x)), x),
    }


def detector_scores(pair: Pair) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Calibrates the model, and returns the function from images to every score."""
    import tensorflow as tf

    from vae_keras import anomaly_scores, optimizers  # noqa: F401  the presets name its classes
    from vae_keras.detection import Detector
    from vae_keras.utils import keras_file

    detector = Detector.calibrate(keras_file.load(pair.model), pair.calibration, seed=_SEED)
    normal = detector.statistics(pair.calibration, seed=_SEED + 1)
    constants = {name: anomaly_scores.fit(name, normal) for name in anomaly_scores.SCORES}
    constants["statistics"] = detector.constants

    def scores(x: np.ndarray) -> dict[str, np.ndarray]:
        found = anomaly_scores.Statistics(*map(tf.constant, detector.statistics(x, seed=_SEED)))
        return {
            name: anomaly_scores.score(name, found, constants[name]).numpy() for name in constants
        }

    return scores


def measure(pair: Pair) -> dict[str, Any]:
    """Measures all scores and baselines on one pair."""
    of_detector, of_baselines = detector_scores(pair), baselines(pair)
    seconds: dict[str, float] = {}

    def scored(x: np.ndarray) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        found = of_detector(x)
        seconds.update(dict.fromkeys(found, time.perf_counter() - started))
        for name, score in of_baselines.items():
            started = time.perf_counter()
            found[name] = score(x)
            seconds[name] = time.perf_counter() - started
        return found

    # The seconds are those of the last call, for the normal test images.
    validation, unusual = [scored(part) for part in pair.validation], scored(pair.test[1])
    normal = scored(pair.test[0])
    measured = {
        name: {
            "validation_auroc": auroc(*(part[name] for part in validation)),
            **figures(normal[name], unusual[name]),
            "seconds": seconds[name],
        }
        for name in normal
    }
    for name, entry in measured.items():
        print(f"{pair.name}: {name} {entry['test_auroc']:.4f}", flush=True)
    counts = {
        "train": len(pair.train),
        "calibration": len(pair.calibration),
        "validation": [len(part) for part in pair.validation],
        "test": [len(part) for part in pair.test],
    }
    weights = files.sha256(pair.model)
    return {"images": counts, "weights_sha256": weights, "seed": _SEED, "scores": measured}


def served() -> dict[str, Any]:
    """Times requests of one image for `detect` and `score`, in a session as the server has one."""
    import tempfile

    import tensorflow as tf

    from vae_keras import VAE, datasets, export
    from vae_keras.detection import Detector

    mnist, vae = datasets.load_mnist(), VAE.from_preset("mlp_mnist")
    detector = Detector.calibrate(vae, mnist.x_train[-2000:])
    session = tf.compat.v1.Session(graph=tf.Graph())
    with tempfile.TemporaryDirectory() as folder:
        version = export.export_saved_model(vae, folder, score_samples=1, detector=detector)
        with session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(version))
    inputs = {"images": mnist.x_test[:1] / np.float32(255), "seeds": np.array([[7, 0]], np.int32)}

    def request(name: str) -> Callable[[], Any]:
        signature = meta_graph.signature_def[name]
        feeds = [signature.inputs[key].name for key in inputs]
        answer = [signature.outputs[key].name for key in signature.outputs]
        call = session.make_callable(answer, feed_list=feeds)
        return lambda: call(*inputs.values())

    requests = {name: request(name) for name in ("score", "detect")}
    seconds: dict[str, list[float]] = {name: [] for name in requests}
    for _ in range(_ROUNDS + 1):  # the first round warms up
        for name, call in requests.items():
            started = time.perf_counter()
            for _ in range(_CALLS):
                call()
            seconds[name].append((time.perf_counter() - started) / _CALLS)
    return {name: each[1:] for name, each in seconds.items()}


def run(piece: str, runs: Path, textile: Path | None, again: bool) -> None:
    """Measures the pairs of a piece that are not measured yet, and writes each when it is done."""
    if piece == "served":
        about = results.about(("tensorflow", "keras", "numpy"))
        files.write_json(SERVED, served() | about)
        return
    found = read()
    if piece == "textile":
        if textile is None:
            raise SystemExit("the piece textile takes --textile, the folder of its images")
        pairs = textile_pairs(runs, textile)
    elif piece == "digits":
        pairs = digit_pairs(runs)
    else:
        other = {"fashion_mnist": "mnist", "mnist": "fashion_mnist"}[piece]
        pairs = iter([presets_pair(piece, other)])
    for pair in pairs:
        if pair.name not in found or again:
            about = results.about(("tensorflow", "keras", "numpy", "scikit-learn"))
            found[pair.name] = measure(pair) | about
            files.write_json(RESULTS, found)


def read() -> dict[str, Any]:
    """Reads the results by the names of the pairs."""
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}


# ------------------------------------------------------------------------------------- the table


def table() -> str:
    """Renders the test figures as a Markdown table, a row for each pair."""
    found = read()
    if not found:
        return "Not measured yet."
    digits = [name for name in found if name.startswith("nine digits")]
    names = list(next(iter(found.values()))["scores"])
    lines = [f"| pair | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for pair in (name for name in found if name not in digits):
        cells = [_cell(found[pair]["scores"][name]) for name in names]
        lines.append(f"| {pair} | {' | '.join(cells)} |")
    if digits:
        each = [[found[pair]["scores"][name] for pair in digits] for name in names]
        cells = [_cell(_mean(entries)) for entries in each]
        of = "" if len(digits) == 10 else f", of {len(digits)} that are measured so far"
        lines.append(f"| nine digits / the tenth, mean{of} | {' | '.join(cells)} |")
    first = next(iter(found.values()))
    machine = first["machine"]
    lines += [
        "",
        "AUROC on test images, with the 95% interval of "
        f"{_RESAMPLES} bootstrap samples. The last two columns "
        "are baselines of scikit-learn, which for textile take the highest value of "
        f"{_PATCH} x {_PATCH} patches. Seed {first['seed']}, {machine['cores']} cores of "
        f"{machine['cpu']}; `benchmarks/results/detection.json` has the numbers of images, the "
        "validation figures and the seconds.",
    ]
    if SERVED.exists():
        held = json.loads(SERVED.read_text("utf-8"))
        ratios = [d / s for d, s in zip(held["detect"], held["score"], strict=True)]
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        lines += [
            "",
            "A request of one image for `detect` takes "
            f"{1000 * np.median(held['detect']):.1f} ms in a session as the server has one, "
            f"{middle:.2f} ({low:.2f} to {high:.2f}) of the time of one for `score` with a single "
            f"importance sample: median (quartiles) of {len(ratios)} interleaved rounds, "
            f"{held['machine']['cores']} cores of {held['machine']['cpu']}.",
        ]
    return "\n".join(lines)


def _cell(entry: dict[str, float]) -> str:
    return f"{entry['test_auroc']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"


def _mean(entries: list[dict[str, float]]) -> dict[str, float]:
    """Returns the mean of independent figures, with a normal interval."""
    value = float(np.mean([entry["test_auroc"] for entry in entries]))
    error = float(np.linalg.norm([entry["standard_error"] for entry in entries])) / len(entries)
    return {"test_auroc": value, "low": value - 1.96 * error, "high": value + 1.96 * error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pieces", nargs="+", choices=PIECES)
    parser.add_argument("--runs", type=Path, default=Path("runs/detection"))
    parser.add_argument("--textile", type=Path, help="the folder with nominal, global and local")
    parser.add_argument("--again", action="store_true", help="measure what was measured before")
    arguments = parser.parse_args()
    for piece in arguments.pieces:
        run(piece, arguments.runs, arguments.textile, arguments.again)


if __name__ == "__main__":
    main()
