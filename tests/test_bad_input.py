"""One table of what cannot be right, from the methods down to the files, and the exact answer.

A row is what is done, and the whole message of the `checks.InputError` that comes of it: the rule,
what was received, the remedy. `{tmp}` stands for the test's own folder.
"""

import dataclasses
import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import small_vae
from vae_keras import (
    VAE,
    ContinuousBernoulli,
    MLPDecoder,
    MLPEncoder,
    data,
    evaluation,
    export,
    training,
)
from vae_keras.report import figures
from vae_keras.training import build, callbacks, checkpoints, plan, run_folder
from vae_keras.utils import checks, keras_file
from vae_keras.zoo import presets, publish

HUGE = 10**12
VAES = small_vae()  # never trained: every row is refused before it changes a thing
DIGITS = np.random.default_rng(0).integers(0, 256, (60, 6, 6, 1), dtype=np.uint8)
BINARY = (DIGITS > 127).astype(np.float32)
RECIPE = presets.load_recipe("mlp_mnist").to_dict()
NUMBERS = "Stack images of one size into an array of uint8 or float32."


def dataset(*arrays, batch=10):
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(batch)


def config(tmp, **changes):
    return training.TrainConfig(**({"workdir": tmp / "run"} | changes)).recipe()


def network(encoder):
    recipe = dataclasses.replace(presets.load_recipe("mlp_mnist"), encoder=encoder)
    return build.build_network(recipe, (6, 6, 1), "float32")


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "."), content)
    return path


def model_file(tmp, config):
    """A `.keras` file with a configuration of its own."""
    if isinstance(config, keras.Model):
        config = keras.saving.serialize_keras_object(config)
    members = {"metadata__json": "{}", "config__json": json.dumps(config)}
    return archive(tmp / "m.keras", **members)


