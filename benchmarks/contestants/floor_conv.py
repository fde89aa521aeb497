"""The floor of the convolutional cases: their convolutions and nothing else, through oneDNN.

The training case computes each convolution of a step, the gradient of its kernel, and the gradient
of its input unless that is the images. The likelihood case computes the decoder's convolutions.
Both use PyTorch's operations with the channels last in memory. The dense layers are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch

from benchmarks.gate import Gate
from benchmarks.workload import NUM_CONV_SAMPLES, Workload, conv_parts

_SIZES = (28, 14, 7)  # height and width of the maps, from the images on
_ROWS = 1000  # decoded at a time


def train(workload: Workload, gate: Gate) -> None:
    """Step after step of the convolutions of a batch."""
    both = [*_encoder(workload, workload.batch_size), *_decoder(workload, workload.batch_size)]
    _repeat(both, workload.num_images // workload.batch_size, workload, gate)


def likelihood(workload: Workload, gate: Gate) -> None:
    """The decoder's convolutions for all samples of the images."""
    decoder = list(_decoder(workload, _ROWS, gradients=False))
    _repeat(decoder, workload.num_images * NUM_CONV_SAMPLES // _ROWS, workload, gate)


def _repeat(
    convolutions: list[Callable[[], None]], times: int, workload: Workload, gate: Gate
) -> None:
    gate.ready()
    while True:
        for _ in range(times):
            for convolution in convolutions:
                convolution()
        gate.passed(workload.num_images, lambda: None)


def _encoder(workload: Workload, rows: int) -> Iterator[Callable[[], None]]:
    encoder, _ = conv_parts(workload.weights())
    for scale, (above, below) in enumerate(itertools.pairwise(_SIZES)):
        yield _convolution(rows, above, encoder["step"][scale][0].shape, 2, is_first=scale == 0)
        for kernel, _ in encoder["residual"][2 * scale :][:2]:
            yield _convolution(rows, below, kernel.shape, 1)


def _decoder(workload: Workload, rows: int, gradients: bool = True) -> Iterator[Callable[[], None]]:
    _, decoder = conv_parts(workload.weights())
    given = {"gradients": gradients}
    for scale, below in enumerate(_SIZES[1:]):
        up = decoder["step"][scale][0].shape
        yield _convolution(rows, below, up, 2, is_transposed=True, **given)
        for kernel, _ in decoder["residual"][2 * scale :][:2]:
            yield _convolution(rows, below, kernel.shape, 1, **given)


def _convolution(
    rows: int,
    size: int,
    shape: tuple[int, ...],
    stride: int,
    is_transposed: bool = False,
    is_first: bool = False,
    gradients: bool = True,
) -> Callable[[], None]:
    """Makes a function that computes a convolution and its gradients.

    Args:
        rows: images in the batch.
        size: height and width of the input.
        shape: shape of Keras' kernel, [H, W, in, out], and [H, W, out, in] of a transposed one.
        stride: 1, or 2 for a step down or up.
        is_transposed: whether the convolution is transposed.
        is_first: whether its input is the images, which need no gradient.
        gradients: whether gradients are computed.
    """
    width, _, second, first = shape
    # PyTorch's kernels are [out, in, H, W], and [in, out, H, W] of a transposed convolution.
    kernel = _random(first, second, width, width)
    x = _random(rows, first if is_transposed else second, size, size)
    padding, more = (width - 1) // 2, int(is_transposed)
    given = [stride] * 2, [padding] * 2, [1, 1], is_transposed, [more] * 2, 1
    y = torch.ops.aten.convolution(x, kernel, None, *given)
    wanted = [not is_first, True, False]

    @torch.no_grad()
    def compute() -> None:
        torch.ops.aten.convolution(x, kernel, None, *given)
        if gradients:
            torch.ops.aten.convolution_backward(y, x, kernel, None, *given, wanted)

    return compute


def _random(*shape: int) -> torch.Tensor:
    return torch.rand(shape).contiguous(memory_format=torch.channels_last)
