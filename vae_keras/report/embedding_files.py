"""Writes embeddings as an .npz file, a .parquet file, or a folder for TensorBoard's projector."""

from __future__ import annotations

import importlib.util
import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vae_keras.embeddings import Embeddings
from vae_keras.utils import checks, files
from vae_keras.utils.rows import Array

_SPRITE = 8192  # the longest side of a sprite that TensorBoard draws
_CONFIG = """embeddings {{
  tensor_name: "posterior means"
  tensor_path: "tensors.tsv"
  metadata_path: "metadata.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {width}
    single_image_dim: {height}
  }}
}}
"""


def check(path: Path) -> None:
    """Refuses a target that cannot be written, before anything is computed.

    Args:
        path: a name that ends in .npz or .parquet, or a folder.

    Raises:
        checks.InputError: for another ending, a place that cannot be written, or a .parquet file
            without the package that writes it.

    Example:
        >>> check(Path("embeddings.npz"))
    """
    suffix = path.suffix.lower()
    if suffix not in ("", ".npz", ".parquet"):
        raise checks.InputError(
            f"--to must end in .npz or .parquet, or name a folder. Received: {path}. "
            "Change the ending."
        )
    checks.writable("--to", path, folder=not suffix)
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise checks.InputError(
            "a .parquet file needs the package pyarrow. Received: an environment without it. "
            "Run: pip install 'vae-keras[parquet]'"
        )


def write(
    path: Path,
    embeddings: Embeddings,
    names: Sequence[str],
    labels: np.ndarray | None,
    images: Array,
    invert: bool = False,
) -> None:
    """Writes embeddings in the format that the name says.

    The columns of an .npz and of a .parquet file are `file`, `label` (if there are labels), `loc`,
    `scale` and `elbo`, a row for each image. A folder holds what TensorBoard's projector reads:
    the means, the names, labels and ELBOs, and small pictures.

    Args:
        path: a name that ends in .npz or .parquet, or a folder.
        embeddings: the embeddings of N images.
        names: name of each image.
        labels: label of each image [N], or None.
        images: the images, uint8 [N, H, W, C], for the pictures of a folder.
        invert: whether the pictures draw a grey 0 white. Default False.

    Raises:
        checks.InputError: as `check`.
        OSError: if the file system refuses.

    Example:
        >>> found = Embeddings(np.zeros((2, 3)), np.ones((2, 3)), np.zeros(2))
        >>> write(Path("e.npz"), found, ["a.png", "b.png"], None, np.zeros((2, 6, 6, 1), np.uint8))
        >>> np.load("e.npz", allow_pickle=False)["file"].tolist()
        ['a.png', 'b.png']
    """
    check(path)
    columns = {"file": np.array(names, dtype=np.str_)}
    columns |= {} if labels is None else {"label": labels}
    columns |= embeddings._asdict()
    if path.suffix.lower() == ".npz":
        _write_npz(path, columns)
    elif path.suffix.lower() == ".parquet":
        _write_parquet(path, columns)
    else:
        _write_projector(path, columns, images, invert)


def _write_npz(path: Path, columns: dict[str, np.ndarray]) -> None:
    # `np.savez` takes no column of the name `file`, which is its own argument.
    with files.atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as held:
        for name, values in columns.items():
            with held.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)


def _write_parquet(path: Path, columns: dict[str, np.ndarray]) -> None:
    import pyarrow
    from pyarrow import parquet

    def column(values: np.ndarray) -> pyarrow.Array:
        if values.ndim == 1:
            return pyarrow.array(values)
        return pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(values.ravel()), values.shape[1]
        )

    table = pyarrow.table({name: column(values) for name, values in columns.items()})
    with files.atomic_write(path) as file:
        parquet.write_table(table, file)


def _write_projector(
    folder: Path, columns: dict[str, np.ndarray], images: Array, invert: bool
) -> None:
    """Writes the files of TensorBoard's projector into a folder.

    An older configuration is removed first and the new one is written last, so TensorBoard finds
    either nothing or everything.
    """
    # The projector names points by the first column.
    shown = [name for name in ("label", "file", "elbo") if name in columns]
    rows = zip(*(columns[name] for name in shown), strict=True)
    lines = ["\t".join(shown), *("\t".join(map(str, row)) for row in rows)]
    sprite, (width, height) = _sprite(images, invert)
    configuration = folder / "projector_config.pbtxt"
    configuration.unlink(missing_ok=True)
    files.write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
    with files.atomic_write(folder / "tensors.tsv") as file:
        np.savetxt(file, columns["loc"], fmt="%.7g", delimiter="\t")
    with files.atomic_write(folder / "sprite.png") as file:
        sprite.save(file, "PNG")
    files.write_text(configuration, _CONFIG.format(width=width, height=height))


def _sprite(images: Array, invert: bool) -> tuple[Image.Image, tuple[int, int]]:
    """Returns all images in one square picture, row by row, and the size of each in it."""
    count, height, width, channels = images.shape
    side = math.ceil(math.sqrt(count))
    ratio = min(1.0, _SPRITE / (side * max(height, width)))
    size = max(1, int(width * ratio)), max(1, int(height * ratio))
    mode = "L" if channels == 1 else "RGB"
    canvas = Image.new(mode, (side * size[0], side * size[1]))
    for index in range(count):
        pixels = np.asarray(images[index : index + 1])[0]
        pixels = 255 - pixels if invert and channels == 1 else pixels
        picture = Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
        if picture.size != size:
            picture = picture.resize(size)
        canvas.paste(picture, (index % side * size[0], index // side * size[1]))
    return canvas, size