METHODS = {
    # what fit, evaluate, predict, encode, decode, sample and interpolate are given
    "pixels above one": (
        lambda tmp: VAES.fit(BINARY * 255),
        "x with float pixels must lie in [0, 1]. Received: [0, 255]. Divide by 255, or pass uint8.",
    ),
    "NaN pixels": (
        lambda tmp: VAES.encode(np.full((2, 6, 6, 1), np.nan)),
        "x must be finite. Received: NaN or infinite pixels. Clean the data first.",
    ),
    "infinite pixels": (
        lambda tmp: VAES.predict(np.full((2, 6, 6, 1), np.inf)),
        "x must be finite. Received: NaN or infinite pixels. Clean the data first.",
    ),
    "negative integers": (
        lambda tmp: VAES.evaluate(DIGITS.astype(int) - 1),
        "x with integer pixels must lie in 0..255. Received: -1..254. Rescale the pixels.",
    ),
    "a single image": (
        lambda tmp: VAES.reconstruct(DIGITS[0, ..., 0]),
        "x must have shape [N, H, W] or [N, H, W, C]. Received: shape (6, 6). Reshape flat rows "
        "of pixels to images, such as x.reshape(-1, 28, 28, 1), or give a single image a batch "
        "axis, x[np.newaxis].",
    ),
    "five axes": (
        lambda tmp: VAES.fit(DIGITS[np.newaxis]),
        "x must have shape [N, H, W] or [N, H, W, C]. Received: shape (1, 60, 6, 6, 1). Reshape "
        "the array to one of these.",
    ),
    "two channels": (
        lambda tmp: VAES.fit(np.repeat(DIGITS, 2, axis=-1)),
        "x must have 1 or 3 channels on the last axis, in images of the model's shape (6, 6, "
        "1). Received: shape (60, 6, 6, 2). Convert them to grey or RGB.",
    ),
    "colours for a grey model": (
        lambda tmp: VAES.fit(np.repeat(DIGITS, 3, axis=-1)),
        "x must hold images of the model's shape (6, 6, 1). Received: (6, 6, 3). Resize them, "
        "or build a model for that shape.",
    ),
    "no image": (
        lambda tmp: VAES.fit(DIGITS[:0]),
        "x must hold at least one image. Received: shape (0, 6, 6, 1). Pass some images.",
    ),
    "nothing": (
        lambda tmp: VAES.fit(None),
        f"x must hold numbers. Received: dtype object. {NUMBERS}",
    ),
    "a generator": (
        lambda tmp: VAES.fit(row for row in DIGITS),
        "the dataset must hold images of the model's shape (6, 6, 1). Received: (6, 1, 1). "
        "Resize them in the pipeline.",
    ),
    "text": (
        lambda tmp: VAES.fit([["a"]]),
        f"x must hold numbers. Received: dtype <U1. {NUMBERS}",
    ),
    "complex pixels": (
        lambda tmp: VAES.fit(DIGITS.astype(np.complex64)),
        f"x must hold numbers. Received: dtype complex64. {NUMBERS}",
    ),
    "a tuple of four": (
        lambda tmp: VAES.fit((DIGITS, None, None, None)),
        "Data must be x, (x, y) or (x, y, sample_weight). Received: a tuple of 4 elements. Pass "
        "the arrays in that order.",
    ),
    "an empty tuple": (
        lambda tmp: VAES.fit(DIGITS, validation_data=()),
        "Data must be x, (x, y) or (x, y, sample_weight). Received: a tuple of 0 elements. Pass "
        "the arrays in that order.",
    ),
    "validation images of another size": (
        lambda tmp: VAES.fit(DIGITS, validation_data=DIGITS[:, :5]),
        "validation_data must hold images of the model's shape (6, 6, 1). Received: (5, 6, 1). "
        "Resize them, or build a model for that shape.",
    ),
    "no epochs": (
        lambda tmp: VAES.fit(DIGITS, epochs=0),
        "epochs must be a whole number >= 1. Received: 0.",
    ),
    "half an epoch": (
        lambda tmp: VAES.fit(DIGITS, epochs=0.5),
        "epochs must be a whole number >= 1. Received: 0.5.",
    ),
    "a first epoch before the first": (
        lambda tmp: VAES.fit(DIGITS, initial_epoch=-1),
        "initial_epoch must be a whole number >= 0. Received: -1.",
    ),
    "no steps": (
        lambda tmp: VAES.fit(DIGITS, steps_per_epoch=0),
        "steps_per_epoch must be a whole number >= 1. Received: 0.",
    ),
    "no validation steps": (
        lambda tmp: VAES.fit(DIGITS, validation_data=DIGITS, validation_steps=0),
        "validation_steps must be a whole number >= 1. Received: 0.",
    ),
    "no evaluation steps": (
        lambda tmp: VAES.evaluate(DIGITS, steps=0),
        "steps must be a whole number >= 1. Received: 0.",
    ),
    "an empty batch": (
        lambda tmp: VAES.predict(DIGITS, batch_size=0),
        "batch_size must be a whole number >= 1. Received: 0.",
    ),
    "a whole validation split": (
        lambda tmp: VAES.fit(DIGITS, validation_split=1.0),
        "validation_split must lie between 0 and 1. Received: 1.0.",
    ),
    "a split that is NaN": (
        lambda tmp: VAES.fit(DIGITS, validation_split=float("nan")),
        "validation_split must lie between 0 and 1. Received: nan.",
    ),
    "a split in words": (
        lambda tmp: VAES.fit(DIGITS, validation_split="a tenth"),
        "validation_split must lie between 0 and 1. Received: 'a tenth'.",
    ),
    "a split that leaves nothing": (
        lambda tmp: VAES.fit(DIGITS[:1], validation_split=0.5),
        "validation_split must leave examples on both sides. Received: 0.5 of 1 examples. Pass "
        "another fraction.",
    ),
    "negative weights": (
        lambda tmp: VAES.fit(DIGITS, sample_weight=-np.ones(60)),
        "sample_weight must be finite and >= 0, and at least one weight must be above 0. "
        "Received: values from -1.0 to -1.0.",
    ),
    "weights of NaN": (
        lambda tmp: VAES.evaluate(DIGITS, sample_weight=np.full(60, np.nan)),
        "sample_weight must be finite and >= 0, and at least one weight must be above 0. "
        "Received: values from nan to nan.",
    ),
    "weights of other images": (
        lambda tmp: VAES.fit(DIGITS, sample_weight=np.ones(59)),
        "sample_weight must hold one number for each image. Received: shape (59,) for 60 images.",
    ),
    "callbacks that are none": (
        lambda tmp: VAES.fit(DIGITS, callbacks=["early"]),
        "callbacks must be Keras callbacks. Received: 'early'. Pass instances.",
    ),
    "a dataset with a batch size": (
        lambda tmp: VAES.fit(dataset(DIGITS), batch_size=10),
        "batch_size is supported for arrays only. Received: batch_size beside a _BatchDataset. "
        "Batch, weigh or divide the dataset instead.",
    ),
    "a dataset with a split": (
        lambda tmp: VAES.fit(dataset(DIGITS), validation_split=0.1),
        "validation_split is supported for arrays only. Received: validation_split beside a "
        "_BatchDataset. Batch, weigh or divide the dataset instead.",
    ),
    "a dataset with weights": (
        lambda tmp: VAES.evaluate(dataset(DIGITS), sample_weight=np.ones(60)),
        "sample_weight is supported for arrays only. Received: sample_weight beside a "
        "_BatchDataset. Batch, weigh or divide the dataset instead.",
    ),
    "a dataset without batches": (
        lambda tmp: VAES.fit(tf.data.Dataset.from_tensor_slices(DIGITS[0])),
        "a dataset must yield batches [N, H, W] or [N, H, W, C]. Received: shape (6, 1). "
        "Batch it, or add the missing axis.",
    ),
    "a dataset of other sizes": (
        lambda tmp: VAES.predict(dataset(DIGITS[:, :5])),
        "the dataset must hold images of the model's shape (6, 6, 1). Received: (5, 6, 1). "
        "Resize them in the pipeline.",
    ),
    "a dataset of dictionaries": (
        lambda tmp: VAES.fit(tf.data.Dataset.from_tensors({"x": DIGITS})),
        "A dataset must yield x, (x, y) or (x, y, sample_weight) with x a single tensor. "
        "Received: x = {{'x': TensorSpec(shape=(60, 6, 6, 1), dtype=tf.uint8, name=None)}}. Map "
        "the dataset to that.",
    ),
    "a dataset of text": (
        lambda tmp: VAES.evaluate(tf.data.Dataset.from_tensors([["a"]])),
        "A dataset must yield batches of images, uint8 or float, or (images, ...). Received: "
        "dtype string. Map it to that.",
    ),
    "a dataset with NaN": (
        lambda tmp: VAES.evaluate(dataset(np.full((10, 6, 6, 1), np.nan, np.float32))),
        "Float pixels of a dataset must be finite and lie in [0, 1]. Received: other pixels in "
        "a batch. Divide by 255, or pass uint8.",
    ),
    "a validation dataset of other sizes": (
        lambda tmp: VAES.fit(DIGITS, validation_data=dataset(DIGITS[:, :5])),
        "the dataset must hold images of the model's shape (6, 6, 1). Received: (5, 6, 1). "
        "Resize them in the pipeline.",
    ),
    "latents of another model": (
        lambda tmp: VAES.decode(np.zeros((2, 4))),
        "latents must be numbers of shape [N, 3]. Received: dtype float64, shape (2, 4).",
    ),
    "latents of NaN": (
        lambda tmp: VAES.decode(np.full((2, 3), np.nan)),
        "latents must be finite. Received: NaN or infinite values.",
    ),
    "no samples": (
        lambda tmp: VAES.sample(0),
        "n must be a whole number >= 1. Received: 0.",
    ),
    "samples of a negative seed": (
        lambda tmp: VAES.sample(1, seed=-1),
        "seed must be a whole number from 0 to 2147483647. Received: -1.",
    ),
    "more samples than memory": (
        lambda tmp: VAES.sample(HUGE),
        "n must be small enough for a result that fits into 25 GB of memory. Received: "
        "1000000000000, at 144 bytes each. Pass a smaller number.",
    ),
    "more latents than memory": (
        lambda tmp: VAES.prior_latents(HUGE),
        "n must be small enough for a result that fits into 25 GB of memory. Received: "
        "1000000000000, at 12 bytes each. Pass a smaller number.",
    ),
    "a line of one point": (
        lambda tmp: VAES.interpolate(DIGITS, DIGITS, steps=1),
        "steps must be a whole number >= 2. Received: 1.",
    ),
    "a line of more points than memory": (
        lambda tmp: VAES.interpolate(DIGITS[:1], DIGITS[:1], steps=HUGE),
        "steps must be small enough for a result that fits into 25 GB of memory. Received: "
        "1000000000000, at 144 bytes each. Pass a smaller number.",
    ),
    "lines without an end": (
        lambda tmp: VAES.interpolate(DIGITS[:2], DIGITS[:3]),
        "interpolate needs as many images at the end as at the start. Received: 2 and 3. Pass "
        "pairs.",
    ),
}

