"""Sentences on a run that went badly, for the last line of the command and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from vae_keras.model import VAE
from vae_keras.training.best import Choice

RATE_OF_GROUP = "rate_of_group_"
"""Prefix of the name of a group's rate in `metrics.json`. The number of the group follows."""

_NO_RATE = 0.01  # nats per image: the KL of a posterior that equals the prior
_MOST_SATURATED = 0.05  # share of the decoder's outputs
_IMAGES = 200  # so many images are decoded to look for saturated outputs


def of_choice(choice: Choice, held_out: str) -> list[str]:
    """Returns a sentence if a run ended far below its best epoch.

    Args:
        choice: which weights were taken.
        held_out: the split that the epochs were compared on, "validation" or "training".

    Example:
        >>> of_choice(Choice(best_epoch=3, last_epoch=8, lost=90.0, standard_error=2.0), "training")
        ['The run ended 90.000 nats per image below ...']
    """
    if not choice.takes_best:
        return []
    return [
        f"The run ended {choice.lost:.3f} nats per image below its best epoch, which is epoch "
        f"{choice.best_epoch} of {choice.last_epoch} on the {held_out} images. The weights of "
        f"epoch {choice.best_epoch} were exported and measured. Lower --learning-rate, or train "
        "for fewer --epochs."
    ]


def of_model(model: VAE, images: Any, metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence for each sign that the latents or the pixels of a model went wrong.

    Args:
        model: the model.
        images: images as the model receives them, float32 [N, H, W, C], and their labels for a
            model with classes, see `VAE.paired`.
        metrics: entries of `metrics.json` that `artifacts.measure` made.

    Returns:
        Sentences on a KL of 0, on collapsed dimensions or groups, and on saturated outputs.
    """
    values = {entry["name"]: entry["value"] for entry in metrics}
    active, size = int(values["active_units"]), model.latent_dim
    # The posterior means of one image do not vary.
    varies = all(entry["num_images"] > 1 for entry in metrics if entry["name"] == "active_units")
    groups = {
        name.removeprefix(RATE_OF_GROUP): rate
        for name, rate in values.items()
        if name.startswith(RATE_OF_GROUP)
    }
    found = []
    if values["rate"] < _NO_RATE:
        found.append(
            "The KL is 0: the posterior of every image equals the prior, and the decoder does not "
            "use the latents. Train for longer, or raise the KL weight slowly with warmup_steps."
        )
    elif groups:
        # A group has latents at every place of the image, and most of those at the border are idle.
        found += [
            f"Group {number} of {len(groups)} groups of latents collapsed: its KL is 0. "
            "Fewer groups would do."
            for number, rate in groups.items()
            if rate < _NO_RATE
        ]
    elif active < size and varies:
        found.append(
            f"{size - active} of {size} latent dimensions collapsed: their posterior is the same "
            "for all images. A smaller latent_dim would do."
        )
    share = saturated_share(model, images)
    if share > _MOST_SATURATED:
        found.append(
            f"{share:.0%} of the decoder's outputs are saturated: the likelihood's gradient there "
            "is 0 or its density has no bound. Lower --learning-rate, or pass bound to the decoder."
        )
    return found


def saturated_share(model: VAE, images: Any) -> float:
    """Returns the share of saturated outputs of a decoder, for the posterior means of some images.

    Args:
        model: the model. The share is 0 for a likelihood that does not tell.
        images: as in `of_model`. The first 200 are looked at.

    Returns:
        A number in [0, 1].
    """
    rows, *one_hot = (part[:_IMAGES] for part in model.labelled(images))
    latents = model.encode(rows, *(part.argmax(axis=1) for part in one_hot)).loc
    pixels = model.decode_distribution(tf.constant(latents), *map(tf.constant, one_hot))
    saturated = getattr(pixels, "saturated", None)
    return 0.0 if saturated is None else float(tf.reduce_mean(tf.cast(saturated(), tf.float32)))
