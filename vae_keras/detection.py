"""Verdicts on images: which ones are anomalies, at a rate of false alarms that one can rely on."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vae_keras import anomaly_scores, conformal, noise
from vae_keras.anomaly_scores import SCORES, Statistics
from vae_keras.data import store, to_pixels
from vae_keras.model import VAE, require_built
from vae_keras.utils import checks, files, graphs, weights
from vae_keras.utils.rows import Array

FILE = "detector.json"
"""The name of a saved detector, beside the `.keras` file of its model."""

FEWEST = 20
"""The smallest number of calibration images."""

NUM_SAMPLES = 10
"""Default number of importance samples behind the likelihood of an image."""

PROCEDURES = ("each", "benjamini_hochberg")
"""What `false_alarms` limits: the rate among normal images, or the expected share of normal images
among those that are flagged."""

_FORMAT = 1
_FIT_SHARE = 4  # one image in four fits the constants of a score; the others calibrate
_HOT = 0.99  # quantile of the calibration images' hottest patches, above which a region is marked
_COLDEST = 1e-6  # nats per pixel, for images that are all black
_BLOCK_BYTES = 1 << 26  # of decoded samples at a time


class Verdicts(NamedTuple):
    """What a detector says about images.

    Attributes:
        scores: float32 [N]. A higher one is more unusual.
        p_values: float64 [N], see `conformal.p_values`.
        verdicts: "anomaly" or "normal", [N].
    """

    scores: np.ndarray
    p_values: np.ndarray
    verdicts: np.ndarray


class Detector:
    """A model with the scores of calibration images, by which it judges new images.

    Make one with `Detector.calibrate`, or read one with `Detector.load`.

    Attributes:
        model: the model.
        score: name of the score, one of `SCORES`.
        calibration: scores of the calibration images, float32 [n], sorted.
        constants: constants of the score, see `anomaly_scores.fit`.
        fitted: number of calibration images that fitted the constants, and calibrate nothing.
        num_samples: importance samples behind the likelihood of an image.
        patch_scale: standard deviation of the smoothing of heat maps, in pixels.
        hot: the 99% quantiles, over calibration images, of the largest smoothed deviance and code
            length of a patch, float32 [2]. Heat maps are in units of it.

    Example:
        >>> detector = Detector.calibrate(vae, x_train)
        >>> detector.verdicts(x_test[:2], false_alarms=0.1).verdicts.shape
        (2,)

    References:
        Vovk et al. 2005, "Algorithmic learning in a random world", section 4.2 on calibration with
        images that the score was not made from.
    """

    def __init__(
        self,
        model: VAE,
        score: str,
        calibration: np.ndarray,
        constants: dict[str, np.ndarray],
        fitted: int,
        num_samples: int,
        patch_scale: float,
        hot: np.ndarray,
    ) -> None:
        self.model, self.score = model, score
        self.calibration, self.constants, self.fitted = calibration, constants, fitted
        self.num_samples, self.patch_scale, self.hot = num_samples, patch_scale, hot
        self._graphs: dict[str, tuple[Any, Any]] = {}
        self._weights_sha256, self._binarization = weights.sha256(model), model.binarization

    # ------------------------------------------------------------------------- construction

    @classmethod
    def calibrate(
        cls,
        model: VAE,
        x: Any,
        *,
        score: str = SCORES[0],
        num_samples: int = NUM_SAMPLES,
        patch_scale: float | None = None,
        seed: int = 0,
        trained_on: np.ndarray | None = None,
    ) -> Detector:
        """Scores normal images that are new to the model.

        The guarantee of `verdicts` holds for images from the same source as the calibration images,
        in any order. A score in `anomaly_scores.FITTED` fits its constants to one in four of the
        images, which are drawn by the seed, and calibrates with the others.

        Args:
            model: a built model.
            x: normal images that the model did not train on, in any form that `VAE.fit` takes, at
                least `FEWEST`.
            score: name of the score, one of `SCORES`. Default "statistics".
            num_samples: importance samples behind the likelihood of an image, >= 1. Default
                `NUM_SAMPLES`.
            patch_scale: standard deviation of the smoothing of heat maps, in pixels, > 0. Default
                `anomaly_scores.default_patch_scale`.
            seed: seed of the noise and of the draw, integer in [0, 2^31). Default 0.
            trained_on: hashes of the pixels that the model trained on, uint64 [M], as the
                `trained_on.npy` of a run holds them. Default None, if they are not known.

        Returns:
            A `Detector`.

        Raises:
            checks.InputError: for fewer images than `FEWEST`, for images that the model trained on,
                for images that the model cannot take, and for a model with classes.

        Example:
            >>> Detector.calibrate(vae, x_train, score="likelihood").calibration.shape
            (60,)
        """
        require_built(model, "a calibration")
        if model.num_classes is not None:
            raise checks.InputError(
                "anomaly scores measure p(x), so they take a model without classes. "
                f"Received: a model of {model.num_classes} classes. Train one without labels."
            )
        checks.choice("score", score, SCORES)
        samples = checks.whole_number("num_samples", num_samples, 1)
        if patch_scale is None:
            patch_scale = anomaly_scores.default_patch_scale(model.image_shape)
        scale, seed = checks.positive("patch_scale", patch_scale), checks.seed(seed)
        images = model.images(x)
        model.check_support(images)
        if len(images) < FEWEST:
            raise checks.InputError(
                f"a calibration takes at least {FEWEST} images. Received: {len(images)}. "
                "Pass more normal images that the model did not train on."
            )
        _require_new(images, trained_on)
        stream = noise.Stream.CALIBRATION
        found = _statistics(model, images, samples, scale, seed, stream)
        fits, kept = _divided(len(images), seed, score)
        constants = anomaly_scores.fit(score, Statistics(*(each[fits] for each in found)))
        rest = Statistics(*(tf.constant(each[kept]) for each in found))
        calibration = np.sort(anomaly_scores.score(score, rest, constants).numpy())
        if not np.isfinite(calibration).all():
            raise checks.InputError(
                "the scores of calibration images must be finite. Received: "
                f"{np.count_nonzero(~np.isfinite(calibration))} scores that are not. "
                "Train the model again."
            )
        hot = np.quantile([found.patch[kept], found.detail[kept]], _HOT, axis=1)
        hot = np.maximum(hot, _COLDEST).astype(np.float32)
        return cls(model, score, calibration, constants, len(fits), samples, scale, hot)

    # ------------------------------------------------------------------------------ verdicts

    def scores(self, x: Any, seed: int = 0) -> np.ndarray:
        """Returns the score of each image. A higher one is more unusual.

        Args:
            x: images in any form that `VAE.fit` takes.
            seed: seed of the importance samples, integer in [0, 2^31). The noise of row i is a
                function of (seed, i). Default 0.

        Returns:
            float32 [N].
        """
        return self._measured(x, seed)[0]

    def statistics(self, x: Any, seed: int = 0) -> Statistics:
        """Returns what the score is made from, which tells why an image is unusual.

        Args:
            x, seed: as in `scores`.

        Returns:
            `anomaly_scores.Statistics`, float32 [N] each.
        """
        images, seed = self._images(x), checks.seed(seed)
        return _statistics(self.model, images, self.num_samples, self.patch_scale, seed)

    def p_values(self, x: Any, seed: int = 0) -> np.ndarray:
        """Returns the conformal p-value of each image, float64 [N]. A low one is unusual.

        Args:
            x, seed: as in `scores`.
        """
        return self._measured(x, seed)[1]

    def verdicts(
        self, x: Any, false_alarms: float = 0.01, *, procedure: str = PROCEDURES[0], seed: int = 0
    ) -> Verdicts:
        """Says which images are anomalies.

        With the procedure "each", a normal image is flagged with a probability of at most
        `false_alarms`, on average over calibration sets. With "benjamini_hochberg", the expected
        share of normal images among the flagged ones is at most `false_alarms`; all images are then
        judged together.

        Args:
            x: images in any form that `VAE.fit` takes.
            false_alarms: what the procedure limits, between 0 and 1. Default 0.01.
            procedure: "each" or "benjamini_hochberg". Default "each".
            seed: as in `scores`.

        Returns:
            `Verdicts`.

        Raises:
            checks.InputError: for a rate that the number of calibration images cannot support.

        References:
            Benjamini & Hochberg 1995, "Controlling the false discovery rate".
        """
        rate = self.supported(false_alarms)
        checks.choice("procedure", procedure, PROCEDURES)
        scores, p_values = self._measured(x, seed)
        flagged = (
            p_values <= rate
            if procedure == "each"
            else conformal.benjamini_hochberg(p_values, rate)
        )
        return Verdicts(scores, p_values, np.where(flagged, "anomaly", "normal"))

    def supported(self, false_alarms: float) -> float:
        """Returns a rate of false alarms after checking that the calibration supports it.

        Args:
            false_alarms: the rate, between 0 and 1.

        Raises:
            checks.InputError: with the number of calibration images that the rate takes.
        """
        count = len(self.calibration)
        conformal.require_support(count, false_alarms, share=count / (count + self.fitted))
        return float(false_alarms)

    def heat_maps(self, x: Any) -> np.ndarray:
        """Returns where an image is unusual: the smoothed deviance and code length of its pixels.

        Each map is divided by its value in `hot`. The larger of the two is returned.

        Args:
            x: images in any form that `VAE.fit` takes.

        Returns:
            float32 [N, H, W]. Values above 1 are rare in normal images.
        """
        images = self._images(x)
        parts = [
            self._compiled()[1](rows)
            for rows, _ in _blocks(self.model, images, self.num_samples, None, None)
        ]
        return np.concatenate(parts)

    def detect_tensors(self, images: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores, float32 [N], and p-values, float64 [N].

        Args:
            images: float [N, H, W, C] in [0, 1].
            draws: standard normal [N, num_samples, latent_dim].
        """
        found = anomaly_scores.statistics(self.model, images, draws, self.patch_scale)
        scores = anomaly_scores.score(self.score, found, self.constants)
        return scores, conformal.p_value_tensors(self.calibration, scores)

    def heat_tensors(self, images: tf.Tensor) -> tf.Tensor:
        """Returns heat maps [N, H, W] of images, float [N, H, W, C] in [0, 1]."""
        maps = (
            anomaly_scores.pixel_deviance(self.model, images),
            anomaly_scores.pixel_code_length(images),
        )
        deviance, detail = (anomaly_scores.smoothed(each, self.patch_scale) for each in maps)
        return tf.maximum(deviance / self.hot[0], detail / self.hot[1])

    def _compiled(self) -> tuple[Any, Any]:
        """`detect_tensors` and `heat_tensors`, traced for the model's present binarization."""
        known = self._graphs.get(self.model.binarization)
        if known is None:
            images = tf.TensorSpec((None, *self.model.image_shape))
            draws = tf.TensorSpec((None, self.num_samples, self.model.latent_dim))
            detect = graphs.compiled(self.detect_tensors, [images, draws])
            known = detect, graphs.compiled(self.heat_tensors, [images])
            self._graphs[self.model.binarization] = known
        return known

    def _images(self, x: Any) -> Array:
        self.require_same_model()
        images = self.model.images(x)
        # A single image may be black and white by chance, so only a whole set is refused for it.
        self.model.check_support(images, is_whole=False)
        return images

    def _measured(self, x: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
        images, seed = self._images(x), checks.seed(seed)
        blocks = _blocks(self.model, images, self.num_samples, seed, noise.Stream.DETECTION)
        parts = [self._compiled()[0](rows, draws) for rows, draws in blocks]
        scores, p_values = (np.concatenate(each) for each in zip(*parts, strict=True))
        return scores, p_values

    # ------------------------------------------------------------------------------- a file

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the detector, without its model, as JSON.

        Args:
            path: the file, or the `.keras` file of the model, which `FILE` is then written beside.

        Returns:
            The path of the file.

        Raises:
            checks.InputError: if the model has other weights or another binarization than at the
                calibration.
        """
        path = beside(path)
        self.require_same_model()
        content = {
            "format": _FORMAT,
            "model_sha256": self._weights_sha256,
            "binarization": self._binarization,
            "image_shape": list(self.model.image_shape),
            "score": self.score,
            "num_samples": self.num_samples,
            "patch_scale": self.patch_scale,
            "hot": self.hot.tolist(),
            "fitted": self.fitted,
            "constants": {name: value.tolist() for name, value in self.constants.items()},
            "calibration": self.calibration.tolist(),
        }
        files.write_json(path, {"sha256": _content_sha256(content)} | content)
        return path

    def require_same_model(self) -> None:
        """Refuses a model whose weights or binarization have changed since the calibration.

        Raises:
            checks.InputError: for other weights, and for another binarization.
        """
        if weights.sha256(self.model) != self._weights_sha256:
            raise checks.InputError(
                "a detector belongs to the weights that it was calibrated with. "
                "Received: a model with other weights than at its calibration. Calibrate again."
            )
        _require_binarization(self._binarization, self.model)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: VAE) -> Detector:
        """Reads the detector of a model.

        Args:
            path: the file, or the `.keras` file that it lies beside.
            model: the model, with the weights and the binarization of the calibration.

        Returns:
            A `Detector`.

        Raises:
            checks.InputError: for a file that is damaged, of another format or of another model.
            FileNotFoundError: if there is no such file.
        """
        require_built(model, "a detector")
        path = beside(path)
        remedy = "Calibrate again."
        with checks.reading("a detector must be sound", path, remedy):
            content = json.loads(path.read_text("utf-8"))
            claimed = content.pop("sha256")
            if content["format"] != _FORMAT:
                raise checks.InputError(
                    f"a detector must have format {_FORMAT}. Received: {path} of format "
                    f"{content['format']}. {remedy}"
                )
            if claimed != _content_sha256(content):
                raise ValueError("its content does not have the hash that it names")
            if content["model_sha256"] != weights.sha256(model):
                raise checks.InputError(
                    "a detector belongs to the model that it was calibrated with. "
                    f"Received: {path}, of a model with other weights. {remedy}"
                )
            # The first detectors did not name their binarization.
            _require_binarization(content.get("binarization", model.binarization), model)
            constants = {
                name: np.asarray(value, np.float32) for name, value in content["constants"].items()
            }
            return cls(
                model,
                checks.choice("score", content["score"], SCORES),
                np.asarray(content["calibration"], np.float32),
                constants,
                content["fitted"],
                content["num_samples"],
                content["patch_scale"],
                np.asarray(content["hot"], np.float32),
            )


def _require_binarization(calibrated: str, model: VAE) -> None:
    if calibrated != model.binarization:
        raise checks.InputError(
            "a detector belongs to the binarization that it was calibrated with. "
            f"Received: {calibrated!r} at its calibration, and a model with "
            f"{model.binarization!r}. Set vae.binarization back, or calibrate again."
        )


def beside(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a detector: the path itself, or `FILE` beside the files of a model.

    The files of a model are a `.keras` file, or a folder that `save_pretrained` wrote.

    Example:
        >>> str(beside("run/model.keras"))
        'run/detector.json'
    """
    path = checks.path("path", path)
    if path.is_dir():
        return path / FILE
    return path.with_name(FILE) if path.suffix == ".keras" else path


def _divided(count: int, seed: int, score: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns which images fit the constants of a score, and which calibrate it."""
    if score not in anomaly_scores.FITTED:
        return np.arange(0), np.arange(count)
    bits = noise.bits16(seed, noise.Stream.SPLIT, rows=count, size=4).numpy()
    order = np.lexsort(bits.T)
    return order[: count // _FIT_SHARE], order[count // _FIT_SHARE :]


def _require_new(images: Array, trained_on: np.ndarray | None) -> None:
    """Refuses images that a model trained on."""
    if trained_on is None:
        return
    known = 0
    for start in range(0, len(images), 1000):
        block = np.asarray(images[start : start + 1000])
        if block.dtype != np.uint8:
            block = np.round(block * 255.0).astype(np.uint8)
        known += int(np.isin(store.digests(block), trained_on).sum())
    if known:
        raise checks.InputError(
            "calibration images must be new to the model. It gives lower scores to images that it "
            f"trained on. Received: {known} of {len(images)} images that it trained on. "
            "Pass other images."
        )


def _statistics(
    model: VAE,
    images: Array,
    samples: int,
    scale: float,
    seed: int,
    stream: noise.Stream = noise.Stream.DETECTION,
) -> Statistics:
    """Returns the statistics of images as arrays."""
    compiled = graphs.compiled(
        lambda rows, draws: anomaly_scores.statistics(model, rows, draws, scale)
    )
    parts = [compiled(rows, draws) for rows, draws in _blocks(model, images, samples, seed, stream)]
    return Statistics(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _blocks(
    model: VAE,
    images: Array,
    samples: int,
    seed: int | None,
    stream: noise.Stream | None,
) -> Iterator[tuple[tf.Tensor, Any]]:
    """Yields blocks of pixels [B, H, W, C] and their noise [B, samples, latent_dim].

    The noise of row i is that of the rows from i * samples on, so it does not depend on the size
    of the blocks. Without a seed the noise is None.
    """
    size, pixels = model.latent_dim, 4 * math.prod(model.image_shape)
    rows = max(1, min(1000, _BLOCK_BYTES // (pixels * samples)))
    for start in range(0, len(images), rows):
        block = np.asarray(images[start : start + rows])
        draws = None
        if seed is not None and stream is not None:
            count = len(block) * samples
            draws = noise.normal(seed, stream, rows=count, size=size, row=start * samples)
            draws = tf.reshape(draws, [len(block), samples, size])
        yield to_pixels(tf.constant(block), None, "none"), draws


def _content_sha256(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