BUILDING = {
    "an encoder that is none": (
        lambda tmp: VAE(encoder="mlp"),
        "The encoder must be a Keras layer or model. Received: 'mlp'. Pass an instance.",
    ),
    "a decoder's class": (
        lambda tmp: VAE(decoder=MLPDecoder),
        "The decoder must be a Keras layer or model. Received: <class "
        "'vae_keras.networks.MLPDecoder'>. Pass an instance.",
    ),
    "binary pixels for a density": (
        lambda tmp: VAE(likelihood=ContinuousBernoulli(), binarization="dynamic"),
        "A ContinuousBernoulli likelihood takes grey pixels. Received: binarization 'dynamic'. "
        "Leave out the binarization or the likelihood.",
    ),
    "an unknown binarization": (
        lambda tmp: VAE(binarization="fixed"),
        "binarization must be one of: dynamic, none, threshold. Received: 'fixed'.",
    ),
    "a seed of many bits": (
        lambda tmp: VAE(seed=2**31),
        "seed must be a whole number from 0 to 2147483647. Received: 2147483648.",
    ),
    "no latents": (
        lambda tmp: MLPEncoder(latent_dim=0),
        "latent_dim must be a whole number >= 1. Received: 0.",
    ),
    "a hidden layer of nothing": (
        lambda tmp: MLPEncoder(hidden=(200, 0)),
        "each of hidden must be a whole number >= 1. Received: 0.",
    ),
    "hidden layers as a number": (
        lambda tmp: MLPDecoder(hidden=200),
        "hidden must be a list of whole numbers >= 1. Received: 200.",
    ),
    "an unknown activation": (
        lambda tmp: MLPEncoder(activation="tanhh"),
        "activation must be the name of a Keras activation. Received: 'tanhh'. Pass 'tanh'.",
    ),
    "no activation": (
        lambda tmp: MLPEncoder(activation=None),
        "activation must be the name of a Keras activation. Received: None. Pass 'tanh'.",
    ),
    "images of two sizes": (
        lambda tmp: MLPDecoder(image_shape=(28, 28)),
        "image_shape must be a list of 3 whole numbers >= 1. Received: (28, 28).",
    ),
    "an unknown optimizer": (
        lambda tmp: small_vae().compile("adamm"),
        "optimizer must be a Keras optimizer or its name. Received: 'adamm'. Pass 'adam'.",
    ),
    "no steps a call": (
        lambda tmp: small_vae().compile(steps_per_execution=0),
        "steps_per_execution must be a whole number >= 1. Received: 0.",
    ),
    "a maybe for XLA": (
        lambda tmp: small_vae().compile(jit_compile="maybe"),
        "jit_compile must be one of: 'auto', True, False. Received: 'maybe'.",
    ),
    "training before compile": (
        lambda tmp: VAE(MLPEncoder(3), MLPDecoder((6, 6, 1))).fit(DIGITS),
        "fit needs an optimizer. Received: a model that is not compiled. Call compile() first.",
    ),
    "evaluation before compile": (
        lambda tmp: VAE(MLPEncoder(3), MLPDecoder((6, 6, 1))).evaluate(DIGITS),
        "evaluate needs an optimizer. Received: a model that is not compiled. Call compile() "
        "first.",
    ),
}

