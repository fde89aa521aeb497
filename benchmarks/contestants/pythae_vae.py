"""pythae: its VAE under its own trainer, and its own likelihood estimate."""

from __future__ import annotations

from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback

from benchmarks.contestants.pytorch import TorchVAE
from benchmarks.gate import Gate
from benchmarks.workload import LATENT_DIM, LEARNING_RATE, NUM_SAMPLES, Workload

_NLL_BATCH = 1000  # samples at a time: its fastest of 100, 1,000 and 5,000


class Encoder(BaseEncoder):
    """The shared network; pythae wants the log of the variance."""

    def __init__(self, network: TorchVAE) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> ModelOutput:
        loc, scale = self.network.encode(x)
        return ModelOutput(embedding=loc, log_covariance=2.0 * scale.log())


class Decoder(BaseDecoder):
    """The shared network; pythae wants probabilities."""

    def __init__(self, network: TorchVAE) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: torch.Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.network.decode(z)))


class BinarizingVAE(VAE):
    """Dynamic binarization a batch at a time: kinder to pythae than one in its data set."""

    def forward(self, inputs: Any, **options: Any) -> ModelOutput:
        return super().forward({"data": torch.bernoulli(inputs["data"])}, **options)


class GateCallback(TrainingCallback):
    """Passes the gate after each epoch of the trainer."""

    def __init__(self, gate: Gate, num_images: int, network: TorchVAE) -> None:
        self._gate, self._num_images, self._network = gate, num_images, network

    def on_train_begin(self, training_config: BaseTrainerConfig, **_: Any) -> None:
        self._gate.ready()

    def on_epoch_end(self, training_config: BaseTrainerConfig, **_: Any) -> None:
        self._gate.passed(self._num_images, self._network.weights)


def train(workload: Workload, gate: Gate) -> None:
    """`BaseTrainer.train`."""
    images = torch.from_numpy(workload.train_images()) / 255.0
    network = TorchVAE(workload.weights())
    config = BaseTrainerConfig(
        output_dir=str(workload.folder / "pythae"),
        per_device_train_batch_size=workload.batch_size,
        num_epochs=10**9,
        learning_rate=LEARNING_RATE,
        no_cuda=True,
    )
    trainer = BaseTrainer(
        model=_model(BinarizingVAE, network),
        train_dataset=BaseDataset(images, torch.zeros(len(images))),
        training_config=config,
        callbacks=[GateCallback(gate, len(images), network)],
    )
    trainer.train()


def likelihood(workload: Workload, gate: Gate) -> None:
    """`VAE.get_nll`, one image a call to keep each image's figure, without gradients."""
    images = torch.from_numpy(workload.test_images())
    model = _model(VAE, TorchVAE(workload.weights()))
    gate.ready()
    with torch.no_grad():
        while True:
            values = [model.get_nll(image[None], NUM_SAMPLES, _NLL_BATCH) for image in images]
            gate.passed(len(images), lambda held=values: held)


def _model(kind: type[VAE], network: TorchVAE) -> VAE:
    config = VAEConfig(input_dim=(784,), latent_dim=LATENT_DIM, reconstruction_loss="bce")
    return kind(config, Encoder(network), Decoder(network))
