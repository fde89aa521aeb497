"""What levels of latents bring on photographs: `photos_32` beside networks with one level.

`python -m benchmarks.photographs train FOLDER` trains residual convolutions with one level of
latents. Everything else is as in the recipe of `photos_32`: images, order, optimizer and number of
steps. `python -m benchmarks.photographs compare FOLDER` measures both on the test patches, writes
`flat.json` beside the preset's weights, and renders the card.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

from vae_keras import VAE, data, datasets, evaluation
from vae_keras.report.provenance import provenance
from vae_keras.training import build, callbacks
from vae_keras.utils import files, keras_file
from vae_keras.zoo import cards, presets

PRESET = "photos_32"
_NETWORK: dict[str, Any] = {"widths": [32, 64], "blocks_per_stage": 1, "activation": "silu"}
# With these sizes the networks have 1% more parameters than those of the preset.
ENCODER = presets.Part("ConvEncoder", {"latent_dim": 144, **_NETWORK})
DECODER = presets.Part("ConvDecoder", {"upsampling": "nearest", **_NETWORK})


def train(folder: Path) -> None:
    """Trains the networks with one level of latents and saves them in `folder`."""
    recipe = dataclasses.replace(presets.load_recipe(PRESET), encoder=ENCODER, decoder=DECODER)
    images = datasets.load(recipe.data).images.x_train
    model = build.build_model(recipe, images.shape[1:], len(images))
    print(f"{model.count_params():,} parameters", flush=True)
    model.fit(
        images[: -recipe.validation],
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        validation_data=(images[-recipe.validation :],),
        verbose=2,
        callbacks=[callbacks.ELBOWriter(folder / "elbo.csv")],
    )
    model.save(folder / "flat.keras")


def compare(folder: Path, samples: int) -> dict[str, Any]:
    """Measures both models on the test patches, in bits per dimension, paired by patch."""
    recipe = presets.load_recipe(PRESET)
    images = datasets.load(recipe.data).images.x_test
    pixels = data.binarize(images, recipe.seed, recipe.binarization)
    models = {"levels": VAE.from_preset(PRESET), "flat": keras_file.load(folder / "flat.keras")}
    found: dict[str, Any] = {"images": len(images), "samples": samples}
    per_image = {}
    for name, model in models.items():
        bits = evaluation.bits_per_nat(model.image_shape)
        elbo = -model.elbo(pixels).elbo * bits
        likelihood = evaluation.estimate_log_likelihood(model, pixels, samples)
        per_image[name] = elbo, -likelihood.estimate.per_example * bits
        found[name] = {"parameters": model.count_params(), "latents": model.latent_dim} | {
            key: _estimate(values)
            for key, values in zip(("elbo", "likelihood"), per_image[name], strict=True)
        }
    found["saved"] = {
        key: _estimate(flat - levels)
        for key, flat, levels in zip(
            ("elbo", "likelihood"), per_image["flat"], per_image["levels"], strict=True
        )
    }
    return found | {"provenance": provenance(datasets.fingerprint(images))}


def _estimate(values: Any) -> dict[str, float]:
    estimate = evaluation.Estimate.of(values)
    return {"bits": estimate.mean, "standard_error": estimate.standard_error}


def main() -> None:
    """Trains or compares, as the command says."""
    parser = argparse.ArgumentParser(description="Compares photos_32 with one level of latents.")
    parser.add_argument("what", choices=("train", "compare"))
    parser.add_argument("folder", type=Path, help="where the networks with one level are saved")
    parser.add_argument("--samples", type=int, default=100, help="importance samples a patch")
    asked = parser.parse_args()
    started = time.perf_counter()
    if asked.what == "train":
        train(asked.folder)
        print(f"{(time.perf_counter() - started) / 60:.0f} minutes")
        return
    found = compare(asked.folder, asked.samples)
    weights = {"weights_sha256": files.sha256(presets.weights(PRESET))}
    files.write_json(presets.folder() / PRESET / "flat.json", found | weights)
    cards.write()


if __name__ == "__main__":
    main()