MEASURING = {
    "binary pixels for a likelihood of grey ones": (
        lambda tmp: evaluation.estimate_log_likelihood(
            small_vae(likelihood=ContinuousBernoulli()), BINARY
        ),
        "a likelihood on [0, 1] needs pixels between black and white. Received: pixels that are "
        "all 0 or 1. Pass the grey images without binarization, or use Bernoulli().",
    ),
    "grey pixels for a likelihood": (
        lambda tmp: evaluation.estimate_log_likelihood(VAES, np.full((1, 6, 6), 0.5)),
        "a likelihood figure needs binary pixels, 0 and 1. Received: 100.0% of pixels in between, "
        "such as 0.5. Binarize first: vae_keras.data.binarize(x, seed=0).",
    ),
    "no importance samples": (
        lambda tmp: evaluation.estimate_log_likelihood(VAES, BINARY, 0),
        "num_samples must be a whole number from 1 to 2147483647. Received: 0.",
    ),
    "huge importance samples": (
        lambda tmp: evaluation.estimate_log_likelihood(VAES, BINARY, HUGE),
        "num_samples must be a whole number from 1 to 2147483647. Received: 1000000000000.",
    ),
    "chunks beyond memory": (
        lambda tmp: evaluation.estimate_log_likelihood(VAES, BINARY, 2**31 - 1, chunk_size=HUGE),
        "chunk_size must be small enough for a result that fits into 25 GB of memory. Received: "
        "2147483647, at 144 bytes each. Pass a smaller number.",
    ),
    "a curve at nothing": (
        lambda tmp: evaluation.estimate_log_likelihood(VAES, BINARY, 5, curve=(0, 5)),
        "each k of the curve must be a whole number >= 1. Received: 0.",
    ),
    "draws beyond memory": (
        lambda tmp: evaluation.evaluate_elbo(VAES, BINARY, HUGE),
        "num_samples must be small enough for a result that fits into 25 GB of memory. "
        "Received: 1000000000000, at 720 bytes each. Pass a smaller number.",
    ),
    "a threshold of NaN": (
        lambda tmp: evaluation.active_units(VAES, DIGITS, float("nan")),
        "threshold must be a finite number above 0. Received: nan.",
    ),
    "measuring what is no VAE": (
        lambda tmp: evaluation.evaluate_elbo("mlp_mnist", BINARY),
        "an evaluation needs a VAE with weights. Received: 'mlp_mnist'. "
        "Call fit or build((None, H, W, C)) first.",
    ),
    "binarizing by guess": (
        lambda tmp: data.binarize(DIGITS, 0, "otsu"),
        "binarization must be one of: dynamic, none, threshold. Received: 'otsu'.",
    ),
    "a grid with a hole": (
        lambda tmp: figures.grid(BINARY[:5], 2, 3, "title"),
        "a 2 x 3 grid takes 6 images. Received: 5 images. Change rows and columns.",
    ),
    "a figure of no columns": (
        lambda tmp: callbacks.FigureWriter({"prior": np.zeros((5, 3))}, tmp, columns=0),
        "columns must be a whole number >= 1. Received: 0.",
    ),
    "checkpoints all the time": (
        lambda tmp: checkpoints.Checkpointer(tmp, rows=list, seconds=0),
        "seconds must be a finite number above 0. Received: 0.",
    ),
}

