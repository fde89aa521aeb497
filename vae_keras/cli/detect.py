"""The command `detect`: says which images are anomalies."""

from __future__ import annotations

import argparse
import csv
import errno
import io
from pathlib import Path

import numpy as np

from vae_keras.cli import models
from vae_keras.data import own_images
from vae_keras.detection import FILE, PROCEDURES, Detector, Verdicts, beside
from vae_keras.model import VAE
from vae_keras.report import verdicts
from vae_keras.utils import checks, files
from vae_keras.utils.rows import select

CSV, PAGE, HEAT_MAPS = "verdicts.csv", "verdicts.html", "heat_maps"
_BLOCK = 256  # anomalies whose heat maps are held at a time


def run(arguments: argparse.Namespace) -> None:
    """Writes the verdicts on `--data` to the folder `--to`."""
    rate = checks.fraction("--false-alarms", arguments.false_alarms)
    checks.whole_number("--seed", arguments.seed, 0, checks.MAX_SEED)
    folder = checks.writable("--to", arguments.to, folder=True)
    model = models.read_model(arguments)
    detector = _detector(arguments, model)
    detector.supported(rate)
    listed = models.list_images(arguments.data, model, arguments.skip_damaged)
    procedure = PROCEDURES[1] if arguments.together else PROCEDURES[0]
    found = detector.verdicts(listed.pixels, rate, procedure=procedure, seed=arguments.seed)
    is_old = (folder / CSV).exists()
    files.write_text(folder / CSV, _table(listed.names, found))
    if is_old:  # the heat maps of earlier verdicts
        files.remove_tree(folder / HEAT_MAPS)
    pictures = _write_pictures(detector, listed, found, folder / HEAT_MAPS)
    title = f"Verdicts on {Path(arguments.data).name}"
    html = verdicts.page(title, detector, listed.names, found, pictures, rate, procedure)
    files.write_text(folder / PAGE, html)
    count = int((found.verdicts == "anomaly").sum())
    print(
        f"{count:,} of {len(found.scores):,} images are anomalies, {count / len(found.scores):.2%}."
    )
    print(verdicts.promise(detector, len(found.scores), rate, procedure))
    print(f"The page: {folder / PAGE}")


def _detector(arguments: argparse.Namespace, model: VAE) -> Detector:
    """Calibrates with `--calibrate`, or reads the detector beside the model.

    Without either, it calibrates with the validation images of the model's named data.
    """
    if arguments.calibrate is not None:
        x = models.list_images(arguments.calibrate, model, arguments.skip_damaged).pixels
    else:
        if arguments.model is not None and beside(arguments.model).exists():
            if arguments.score is not None:
                raise checks.InputError(
                    "--score needs --calibrate beside a calibrated detector. Received: --score "
                    f"without --calibrate, beside a {FILE}. Pass --calibrate, or leave --score out."
                )
            return Detector.load(arguments.model, model)
        x = models.validation_images(arguments)
        if not len(x):
            raise checks.InputError(
                "--calibrate must name normal images if none are known that the model did not "
                "train on. Received: a model without held-out images. Pass their file or folder."
            )
        print(f"Calibrating with the {len(x):,} validation images of the model's data.")
    score = {} if arguments.score is None else {"score": arguments.score}
    seen = models.hashes_trained_on(arguments)
    detector = Detector.calibrate(model, x, seed=arguments.seed, trained_on=seen, **score)
    if arguments.model is not None:
        try:
            print(f"The calibration: {detector.save(arguments.model)}")
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            # The verdicts do not need a model that lies where the user may write.
            print(f"The calibration could not be kept: {error.strerror}.")
    return detector


def _table(names: list[str], found: Verdicts) -> str:
    """Returns the content of the CSV file, in the order of the images."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "score", "p_value", "verdict"))
    for name, score, p_value, verdict in zip(names, *found, strict=True):
        writer.writerow((name, f"{score:.9g}", repr(float(p_value)), verdict))
    return text.getvalue()


def _write_pictures(
    detector: Detector, listed: own_images.Listed, found: Verdicts, folder: Path
) -> dict[int, bytes]:
    """Writes a picture of each anomaly, and returns those for the page under their rows."""
    flagged = np.flatnonzero(found.verdicts == "anomaly")
    flagged = flagged[np.argsort(-found.scores[flagged], kind="stable")]  # the most unusual first
    digits = len(str(len(flagged)))
    kept: dict[int, bytes] = {}
    for start in range(0, len(flagged), _BLOCK):
        block = flagged[start : start + _BLOCK]
        images = np.asarray(select(listed.pixels, block))
        for rank, (row, image, heat) in enumerate(
            zip(block, images, detector.heat_maps(images), strict=True), start=start + 1
        ):
            png = verdicts.picture(image, heat)
            name = f"{rank:0{digits}d}-{Path(listed.names[row]).stem}.png"
            with files.atomic_write(folder / name) as file:
                file.write(png)
            if rank <= verdicts.MOST_SHOWN:
                kept[int(row)] = png
    return kept
