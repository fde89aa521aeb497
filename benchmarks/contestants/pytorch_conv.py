"""PyTorch: the convolutional networks with the fused Adam, in each of PyTorch's ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.contestants import pytorch
from benchmarks.gate import Gate
from benchmarks.workload import CONV_WIDTHS, DIGIT, SCALE_FLOOR, Weights, Workload, conv_parts


class TorchConvVAE(pytorch.TorchVAE):
    """The networks and their negative ELBO; the weights keep the workload's order."""

    def __init__(
        self,
        weights: Weights,
        order: torch.memory_format,
        shape: tuple[int, int, int] = DIGIT,
    ) -> None:
        nn.Module.__init__(self)
        self.shape = shape
        # Keras' kernels are [H, W, in, out], or [in, out]; of a transposed one [H, W, out, in].
        held = (torch.from_numpy(value.transpose(_ORDER[value.ndim]).copy()) for value in weights)
        self.held = nn.ParameterList(
            value.contiguous(memory_format=order) if value.ndim == 4 else value for value in held
        )
        self.encoder, self.decoder = conv_parts(list(self.held))

    def weights(self) -> Weights:
        """Returns the weights in the workload's layout."""
        back = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
        return [value.detach().numpy().transpose(back[value.ndim]).copy() for value in self.held]

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns loc and scale [N, L] for images [N, H * W * C], channels last."""
        h = x.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        for scale, (kernel, bias) in enumerate(self.encoder["step"]):
            total = kernel.shape[-1] - 2  # of padding, the odd one at the far end as in Keras
            before, after = total // 2, total - total // 2
            h = F.conv2d(F.pad(h, (before, after, before, after)), kernel, bias, stride=2)
            h = _refine(h, self.encoder["residual"][2 * scale :][:2])
        # Keras flattens [H, W, C].
        loc, raw = F.linear(h.permute(0, 2, 3, 1).flatten(1), *self.encoder["dense"][0]).chunk(
            2, -1
        )
        return loc, F.softplus(raw) + SCALE_FLOOR

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Returns logits [N, H * W * C] for latents [N, L]."""
        height, width, _ = self.shape
        h = F.linear(z, *self.decoder["dense"][0])
        h = h.reshape(-1, height // 4, width // 4, CONV_WIDTHS[-1])
        h = h.permute(0, 3, 1, 2)
        for scale in (1, 0):
            kernel, bias = self.decoder["step"][scale]
            h = _refine(h, self.decoder["residual"][2 * scale :][:2])
            height, width = 2 * h.shape[-2], 2 * h.shape[-1]
            before = (kernel.shape[-1] - 2) // 2
            h = F.conv_transpose2d(h, kernel, bias, stride=2, padding=before)
            h = h[..., :height, :width]
        return h.permute(0, 2, 3, 1).flatten(1)


def eager(workload: Workload, gate: Gate) -> None:
    """The usual loop, with the fused Adam."""
    pytorch.train(workload, gate, TorchConvVAE(workload.weights(), torch.contiguous_format))


def compiled(workload: Workload, gate: Gate) -> None:
    """The same loop, forward and backward through torch.compile."""
    vae = TorchConvVAE(workload.weights(), torch.contiguous_format)
    pytorch.train(workload, gate, vae, torch.compile)


def channels_last(workload: Workload, gate: Gate) -> None:
    """The usual loop, with the channels of kernels and maps last in memory."""
    pytorch.train(workload, gate, TorchConvVAE(workload.weights(), torch.channels_last))


def channels_last_compiled(workload: Workload, gate: Gate) -> None:
    """The usual loop with the channels last in memory, through torch.compile."""
    vae = TorchConvVAE(workload.weights(), torch.channels_last)
    pytorch.train(workload, gate, vae, torch.compile)


def bfloat16(workload: Workload, gate: Gate) -> None:
    """The usual loop with the channels last, through torch.compile, in bfloat16."""

    def wrap(vae: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        compiled = torch.compile(vae)

        def loss(x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return compiled(x)

        return loss

    pytorch.train(workload, gate, TorchConvVAE(workload.weights(), torch.channels_last), wrap)


def photographs(workload: Workload, gate: Gate) -> None:
    """The usual loop on image files, which the workers of PyTorch's loader decode."""
    _on_files(workload, gate, torch.contiguous_format, lambda vae: vae)


def photographs_channels_last(workload: Workload, gate: Gate) -> None:
    """The same with the channels last in memory."""
    _on_files(workload, gate, torch.channels_last, lambda vae: vae)


def photographs_channels_last_compiled(workload: Workload, gate: Gate) -> None:
    """The same with the channels last in memory, through torch.compile."""
    _on_files(workload, gate, torch.channels_last, torch.compile)


def _on_files(
    workload: Workload, gate: Gate, order: torch.memory_format, wrap: pytorch.Wrapper
) -> None:
    files = _Files(workload.folder / "tiles" / "train")
    loader = DataLoader(
        files, workload.batch_size, shuffle=True, num_workers=2, persistent_workers=True
    )
    vae = TorchConvVAE(workload.weights(), order, workload.shape)
    pytorch.loop(lambda: (x.flatten(1) / 255.0 for x in loader), len(files), gate, vae, wrap)


class _Files(Dataset):
    """The images of a folder, uint8 [H, W, C]."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index]) as image:
            return torch.from_numpy(np.array(image))


_ORDER = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}


def _refine(h: torch.Tensor, residual: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    update = h
    for kernel, bias in residual:
        update = F.conv2d(F.elu(update), kernel, bias, padding=1)
    return F.elu(h + update)
