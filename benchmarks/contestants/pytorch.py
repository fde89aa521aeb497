"""PyTorch: eager with the fused Adam, and torch.compile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.gate import Gate
from benchmarks.workload import (
    ENCODER_LAYERS,
    LAYERS,
    LEARNING_RATE,
    SCALE_FLOOR,
    Weights,
    Workload,
)

Wrapper = Callable[[nn.Module], Callable[..., torch.Tensor]]


class TorchVAE(nn.Module):
    """The network and its negative ELBO."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(wide, narrow) for wide, narrow in LAYERS)
        with torch.no_grad():
            for index, layer in enumerate(self.layers):
                layer.weight.copy_(torch.from_numpy(weights[2 * index].T))
                layer.bias.copy_(torch.from_numpy(weights[2 * index + 1]))

    def weights(self) -> Weights:
        """Returns the weights in the workload's layout."""
        return [
            value.detach().numpy().copy()
            for layer in self.layers
            for value in (layer.weight.T, layer.bias)
        ]

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns loc and scale [N, L] for binary images [N, 784]."""
        loc, raw = self._run(x, self.layers[:ENCODER_LAYERS]).chunk(2, dim=-1)
        return loc, F.softplus(raw) + SCALE_FLOOR

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Returns logits [N, 784] for latents [N, L]."""
        return self._run(z, self.layers[ENCODER_LAYERS:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loc, scale = self.encode(x)
        logits = self.decode(loc + scale * torch.randn_like(scale))
        cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = (0.5 * (loc**2 + scale**2 - 1.0) - scale.log()).sum()
        return (cross_entropy + kl) / len(x)

    @staticmethod
    def _run(h: torch.Tensor, layers: nn.ModuleList) -> torch.Tensor:
        for layer in layers[:-1]:
            h = torch.tanh(layer(h))
        return layers[-1](h)


def eager(workload: Workload, gate: Gate) -> None:
    """The usual loop, with the fused Adam."""
    train(workload, gate, TorchVAE(workload.weights()))


def compiled(workload: Workload, gate: Gate) -> None:
    """The same loop, forward and backward through torch.compile."""
    train(workload, gate, TorchVAE(workload.weights()), torch.compile)


def train(
    workload: Workload,
    gate: Gate,
    vae: TorchVAE,
    wrap: Wrapper = lambda vae: vae,
) -> None:
    """Epoch after epoch of the usual loop on images in memory, which each epoch makes binary."""
    images = torch.from_numpy(workload.train_images())

    def batches() -> Iterator[torch.Tensor]:
        for rows in torch.randperm(len(images)).split(workload.batch_size):
            yield torch.bernoulli(images[rows] / 255.0)

    loop(batches, len(images), gate, vae, wrap)


def loop(
    batches: Callable[[], Iterable[torch.Tensor]],
    num_images: int,
    gate: Gate,
    vae: TorchVAE,
    wrap: Wrapper,
) -> None:
    """Trains epoch after epoch, as the usual loop does.

    Args:
        batches: starts an epoch and yields its batches, float32 [N, pixels].
        num_images: images in an epoch.
        gate: the contestant's gate.
        vae: the model.
        wrap: takes the model and returns the function that computes its loss.
    """
    torch.manual_seed(0)
    loss_of = wrap(vae)
    optimizer = torch.optim.Adam(vae.parameters(), lr=LEARNING_RATE, fused=True)
    gate.ready()
    while True:
        total = torch.zeros(())
        for x in batches():
            optimizer.zero_grad()
            loss = loss_of(x)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        total.item()
        gate.passed(num_images, vae.weights)