EXPORTING = {
    "a version of zero": (
        lambda tmp: export.export_saved_model(VAES, tmp / "base", 0),
        "version must be a whole number from 1 to 9223372036854775807. Received: 0.",
    ),
    "a version beyond int64": (
        lambda tmp: export.export_saved_model(VAES, tmp / "base", 2**63),
        "version must be a whole number from 1 to 9223372036854775807. "
        "Received: 9223372036854775808.",
    ),
    "a score beyond memory": (
        lambda tmp: export.export_saved_model(VAES, tmp / "base", score_samples=HUGE),
        "score_samples must be small enough for a result that fits into 25 GB of memory. "
        "Received: 1000000000000, at 144 bytes each. Pass a smaller number.",
    ),
    "a base path that is a file": (
        lambda tmp: export.export_saved_model(VAES, written(tmp / "base", b"")),
        "the base path must be a folder that can be written. Received: {tmp}/base (it is a "
        "file). Pass another path.",
    ),
    "an unknown format": (
        lambda tmp: export.export_parts(VAES, tmp, "torch"),
        "format must be one of: onnx, litert. Received: 'torch'.",
    ),
    "exporting what is no VAE": (
        lambda tmp: export.export_saved_model(None, tmp),
        "an export needs a VAE with weights. Received: None. "
        "Call fit or build((None, H, W, C)) first.",
    ),
}

