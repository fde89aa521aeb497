"""Prints tables."""

from __future__ import annotations

from collections.abc import Sequence


def show(rows: Sequence[Sequence[str]]) -> None:
    """Prints rows of texts as columns of equal width.

    Args:
        rows: the header and the rows, each with the same number of texts.

    Example:
        >>> show([("preset", "epochs"), ("mlp_mnist", "30")])
        preset     epochs
        mlp_mnist  30
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        print("  ".join(cells).rstrip())
