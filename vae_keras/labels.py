"""Class labels: how they are read, what a missing one costs, and Bayes' rule.

A label is the number of a class, 0 to K - 1, or the class's name. -1 and the empty name say that
the label is missing. Networks receive labels one-hot, [N, K]. The row of a missing label is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from vae_keras.objectives import Terms
from vae_keras.trainer import graph_checks
from vae_keras.utils import checks

MISSING = -1
"""The number of a label that is missing."""


@dataclass(frozen=True)
class Classes:
    """The classes that a conditional model knows.

    Attributes:
        count: K, the number of classes.
        names: their names, or () for classes without names.
        may_miss: whether a label may be missing.
    """

    count: int
    names: tuple[str, ...]
    may_miss: bool

    @classmethod
    def of(cls, count: Any, names: Any, may_miss: bool) -> Classes | None:
        """Checks the arguments of a model.

        Args:
            count: K, >= 2, or None for the number of names.
            names: K different names, or None.
            may_miss: whether a label may be missing.

        Returns:
            The classes, or None if both arguments are None.

        Raises:
            checks.InputError: for a number below 2, and unless there are K different names.

        Example:
            >>> Classes.of(None, ["cat", "dog"], may_miss=False).count
            2
        """
        if count is None and names is None:
            return None
        known = [] if names is None else list(names)
        count = len(known) if count is None else count
        count = checks.whole_number("num_classes", count, 2)
        are_texts = all(isinstance(name, str) and name for name in known)
        if names is not None and not (are_texts and len(set(known)) == len(known) == count):
            raise checks.InputError(
                f"class_names must hold {count} different names, one for each class. "
                f"Received: {known!r:.200}. Leave out class_names, or num_classes."
            )
        return cls(count, tuple(known), may_miss)

    def numbers(self, labels: Any, rows: int) -> np.ndarray:
        """Returns the classes of some rows as int32 [rows].

        Args:
            labels: numbers or names, [rows] or [rows, 1], or a single one for all rows.
            rows: number of rows.

        Raises:
            checks.InputError: for anything else.

        Example:
            >>> Classes(2, ("cat", "dog"), may_miss=True).numbers(["dog", "", "cat"], 3)
            array([ 1, -1,  0], dtype=int32)
        """
        if labels is None:
            raise checks.InputError(
                f"a model of {self.count} classes needs the label of each image. "
                f"Received: no labels. Pass {self._accepted}."
            )
        array = np.asarray(labels)
        if array.shape == (rows, 1):
            array = array[:, 0]
        if array.ndim == 0:
            array = np.full(rows, array)
        if array.shape != (rows,):
            raise checks.InputError(
                "labels must hold one class for each image. "
                f"Received: shape {array.shape} for {rows} images. Pass one label for each of them."
            )
        if array.dtype.kind in "USO":
            return self._numbers_of_names(array)
        whole = array.dtype.kind in "iu" or (
            array.dtype.kind == "f" and bool((array == np.floor(array)).all())
        )
        low = MISSING if self.may_miss else 0
        wrong = array if not whole else array[(array < low) | (array >= self.count)]
        if len(wrong):
            has_no_minus = self.may_miss and array.dtype.kind == "u"
            note = f", in an array of {array.dtype}, which holds no -1" if has_no_minus else ""
            raise checks.InputError(self._rule(f"{self._first(wrong)}{note}"))
        return array.astype(np.int32)

    def tensor(self, labels: Any) -> tf.Tensor:
        """Returns the classes of a batch as int32 [N], with the check of their values in the graph.

        Args:
            labels: tensor of numbers or of names, [N] or [N, 1], or None.

        Raises:
            checks.InputError: for another rank or dtype, and for no labels.
        """
        if labels is None:
            raise checks.InputError(
                f"a model of {self.count} classes needs the label of each image. Received: batches "
                f"of images only. Yield (images, labels), with {self._accepted}."
            )
        labels = tf.convert_to_tensor(labels)
        if labels.shape.rank not in (None, 1) and labels.shape[1:] != [1]:
            raise checks.InputError(
                "labels must hold one class for each image. "
                f"Received: shape {labels.shape} in a batch. Pass labels of shape [N]."
            )
        labels = tf.reshape(labels, [-1])
        if labels.dtype == tf.string:
            if not self.names:
                raise checks.InputError(self._names_rule)
            known = tf.constant(("", *self.names) if self.may_miss else self.names)
            same = tf.equal(labels[:, tf.newaxis], known)
            labels = tf.argmax(same, axis=1, output_type=tf.int32) - int(self.may_miss)
            fits = tf.reduce_all(tf.reduce_any(same, axis=1))
            return graph_checks.guard(labels, fits, self._name_rule("another name in a batch"))
        if not (labels.dtype.is_integer or labels.dtype.is_floating):
            raise checks.InputError(self._rule(f"dtype {labels.dtype.name} in a batch"))
        numbers = tf.cast(labels, tf.int64)
        low = MISSING if self.may_miss else 0
        inside = (numbers >= low) & (numbers < self.count)
        if labels.dtype.is_floating:
            inside &= tf.equal(tf.cast(numbers, labels.dtype), labels)
        rule = self._rule("another number in a batch")
        return graph_checks.guard(tf.cast(numbers, tf.int32), tf.reduce_all(inside), rule)

    def name(self, number: Any) -> str:
        """Returns the name of a class, or its number for classes without names."""
        return self.names[number] if self.names else str(number)

    def one_hot(self, numbers: np.ndarray) -> np.ndarray:
        """Returns float32 [N, K]. The row of a missing label is zero."""
        return (numbers[:, np.newaxis] == np.arange(self.count)).astype(np.float32)

    def complete(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the numbers if no label is missing.

        Raises:
            checks.InputError: for a missing label.
        """
        if (numbers == MISSING).any():
            raise checks.InputError(
                "this method needs a label for each image. Received: a missing label. Leave these "
                "images out, or fill their labels in: classify(x).log_prob.argmax(axis=1)."
            )
        return numbers

    def frequencies(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the part of each class among the labels that are not missing, float64 [K].

        Raises:
            checks.InputError: for a class without an image.
        """
        counts = np.bincount(numbers[numbers != MISSING], minlength=self.count)
        if not counts.all():
            empty = [self.name(number) for number in np.flatnonzero(counts == 0)]
            raise checks.InputError(
                "each class must have a labelled image to train on. "
                f"Received: no image of class {', '.join(empty):.100}. "
                "Add images, or make a model with fewer classes."
            )
        return counts / counts.sum()

    @property
    def _accepted(self) -> str:
        """The labels that the model takes, in words."""
        numbers = f"whole numbers from 0 to {self.count - 1}"
        return numbers if not self.names else f"{numbers}, or names from class_names"

    @property
    def _names_rule(self) -> str:
        return (
            "labels may be names once the model knows them. Received: names for a model without "
            "class_names. Make it with VAE(..., class_names=[...])."
        )

    def _rule(self, received: str) -> str:
        remedy = (
            "Pass a class for each image, or -1 where its label is missing."
            if self.may_miss
            else "Pass a class for each image. Missing labels need a classifier."
        )
        return f"labels must be {self._accepted}. Received: {received}. {remedy}"

    def _name_rule(self, received: str) -> str:
        known = ", ".join(self.names)
        missing = ", or the empty name where the label is missing" if self.may_miss else ""
        return (
            f"labels must be names that the model knows: {known:.200}. "
            f"Received: {received}. Pass one of these names{missing}."
        )

    def _numbers_of_names(self, array: np.ndarray) -> np.ndarray:
        if not self.names:
            raise checks.InputError(self._names_rule)
        number = {name: index for index, name in enumerate(self.names)}
        if self.may_miss:
            number[""] = MISSING
        names = [
            name.decode(errors="replace") if isinstance(name, bytes) else name
            for name in array.tolist()
        ]
        unknown = [name for name in names if not isinstance(name, str) or name not in number]
        if unknown:
            raise checks.InputError(self._name_rule(f"{unknown[0]!r:.100}"))
        return np.array([number[name] for name in names], np.int32)

    @staticmethod
    def _first(wrong: np.ndarray) -> Any:
        if wrong.dtype.kind != "f":
            return f"dtype {wrong.dtype}" if wrong.dtype.kind not in "iu" else wrong[0]
        return wrong[wrong != np.floor(wrong)][0] if (wrong != np.floor(wrong)).any() else wrong[0]


def marginal(
    bound: Callable[..., tuple[tf.Tensor, Terms]],
    images: tf.Tensor,
    noise: tf.Tensor,
    labels: tf.Tensor,
    logits: tf.Tensor,
    log_prior: tf.Tensor,
    classifier_weight: float,
) -> tuple[tf.Tensor, Terms]:
    """Bounds log p(x | y) of images with a label, and log p(x) of images without one.

    Every image is measured under each class in one pass over N * K rows:

        log p(x) >= sum_y q(y | x) L(x, y) - KL(q(y | x) || p(y))

    where L(x, y) is a bound on log p(x | y). The sum over the classes is exact, so the classifier
    q(y | x) gets a gradient without noise. The known label of an image has the probability 1
    instead, and the classifier learns it from `classifier_weight` * log q(y | x).

    Args:
        bound: images [M, H, W, C], noise [M, S] and one-hot labels [M, K] to L(x, y) and its
            `Terms`, [M] each.
        images: [N, H, W, C].
        noise: standard normal [N, S], which the classes of an image share.
        labels: one-hot [N, K]; the row of a missing label is zero.
        logits: of q(y | x), [N, K].
        log_prior: log p(y), [K].
        classifier_weight: weight of log q(y | x) where the label is known.

    Returns:
        The value to maximise and the `Terms`, [N] each. The `kl` of an image without a label
        holds KL(q(y | x) || p(y)), too.

    References:
        Kingma et al. 2014, "Semi-supervised learning with deep generative models", equations 6, 7
        and 9.
    """
    count = log_prior.shape[0]
    every = tf.tile(tf.eye(count), [tf.shape(images)[0], 1])
    repeated = (tf.repeat(part, count, axis=0) for part in (images, noise))
    objective, terms = bound(*repeated, every)

    log_q = tf.nn.log_softmax(tf.cast(logits, tf.float32))  # [N, K]
    is_missing = 1.0 - tf.reduce_sum(labels, axis=1)  # [N]
    q = labels + is_missing[:, tf.newaxis] * tf.exp(log_q)

    def expected(of_class: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(q * tf.reshape(of_class, [-1, count]), axis=1)

    gap = is_missing * tf.reduce_sum(q * (log_q - log_prior), axis=1)  # KL(q(y | x) || p(y))
    known = tf.reduce_sum(labels * log_q, axis=1)
    log_likelihood, kl = expected(terms.log_likelihood), expected(terms.kl) + gap
    return (
        expected(objective) - gap + classifier_weight * known,
        Terms(log_likelihood - kl, log_likelihood, kl),
    )


def bayes(log_weights: tf.Tensor, log_prior: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes log p(y | x) by Bayes' rule from importance weights of log p(x | y).

    The standard error is that of the delta method. It takes into account that the classes share
    their noise.

    Args:
        log_weights: log p(x, z_s | y) - log q(z_s | x, y), [K, S] with S >= 2.
        log_prior: log p(y), [K].

    Returns:
        log p(y | x) and its standard error, [K] each.

    References:
        Owen 2013, "Monte Carlo theory, methods and examples", section 9.2 on ratio estimates.
    """
    samples = log_weights.shape[1] or tf.shape(log_weights)[1]
    size = tf.cast(samples, tf.float32)
    log_joint = tf.reduce_logsumexp(log_weights, axis=1) - tf.math.log(size) + log_prior
    log_prob = tf.nn.log_softmax(log_joint)
    share = tf.nn.softmax(log_weights, axis=1)  # of each sample in its class, [K, S]
    influence = share - tf.reduce_sum(tf.exp(log_prob)[:, tf.newaxis] * share, axis=0)
    variance = tf.reduce_sum(influence**2, axis=1) * (size / (size - 1.0))
    return log_prob, tf.sqrt(variance)


def confusion(labels: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """Counts the images of each class by the class that they are taken for.

    Args:
        labels: true classes, int [N]. Missing labels are left out.
        predicted: predicted classes, int [N].
        count: K, the number of classes.

    Returns:
        int64 [K, K], the true class along the rows.

    Example:
        >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    known = labels != MISSING
    cells = np.asarray(labels)[known] * count + np.asarray(predicted)[known]
    return np.bincount(cells, minlength=count * count).reshape(count, count)