CONFIGURING = {
    "an unknown preset": (
        lambda tmp: VAE.from_preset("mlp_cifar"),
        f"preset must be one of: {', '.join(presets.names())}. Received: 'mlp_cifar'.",
    ),
    "a preset outside of the zoo": (
        lambda tmp: VAE.from_preset("../saved_models/mlp_mnist"),
        f"preset must be one of: {', '.join(presets.names())}. "
        "Received: '../saved_models/mlp_mnist'.",
    ),
    "too many epochs for a run": (
        lambda tmp: config(tmp, epochs=10**9),
        "epochs must be a whole number from 1 to 99999. Received: 1000000000.",
    ),
    "a learning rate of NaN": (
        lambda tmp: config(tmp, learning_rate=float("nan")),
        "learning_rate must be a finite number above 0. Received: nan.",
    ),
    "a negative validation": (
        lambda tmp: config(tmp, validation=-1),
        "validation must be a whole number >= 0. Received: -1.",
    ),
    "a workdir without a name": (
        lambda tmp: training.TrainConfig(workdir="").folder(),
        "workdir must be a path. Received: ''. Pass the name of a file or folder.",
    ),
    "a workdir with a zero byte": (
        lambda tmp: training.TrainConfig(workdir="a\0b").folder(),
        "workdir must be a path. Received: 'a\\x00b'. Pass the name of a file or folder.",
    ),
    "data without a name": (
        lambda tmp: plan.load_data(""),
        "data must be a path. Received: ''. Pass the name of a file or folder.",
    ),
    "data with a zero byte": (
        lambda tmp: training.TrainConfig(data="a\0b").folder(),
        "data must be a path. Received: 'a\\x00b'. Pass the name of a file or folder.",
    ),
    "a run folder of other things": (
        lambda tmp: run_folder.check(written(tmp / "a" / "b", b"").parent, {}, False),
        "a new run needs an empty folder. Received: {tmp}/a, which holds other files. "
        "Name another --workdir.",
    ),
    "a run folder below a file": (
        lambda tmp: run_folder.check(written(tmp / "a", b"") / "run", {}, False),
        "workdir must be a folder that can be written. Received: {tmp}/a/run ({tmp}/a is not a "
        "writable folder). Pass another path.",
    ),
    "a damaged configuration": (
        lambda tmp: run_folder.check(written(tmp / "config.json", b"{").parent, {}, False),
        "the run folder must be readable and writable. Received: {tmp} (Expecting property name "
        "enclosed in double quotes: line 1 column 2 (char 1)). Name another --workdir.",
    ),
    "a configuration that is a list": (
        lambda tmp: run_folder.check(written(tmp / "config.json", []).parent, {}, False),
        "the run folder must be readable and writable. Received: {tmp} (its config.json is not "
        "a JSON object). Name another --workdir.",
    ),
    "a recipe with a field too many": (
        lambda tmp: presets.Recipe.from_dict(RECIPE | {"momentum": 1}),
        "a recipe must hold known fields only. Received: ['momentum']. Remove them.",
    ),
    "a recipe's network with a field too many": (
        lambda tmp: network(presets.Part("MLPEncoder", {"depth": 3})),
        "a recipe may give MLPEncoder only the arguments that the class takes. Received: "
        "Unrecognized keyword arguments passed to MLPEncoder: {{'depth': 3}}. Correct the "
        "recipe.",
    ),
    "an unknown network": (
        lambda tmp: network(presets.Part("os.system")),
        "encoder must be one of: MLPEncoder, ConvEncoder, TopDownEncoder. Received: 'os.system'.",
    ),
    "publishing nothing": (
        lambda tmp: publish.publish(tmp / "nowhere"),
        "a run can be published after it is finished. Received: {tmp}/nowhere, which has no "
        "report.html. Run the same train command again to finish it.",
    ),
    "publishing a run without its configuration": (
        lambda tmp: publish.publish(written(tmp / "report.html", b"").parent),
        "a published run must have a readable config.json. Received: {tmp} "
        "(FileNotFoundError(2, 'No such file or directory')). Train the preset again.",
    ),
    "a curve that is binary": (
        lambda tmp: callbacks.read_elbo_csv(written(tmp / "elbo.csv", b"\xff\xfe")),
        "{tmp}/elbo.csv must be a CSV file. Received: 'utf-8' codec can't decode byte 0xff in "
        "position 0: invalid start byte. Name another file.",
    ),
    "a curve with half a row": (
        lambda tmp: callbacks.read_elbo_csv(
            written(tmp / "elbo.csv", ",".join(callbacks.COLUMNS).encode() + b"\n0,-1.5\n")
        ),
        "each row of {tmp}/elbo.csv must have an epoch and 8 fields. Received: "
        "0,-1.5,None,None,None,None,None,None. Name another file.",
    ),
}

