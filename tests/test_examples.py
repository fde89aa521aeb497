"""The examples of the docstrings run and print what they say."""

import doctest
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import vae_keras
from tests.conftest import slow_except, small_vae
from tests.test_architecture import MODULES
from vae_keras import data, detection, evaluation, export, optimizers, priors
from vae_keras.data import datasets


@pytest.fixture(scope="module")
def names(digits) -> dict[str, object]:
    """What an example may use without importing it."""
    keras.config.disable_interactive_logging()
    vae = small_vae()
    vae.fit(digits, batch_size=20, verbose=0)
    modules = {"np": np, "tf": tf, "keras": keras, "vae_keras": vae_keras, "data": data}
    ours = {"evaluation": evaluation, "export": export, "optimizers": optimizers, "priors": priors}
    public = {name: getattr(vae_keras, name) for name in vae_keras.__all__}
    ours["Detector"] = detection.Detector
    made = {"vae": vae, "x_train": digits, "x_test": digits, "datasets": datasets}
    return modules | ours | public | made


SLOW = {"report.gallery", "zoo.publish"}  # these draw and measure
NAMES = [name for name in MODULES if name != "__main__"]
EXAMPLES = slow_except([name for name in NAMES if name not in SLOW], NAMES)


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_a_module_run(module, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = "vae_keras" if module == "__init__" else f"vae_keras.{module}"
    found = importlib.import_module(path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags)
    output: list[str] = []
    for example in doctest.DocTestFinder().find(found, path, globs=names | vars(found)):
        runner.run(example, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)
