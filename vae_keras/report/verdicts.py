"""The page of a detector's verdicts, and the pictures of images with their heat maps."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from vae_keras import conformal
from vae_keras.detection import Detector, Verdicts
from vae_keras.report import figures
from vae_keras.report.page import TEMPLATES

MOST_SHOWN = 100
"""The largest number of anomalies on a page."""

_SIDE = 224  # smallest side of an image in a picture, in pixels
_EDGE = (0, 230, 255)  # of the regions above 1
_GAP = 8
_COLOURS = ("#1f6fb4", "#c4501b")
_BINS = 60


def picture(image: np.ndarray, heat: np.ndarray) -> bytes:
    """Draws an image beside its heat map, as a PNG file.

    The colours run from 0 to 2, so that the pictures of one detector compare.

    Args:
        image: uint8 [H, W, C].
        heat: heat map [H, W], see `Detector.heat_maps`. Regions above 1 are enclosed.

    Returns:
        The content of the file.

    Example:
        >>> picture(np.zeros((28, 28, 1), np.uint8), np.zeros((28, 28)))[1:4]
        b'PNG'
    """
    factor = max(1, -(-_SIDE // min(heat.shape)))

    def enlarged(array: np.ndarray) -> np.ndarray:
        return array.repeat(factor, axis=0).repeat(factor, axis=1)

    left = enlarged(np.repeat(image, 3 // image.shape[-1], axis=-1))
    share = np.clip(heat / 2.0, 0.0, 1.0)
    colours = colormaps["inferno"](share)[..., :3] * 255.0
    grey = image.mean(axis=-1, keepdims=True)
    right = enlarged((0.25 * grey + 0.75 * colours).astype(np.uint8))
    inside = np.pad(enlarged(heat > 1.0), 1)
    # A pixel of a region lies on its edge if one of its four neighbours does not belong to it.
    whole = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    right[inside[1:-1, 1:-1] & ~whole] = _EDGE
    gap = np.full((len(left), _GAP, 3), 255, np.uint8)
    drawn, file = Image.fromarray(np.concatenate([left, gap, right], axis=1)), io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def histogram(calibration: np.ndarray, scores: np.ndarray, line: float) -> Figure:
    """Draws the scores of the calibration images and of the judged ones, with the line.

    Args:
        calibration: scores of the calibration images, [n].
        scores: scores of the judged images, [N].
        line: score above which an image is an anomaly.

    Returns:
        A matplotlib Figure.

    Example:
        >>> figure = histogram(np.arange(30.0), np.arange(40.0), line=28.0)
    """
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    axes = figure.subplots()
    scores = np.where(np.isfinite(scores), scores, np.finfo(np.float32).max)
    both = np.concatenate([calibration, scores, [line]]).astype(np.float64)
    low, high = both.min(), np.quantile(both, 0.995) if len(both) > 200 else both.max()
    high = max(high, line + 0.05 * (line - low), low + 1e-6)
    if low > 0.0 and high > 30.0 * low:
        edges = np.geomspace(low, high, _BINS)
        axes.set_xscale("log")
    else:
        edges = np.linspace(low, high, _BINS)
    named = (f"{len(calibration):,} calibration images", f"{len(scores):,} judged images")
    for values, name, colour in zip((calibration, scores), named, _COLOURS, strict=True):
        share = np.full(len(values), 1.0 / len(values))
        axes.hist(
            np.clip(values, low, high),
            edges.tolist(),
            weights=share,
            color=colour,
            alpha=0.55,
            label=name,
        )
    axes.axvline(line, color="#222222", lw=1.5, label=f"calibration line, {line:.4g}")
    axes.set_xlabel("score; the last bar holds all higher ones")
    axes.set_ylabel("share of the images")
    axes.legend(frameon=False)
    return figure


def page(
    title: str,
    detector: Detector,
    names: Sequence[str],
    found: Verdicts,
    pictures: Mapping[int, bytes],
    false_alarms: float,
    procedure: str,
) -> str:
    """Renders verdicts as one HTML page with its figures inside, which loads nothing.

    Args:
        title: title of the page.
        detector: the detector.
        names: name of each image, [N].
        found: the verdicts.
        pictures: PNG files of anomalies under their rows, the most unusual first.
        false_alarms: the rate that was asked for.
        procedure: the procedure, one of `detection.PROCEDURES`.

    Returns:
        HTML text.
    """
    is_flagged = found.verdicts == "anomaly"
    count, flagged = len(names), int(is_flagged.sum())
    # Benjamini and Hochberg's line depends on the judged images.
    line = conformal.threshold(detector.calibration, false_alarms)
    if procedure != "each":
        normal = found.scores[~is_flagged]
        line = float(max(normal.max(initial=-np.inf), detector.calibration.min()))
    shown = (
        f"All {flagged:,} are shown."
        if flagged <= MOST_SHOWN
        else f"The first {MOST_SHOWN} are shown."
    )
    return TEMPLATES.get_template("verdicts.html.j2").render(
        title=title,
        found=f"{flagged:,} of {count:,} images are anomalies, {flagged / count:.2%}.",
        promise=promise(detector, count, false_alarms, procedure),
        histogram=_png(histogram(detector.calibration, found.scores, line)),
        shown=shown,
        scale=f"{detector.patch_scale:.3g}",
        flagged=[
            {
                "rank": rank,
                "file": names[row],
                "score": f"{found.scores[row]:.4g}",
                "p_value": f"{found.p_values[row]:.4g}",
                "png": base64.b64encode(png).decode(),
            }
            for rank, (row, png) in enumerate(list(pictures.items())[:MOST_SHOWN], start=1)
        ],
        facts=[
            ("score", detector.score),
            ("calibration images", f"{len(detector.calibration):,}"),
            ("images that fitted the score", f"{detector.fitted:,}"),
            ("importance samples for each image", detector.num_samples),
            ("smoothing of the heat maps, pixels", f"{detector.patch_scale:.3g}"),
            ("procedure", procedure.replace("_", " ")),
            ("false alarms", f"{false_alarms:g}"),
            ("calibration line", f"{line:.6g}"),
        ],
    )


def promise(detector: Detector, count: int, false_alarms: float, procedure: str) -> str:
    """Returns what the verdicts promise, in sentences.

    Args:
        detector: the detector.
        count: number of judged images.
        false_alarms: the rate that was asked for.
        procedure: the procedure, one of `detection.PROCEDURES`.
    """
    if procedure != "each":
        return (
            "The procedure of Benjamini and Hochberg limits the false discovery rate: the expected "
            f"share of normal images among the anomalies is at most {false_alarms:g}. It does not "
            "limit the share of the normal images that are flagged."
        )
    low, high = conformal.false_alarm_band(len(detector.calibration), count, false_alarms)
    return (
        f"A normal image is flagged with a probability of at most {false_alarms:g}, if it comes "
        "from the same source as the calibration images. If all images were normal, "
        f"from {low:,} to {high:,} would be flagged in 95 of 100 cases."
    )


def _png(figure: Figure) -> str:
    return base64.b64encode(figures.png(figure)).decode()