FILES = {
    "a model that is not there": (
        lambda tmp: keras_file.load(tmp / "m.keras"),
        "a model must be a .keras file. Received: {tmp}/m.keras. Train one: vae-keras train",
    ),
    "a model in HDF5": (
        lambda tmp: keras_file.load(written(tmp / "m.h5", b"")),
        "a model must be a .keras file. Received: {tmp}/m.h5. Train one: vae-keras train",
    ),
    "a model of rubbish": (
        lambda tmp: keras_file.load(written(tmp / "m.keras", b"rubbish")),
        "a .keras file must be sound. Received: {tmp}/m.keras (File is not a zip file). "
        "Save or copy it again.",
    ),
    "a model without a configuration": (
        lambda tmp: keras_file.load(archive(tmp / "m.keras", metadata__json="{}")),
        'a .keras file must be sound. Received: {tmp}/m.keras ("There is no item named '
        "'config.json' in the archive\"). Save or copy it again.",
    ),
    "a model with a path out of its archive": (
        lambda tmp: keras_file.load(archive(tmp / "m.keras", **{"../../etc/cron": "x"})),
        "a .keras file must hold metadata.json, config.json, model.weights.h5, each once. "
        "Received: {tmp}/m.keras with '../../etc/cron'. Save the model again.",
    ),
    "a model that unpacks to a disk": (
        lambda tmp: keras_file.load(archive(tmp / "m.keras", config__json=bytes(1 << 25))),
        "config.json of a .keras file must unpack to at most 16777216 bytes. Received: 33554432 "
        "bytes in {tmp}/m.keras. Use a smaller model.",
    ),
    "a model with a Lambda": (
        lambda tmp: keras_file.load(
            model_file(tmp, keras.Sequential([keras.Input((1,)), keras.layers.Lambda(abs)]))
        ),
        "a .keras file may name layers of Keras and of vae_keras that run no code of their own. "
        "Received: Lambda in {tmp}/m.keras. Load a model with your own classes in Python, with "
        "keras.saving.load_model.",
    ),
    "a model with a function of os": (
        lambda tmp: keras_file.load(
            model_file(tmp, {"class_name": "function", "module": "os", "config": "system"})
        ),
        "a .keras file may name layers of Keras and of vae_keras that run no code of their own. "
        "Received: os.system in {tmp}/m.keras. Load a model with your own classes in Python, "
        "with keras.saving.load_model.",
    ),
    "a model with a SavedModel in it": (
        lambda tmp: keras_file.load(
            model_file(tmp, [{"class_name": "TFSMLayer", "module": "keras.layers"}])
        ),
        "a .keras file may name layers of Keras and of vae_keras that run no code of their own. "
        "Received: TFSMLayer in {tmp}/m.keras. Load a model with your own classes in Python, "
        "with keras.saving.load_model.",
    ),
    "a model with a Lambda by its path": (
        lambda tmp: keras_file.load(
            model_file(tmp, [{"class_name": "layers.Lambda", "module": "keras"}])
        ),
        "a .keras file may name layers of Keras and of vae_keras that run no code of their own. "
        "Received: layers.Lambda in {tmp}/m.keras. Load a model with your own classes in "
        "Python, with keras.saving.load_model.",
    ),
    "a model with a function by its path": (
        lambda tmp: keras_file.load(
            model_file(
                tmp, [{"class_name": "function", "module": "keras", "config": "utils.get_file"}]
            )
        ),
        "a .keras file may name layers of Keras and of vae_keras that run no code of their own. "
        "Received: utils.get_file in {tmp}/m.keras. Load a model with your own classes in "
        "Python, with keras.saving.load_model.",
    ),
}

TABLE = METHODS | BUILDING | MEASURING | EXPORTING | CONFIGURING | FILES


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """A machine of 25 GB, wherever the tests run."""
    monkeypatch.setattr(checks, "machine_memory", lambda: 25 * 10**9)


@pytest.mark.parametrize("row", TABLE)
def test_what_cannot_be_right_gets_the_exact_sentence(row, tmp_path):
    action, message = TABLE[row]
    before = [weight.copy() for weight in VAES.get_weights()]
    with pytest.raises(checks.InputError) as caught:
        action(tmp_path)
    assert str(caught.value) == message.format(tmp=tmp_path)
    assert "\n" not in str(caught.value)
    for weight, old in zip(VAES.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
