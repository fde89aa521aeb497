"""Images that are read from the disk train, measure and draw as the same images in memory do."""

import dataclasses

import numpy as np
import pytest

from tests.conftest import small_vae
from vae_keras import VAE, data, evaluation
from vae_keras.data import datasets, own_images, pipelines
from vae_keras.data.collection import DataSet, Images
from vae_keras.data.observations import observed
from vae_keras.report import gallery
from vae_keras.utils import checks, rows
from vae_keras.utils.rows import Rows

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (130, 6, 6, 1), dtype=np.uint8)
ORDER = RNG.permutation(130)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Trains without XLA, whose compilation takes seconds."""
    monkeypatch.setattr(VAE, "xla_pays", lambda _: False)


@pytest.fixture
def mapped(tmp_path) -> Rows:
    """`X` in a file, in another order than on the disk."""
    file = np.memmap(tmp_path / "x", np.uint8, "w+", shape=X.shape)
    file[ORDER] = X
    file.flush()
    return rows.of(np.memmap(tmp_path / "x", np.uint8, "r", shape=X.shape), ORDER)


def trained(x, **arguments):
    vae = small_vae()
    history = vae.fit(x, batch_size=25, epochs=2, verbose=0, **arguments)
    return vae, history.history


@pytest.fixture(scope="module")
def of_array() -> VAE:
    """A model that was trained on `X` in memory."""
    return trained(X)[0]


@pytest.mark.parametrize("steps", ["auto", pytest.param(1, marks=pytest.mark.slow)])
def test_the_weights_are_the_same_bit_for_bit(mapped, steps):
    weights, logs = [], []
    for x in (X, mapped):
        vae = small_vae()
        vae.compile(steps_per_execution=steps)
        history = vae.fit(x, batch_size=25, epochs=2, validation_split=0.2, verbose=0)
        weights.append(vae.get_weights())
        logs.append(history.history)
    assert logs[0] == logs[1]
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_memory_map_of_the_user_is_never_copied(of_array, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", X)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    real = pipelines.tf.constant

    def constant(value, *arguments, **keywords):
        assert not rows.is_mapped(value)
        return real(value, *arguments, **keywords)

    monkeypatch.setattr(pipelines.tf, "constant", constant)
    vae, _ = trained(x)
    for ours, theirs in zip(vae.get_weights(), of_array.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_fit_takes_what_open_images_returns(mapped):
    images = Images(mapped[:110], None, mapped[110:], None)
    dataset = DataSet("mine", images, "as given", own=True, validation=10)
    vae, history = trained(dataset)
    expected, _ = trained(X[:100], validation_data=(X[100:110],))
    for ours, theirs in zip(vae.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(history["val_elbo"]) == 2
    assert dataclasses.replace(dataset, validation=0).training_part()[1] is None


def test_every_method_reads_rows_block_by_block(mapped, of_array, monkeypatch):
    vae = of_array
    monkeypatch.setattr("vae_keras.array_methods._BLOCK", 50)
    counts, read = [], mapped.read
    mapped.read = lambda index: counts.append(len(index)) or read(index)
    np.testing.assert_array_equal(vae.encode(mapped).loc, vae.encode(X).loc)
    np.testing.assert_array_equal(vae.reconstruct(mapped), vae.reconstruct(X))
    np.testing.assert_array_equal(vae.elbo(mapped).elbo, vae.elbo(X).elbo)
    np.testing.assert_array_equal(vae.predict(mapped, verbose=0), vae.predict(X, verbose=0))
    assert max(counts) <= 50
    assert vae.evaluate(mapped, verbose=0) == vae.evaluate(X, verbose=0)


@pytest.mark.parametrize("mode", data.BINARIZATIONS)
def test_observations_are_those_of_binarize(mapped, mode):
    whole = data.binarize(X, 3, mode)
    lazy = observed(mapped, 3, mode)
    np.testing.assert_array_equal(np.asarray(lazy), whole)
    for chosen in (slice(40, 90), [7, 8, 9, 3, 129], 12):
        np.testing.assert_array_equal(np.asarray(lazy[chosen]), whole[chosen])
    np.testing.assert_array_equal(np.asarray(lazy[20:][[5, 1]]), whole[[25, 21]])


@pytest.mark.slow
def test_evaluations_are_those_in_memory(mapped, of_array):
    vae, x, lazy = of_array, data.binarize(X, 0), observed(mapped, 0, "dynamic")
    ours, theirs = (evaluation.evaluate_elbo(vae, images, 2) for images in (lazy, x))
    np.testing.assert_array_equal(ours.elbo.per_example, theirs.elbo.per_example)
    ours, theirs = (
        evaluation.estimate_by_difference(vae, images, 101, 4, verbose=False)
        for images in (lazy, x)
    )
    np.testing.assert_allclose(
        ours.estimate.per_example, theirs.estimate.per_example, rtol=1e-6, atol=1e-5
    )
    with pytest.raises(checks.InputError, match=r"binary pixels, 0 and 1\. Received: 9"):
        evaluation.observations(vae, mapped)
    drawn = [name for name, _ in gallery.image_figures(vae, mapped, lazy, None, True, "test")]
    assert drawn[:2] == ["reconstructions", "interpolations"]


def test_descriptions_and_hashes_are_those_in_memory(mapped):
    sets = [DataSet("mine", Images(x[:100], None, x[100:], None), "as given") for x in (X, mapped)]
    assert datasets.describe(sets[0]) == datasets.describe(sets[1])
    assert datasets.fingerprint(mapped) == datasets.fingerprint(X)


def test_of_the_test_images_only_the_number_is_described():
    x = np.full((20, 2, 2, 1), 7, np.uint8)
    images = Images(x, np.array([0, 1] * 10), x[:5] + 100, np.full(5, 9))
    said = datasets.describe(DataSet("mine", images, "as given"))
    assert said[0] == "Found mine: 25 images of 2 x 2, grey, pixels 7..7."
    assert said[1] == "2 classes: 0 10, 1 10."


def test_unseen_images_are_those_that_were_not_trained_on(mapped):
    digests = np.arange(130, dtype=np.uint64)
    for x in (X, mapped):
        images = Images(x[:100], np.arange(100), x[100:], np.arange(100, 130))
        dataset = DataSet("mine", images, "", digests=(digests[:100], digests[100:]))
        unseen, labels, _ = dataset.unseen(digests[10:105])
        expected = [*range(10), *range(105, 130)]
        assert labels.tolist() == expected
        np.testing.assert_array_equal(np.asarray(unseen), X[expected])
        assert len(dataset.unseen(None)[0]) == 130


def test_open_images_is_part_of_the_package():
    assert data.open_images is own_images.open_images
