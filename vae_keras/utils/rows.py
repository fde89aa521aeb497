"""Arrays whose rows are read or computed when they are asked for."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class Rows:
    """An array [N, ...] that holds no row in memory.

    A slice gives other `Rows`. A whole number gives one row, and a list of numbers gives the rows
    as a NumPy array. `np.asarray` reads all rows.

    Args:
        read: function from row numbers, int64 [M], to these rows, [M, ...].
        index: int64 [N], the numbers of the rows in their order.
        row_shape: shape of a row.
        dtype: dtype of the rows.

    Example:
        >>> squares = Rows(lambda index: index**2, np.arange(10), (), np.int64)
        >>> len(squares), np.asarray(squares[2:5]).tolist(), squares[[9]].tolist()
        (10, [4, 9, 16], [81])
    """

    def __init__(
        self,
        read: Callable[[np.ndarray], np.ndarray],
        index: np.ndarray,
        row_shape: tuple[int, ...],
        dtype: Any,
    ) -> None:
        self.read, self.index = read, index
        self.shape = (len(index), *row_shape)
        self.dtype = np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice):
            return Rows(self.read, self.index[rows], self.shape[1:], self.dtype)
        if isinstance(rows, (int, np.integer)):
            return self.read(self.index[[int(rows)]])[0]
        return self.read(self.index[np.asarray(rows)])

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.read(self.index)
        return array if dtype is None else array.astype(dtype, copy=False)


Array = np.ndarray | Rows
"""What holds images: an array in memory, or rows that are read when they are needed."""


def of(store: np.ndarray, index: np.ndarray) -> Rows:
    """Returns rows of an array that a file is mapped to, in an order of their own.

    Args:
        store: [M, ...], such as a `np.memmap`.
        index: int64 [N], row numbers of `store`.

    Example:
        >>> np.asarray(of(np.array([[1], [2], [3]]), np.array([2, 0])))
        array([[3],
               [1]])
    """
    return Rows(functools.partial(_take, store), index, store.shape[1:], store.dtype)


def concatenate(first: Array, second: Array) -> Array:
    """Joins two arrays, or two `Rows` of one store.

    Example:
        >>> concatenate(np.zeros(2), np.zeros(3)).shape
        (5,)
    """
    if isinstance(first, Rows) and isinstance(second, Rows):
        index = np.concatenate([first.index, second.index])
        return Rows(first.read, index, first.shape[1:], first.dtype)
    return np.concatenate([np.asarray(first), np.asarray(second)])


def is_mapped(array: Any) -> bool:
    """Whether an array lies in a file that is mapped into memory.

    Example:
        >>> is_mapped(np.zeros(3))
        False
    """
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def select(array: Array, keep: np.ndarray) -> Array:
    """Returns the rows with the numbers `keep`, int64 [M]. Those of `Rows` are not read.

    Example:
        >>> select(np.array([5, 6, 7]), np.array([2, 0]))
        array([7, 5])
    """
    if isinstance(array, Rows):
        return Rows(array.read, array.index[keep], array.shape[1:], array.dtype)
    return np.take(array, keep, axis=0)


def _take(store: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.take(store, index, axis=0)
