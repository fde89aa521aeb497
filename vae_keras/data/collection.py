"""What a data set is: its images, its labels, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vae_keras.utils import rows


class Images(NamedTuple):
    """Images and labels for training and for testing.

    x_train, x_test: uint8 [N, H, W, C], in memory or as `rows.Rows`; y_train, y_test: [N] integers
    or texts, or None. x_test has no row if the data come with a validation set only.
    """

    x_train: Any
    y_train: np.ndarray | None
    x_test: Any
    y_test: np.ndarray | None


@dataclass(frozen=True)
class DataSet:
    """A data set and what is known about it. `VAE.fit` takes it as it is.

    Attributes:
        name: its name in run folders and cards.
        images: the pixels and labels.
        split: how it was divided into training and test images, in words.
        invert: whether figures draw black as white, as for ink on paper. Default False.
        notes: lines for the user about what was found while reading. Default ().
        identity: what `config.json` stores to recognise the data. Default {}, for a data set that
            its name identifies.
        own: whether these are a user's own images. Default False.
        divided: whether the data came with a test set. Default True.
        validation: number of images at the end of `x_train` that came as a validation set.
            Default 0.
        continues: bool [N], whether a training image must stay on one side of every split with the
            image before it. Default None, if all may be separated.
        digests: hashes of the pixels of `x_train` and of `x_test`, uint64 [N] each. Default None,
            for a data set that its name identifies.
        files: names of the files of `x_train` and of `x_test`. Default None, for images that have
            no files of their own.
    """

    name: str
    images: Images
    split: str
    invert: bool = False
    notes: tuple[str, ...] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    own: bool = False
    divided: bool = True
    validation: int = 0
    continues: np.ndarray | None = None
    digests: tuple[np.ndarray, np.ndarray] | None = None
    files: tuple[Sequence[str], Sequence[str]] | None = None

    def held_out(self, wanted: int) -> int:
        """Returns the number of images to hold out that separates no images that stay together.

        Args:
            wanted: a number from 0 to the number of training images.

        Returns:
            The nearest number that is possible, `wanted` itself if all images may be separated.

        Example:
            >>> x = np.zeros((5, 2, 2, 1), np.uint8)
            >>> pairs = np.array([False, False, True, False, True])
            >>> DataSet("pairs", Images(x, None, x, None), "", continues=pairs).held_out(1)
            2
        """
        if self.continues is None or wanted == 0:
            return wanted
        count = len(self.continues)
        # The first image may not be held out: no image would be left to train on.
        possible = count - np.flatnonzero(~self.continues)[1:]
        if not len(possible):
            return 0
        return int(possible[np.abs(possible - wanted).argmin()])

    def training_part(self, labelled: bool = False) -> tuple[Any, Any]:
        """Returns the images to train on, and the validation images that came with them or None.

        Args:
            labelled: whether both come as pairs of images and labels. Default False.
        """
        x, y, *_ = self.images
        kept = len(x) - self.validation

        def part(rows: slice) -> Any:
            return (x[rows], None if y is None else y[rows]) if labelled else x[rows]

        return part(slice(kept)), part(slice(kept, None)) if self.validation else None

    def names(self) -> tuple[Sequence[str], Sequence[str]]:
        """Returns a name for each image of `x_train` and of `x_test`.

        These are the names of files. Images without files are numbered after the data set.

        Example:
            >>> x = np.zeros((2, 2, 2, 1), np.uint8)
            >>> DataSet("pairs", Images(x, None, x, None), "").names()
            (['pairs/train/0', 'pairs/train/1'], ['pairs/test/0', 'pairs/test/1'])
        """
        if self.files is not None:
            return self.files
        train, test = (
            [f"{self.name}/{part}/{row}" for row in range(len(x))]
            for part, x in (("train", self.images.x_train), ("test", self.images.x_test))
        )
        return train, test

    def unseen(self, trained_on: np.ndarray | None) -> tuple[Any, np.ndarray | None, Sequence[str]]:
        """Returns all images that a model did not train on, with their labels and names.

        Args:
            trained_on: hashes of the pixels that the model trained on, uint64 [M], or None for a
                model that did not see any of these images.

        Returns:
            The images, in the order of the training images and the test images, their labels, and
            their names.
        """
        x_train, y_train, x_test, y_test = self.images
        x = rows.concatenate(x_train, x_test)
        y = None if y_train is None or y_test is None else np.concatenate([y_train, y_test])
        names = [name for part in self.names() for name in part]
        if trained_on is None or self.digests is None:
            return x, y, names
        return leave_out(trained_on, np.concatenate(self.digests), x, y, names)


def leave_out(
    trained_on: np.ndarray,
    digests: np.ndarray,
    x: Any,
    y: np.ndarray | None,
    names: Sequence[str],
) -> tuple[Any, np.ndarray | None, Sequence[str]]:
    """Returns the images that a model did not train on, with their labels and names.

    Args:
        trained_on: hashes of the pixels that the model trained on, uint64 [M].
        digests: hashes of the pixels of the images, uint64 [N].
        x: the images [N, H, W, C].
        y: their labels [N], or None.
        names: their names.

    Returns:
        The images that are left, their labels and their names.

    Example:
        >>> x, digests = np.zeros((2, 4, 4, 1), np.uint8), np.array([7, 8], np.uint64)
        >>> leave_out(digests[:1], digests, x, None, ["a", "b"])[2]
        ['b']
    """
    keep = np.flatnonzero(~np.isin(digests, trained_on))
    return (
        rows.select(x, keep),
        None if y is None else y[keep],
        [names[row] for row in keep.tolist()],
    )
