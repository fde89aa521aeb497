"""A model with classes against one model for each class, quadrature, and its own other forms."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from vae_keras import (
    IWAE,
    VAE,
    ConvDecoder,
    ConvEncoder,
    MLPClassifier,
    MLPDecoder,
    MLPEncoder,
    TopDownDecoder,
    TopDownEncoder,
    data,
    evaluation,
)
from vae_keras.data.collection import DataSet, Images
from vae_keras.utils import checks

K, SHAPE = 3, (4, 4, 1)
NAMES = ["cat", "dog", "emu"]
RNG = np.random.default_rng(0)
X = (RNG.random((30, *SHAPE)) < 0.5).astype(np.float32)
Y = np.arange(30) % K
MISSING = np.where(np.arange(30) % 2, Y, -1)


def parts(kind: str = "mlp", latent_dim: int = 2, **arguments) -> dict:
    if kind == "mlp":
        size = {"hidden": (8,), "seed": 1, **arguments}
        networks = MLPEncoder(latent_dim, **size), MLPDecoder(SHAPE, **size)
    else:
        size = {"widths": (3, 4), "seed": 1, **arguments}
        networks = ConvEncoder(latent_dim, **size), ConvDecoder(SHAPE, **size)
    return dict(zip(("encoder", "decoder"), networks, strict=True))


def conditional(kind: str = "mlp", latent_dim: int = 2, **arguments) -> VAE:
    """A compiled model of three classes; the kernels of the labels are large."""
    vae = VAE(**parts(kind, latent_dim), num_classes=K, class_names=NAMES, **arguments)
    vae.compile(jit_compile=False)
    return vae


def with_classifier(**arguments) -> VAE:
    return conditional(classifier=MLPClassifier(K, (6,)), **arguments)


def of_class(vae: VAE, label: int) -> VAE:
    """The model without classes that a conditional MLP is for one label.

    The kernel's rows of a one-hot label add a bias to the first layer.
    """
    plain = VAE(**parts(latent_dim=vae.latent_dim))
    for theirs, ours in ((plain.encoder, vae.encoder), (plain.decoder, vae.decoder)):
        kernel, bias, *others = ours.get_weights()
        theirs.set_weights([kernel[:-K], bias + kernel[len(kernel) - K + label], *others])
    plain.compile(jit_compile=False)
    return plain


def test_a_conditional_model_is_one_model_for_each_class():
    vae = conditional()
    log_likelihood = evaluation.estimate_log_likelihood(vae, X, 50, labels=Y, verbose=False)
    elbo, samples = vae.elbo(X, seed=3, labels=Y), vae.sample(30, seed=2, labels=Y)
    drawn = vae.sample(30, seed=2, labels=Y, pixels="draw")
    moved = vae.transfer(X, Y)
    for label in (0, 2):
        rows, plain = label == Y, of_class(vae, label)
        close = {"rtol": 1e-4, "atol": 1e-5}
        np.testing.assert_allclose(vae.encode(X, Y).loc[rows], plain.encode(X).loc[rows], **close)
        np.testing.assert_allclose(vae.reconstruct(X, Y)[rows], plain.reconstruct(X)[rows], **close)
        np.testing.assert_allclose(elbo.elbo[rows], plain.elbo(X, seed=3).elbo[rows], **close)
        np.testing.assert_allclose(samples[rows], plain.sample(30, seed=2)[rows], **close)
        theirs = plain.sample(30, seed=2, pixels="draw")[rows]
        assert (drawn[rows] == theirs).mean() > 0.99
        np.testing.assert_allclose(moved[:, label], plain.decode(vae.encode(X, Y).loc), **close)
        expected = evaluation.estimate_log_likelihood(plain, X[rows], 50, verbose=False)
        np.testing.assert_allclose(
            log_likelihood.estimate.per_example[rows], expected.estimate.per_example, **close
        )


def log_p_given_classes(vae: VAE, x: np.ndarray) -> np.ndarray:
    """log p(x | y) of each class by quadrature over a single latent, [N, K]."""
    grid = np.linspace(-8.0, 8.0, 2001, dtype=np.float32)[:, np.newaxis]
    columns = []
    for label in range(K):
        one_hot = tf.one_hot([label] * len(grid), K)
        log_likelihood = vae.decode_distribution(tf.constant(grid), one_hot).log_prob(x[:, None])
        log_joint = log_likelihood - 0.5 * grid[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
        columns.append(tf.reduce_logsumexp(log_joint, axis=1) + np.log(grid[1, 0] - grid[0, 0]))
    return np.stack(columns, axis=1)


@pytest.fixture(autouse=True)
def plain_graphs(monkeypatch):
    """Without XLA, whose compilation takes seconds."""
    monkeypatch.setattr(VAE, "xla_pays", lambda _: False)


@pytest.fixture(scope="module")
def enumerated() -> tuple[VAE, np.ndarray]:
    """A model with a single latent whose classes differ, and log p(x, y) for each class."""
    vae = conditional(latent_dim=1, classifier=MLPClassifier(K, (6,)))
    for network in (vae.decoder, vae.classifier):
        network.set_weights([2.0 * weight for weight in network.get_weights()])
    # A posterior that is wider than the prior: no importance weight is far above the others.
    *zeros, bias = map(np.zeros_like, vae.encoder.get_weights())
    vae.encoder.set_weights([*zeros, bias + np.float32([0.0, 1.2])])
    vae.class_probabilities = [5, 3, 2]
    return vae, log_p_given_classes(vae, X) + np.log([0.5, 0.3, 0.2])


def test_classify_is_bayes_rule_by_quadrature(enumerated):
    vae, log_joint = enumerated
    exact = log_joint - np.logaddexp.reduce(log_joint, axis=1, keepdims=True)
    found = vae.classify(X, 500, seed=1)
    errors = (found.log_prob - exact) / found.standard_error
    assert np.abs(errors).max() < 5.0
    assert 0.5 < errors.std() < 1.6
    np.testing.assert_allclose(np.exp(found.log_prob).sum(1), 1.0, rtol=1e-5)
    again = vae.classify(X[:2], 500, seed=1)
    np.testing.assert_allclose(again.log_prob, found.log_prob[:2], rtol=1e-5, atol=1e-6)


def test_the_bound_of_a_missing_label_lies_below_log_p_of_x(enumerated):
    vae, log_joint = enumerated
    log_p = np.logaddexp.reduce(log_joint, axis=1)
    missing = evaluation.evaluate_elbo(vae, X, 400, labels=[-1] * 30)
    assert np.all(missing.elbo.per_example < log_p + 0.05)
    # log p(x | y) is bounded in the same pass where the label is known.
    known = evaluation.evaluate_elbo(vae, X, 400, labels=Y).elbo.per_example
    given = log_joint[np.arange(30), Y] - np.log(vae.class_probabilities[Y])
    assert np.all(known < given + 0.05)
    tighter = vae_with(vae, IWAE(64))
    noise = tf.random.stateless_normal((30, 64), [0, 1])
    bound = tighter.bound(tf.constant(X), noise, labels=tf.zeros((30, K)))[0]
    assert missing.elbo.mean < np.mean(bound) < np.mean(log_p)


def vae_with(vae: VAE, objective) -> VAE:
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(vae))
    again.objective = objective
    again.set_weights(vae.get_weights())
    return again


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(Y, id="all labels", marks=pytest.mark.slow),
        pytest.param(MISSING, id="some labels"),
    ],
)
def test_the_gradient_of_a_step_is_that_of_finite_differences(labels):
    vae = with_classifier(objective=IWAE(2), classifier_weight=2.0)
    one_hot = tf.constant(vae.classes.one_hot(labels))
    noise = tf.random.stateless_normal((30, 4), [0, 1])

    def loss() -> tf.Tensor:
        return tf.reduce_mean(vae.bound(tf.constant(X), noise, labels=one_hot)[0])

    # Decoder and classifier: the gradient of the encoder is the doubly reparameterised one.
    variables = [*vae.decoder.trainable_variables, *vae.classifier.trainable_variables]
    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(variables, tape.gradient(value, variables), strict=True):
        way = gradient / (tf.norm(gradient) + 1e-12)
        before, step = tf.identity(variable), 1e-2
        variable.assign(before + step * way)
        up = loss()
        variable.assign(before - step * way)
        down = loss()
        variable.assign(before)
        expected = float(up - down) / (2 * step)
        assert float(tf.norm(gradient)) == pytest.approx(expected, rel=0.02, abs=2e-4)


def test_every_way_into_fit_takes_the_same_steps():
    def trained(*given, **arguments) -> VAE:
        vae = with_classifier()
        vae.fit(*given, verbose=0, **arguments)
        return vae

    texts = np.array([*NAMES, ""])[MISSING]
    in_order = {"batch_size": 8, "shuffle": False}
    stacked = trained(X, MISSING, **in_order)  # many steps in one compiled call
    batches = tf.data.Dataset.from_tensor_slices((X, texts)).batch(8)
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        strategic = with_classifier()
    strategic.fit(X, MISSING, verbose=0, **in_order)
    for other in (trained(batches), strategic):
        for ours, theirs in zip(
            stacked.trainable_variables, other.trainable_variables, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=2e-6)
    measured = stacked.evaluate(X, MISSING, verbose=0, return_dict=True)
    assert measured == pytest.approx(stacked.evaluate(batches, verbose=0, return_dict=True))


def test_a_data_set_gives_its_labels_to_a_model_that_reads_them():
    dataset = DataSet("own", Images(X, Y, X, Y), "as given", own=True, validation=10)
    (x, y), (x_held, y_held) = dataset.training_part(labelled=True)
    assert (len(x), len(x_held)) == (20, 10)
    np.testing.assert_array_equal(np.concatenate([y, y_held]), Y)
    assert [len(part) for part in dataset.training_part()] == [20, 10]


@pytest.mark.slow
def test_training_separates_the_classes_and_saves_them(tmp_path):
    patterns = (RNG.random((K, *SHAPE)) < 0.5).astype(np.float32)
    y = np.arange(90) % K
    x = np.where(RNG.random((90, *SHAPE)) < 0.05, 1.0 - patterns[y], patterns[y])
    given = np.where(np.arange(90) < 9, y, -1)
    vae = with_classifier(classifier_weight=5.0)
    vae.optimizer.learning_rate = 0.02
    vae.fit(x, given, batch_size=30, epochs=25, verbose=0)
    assert (vae.classify(x, 20).log_prob.argmax(1) == y).mean() > 0.95
    means = np.stack([vae.sample(20, labels=name).mean(0) for name in NAMES])
    assert ((means > 0.5) == patterns).mean() > 0.9
    vae.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.class_names == tuple(NAMES)
    assert again.classifier_weight == 5.0
    np.testing.assert_array_equal(again.class_probabilities, vae.class_probabilities)
    for model in (vae, again):
        model.fit(x, given, batch_size=30, epochs=1, verbose=0)
    for ours, theirs in zip(vae.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_convolution_adds_a_bias_for_each_class():
    vae, plain = conditional("conv"), VAE(**parts("conv"))
    assert vae.count_params() == plain.count_params() + 2 * K * (3 + 4) + K
    for network in (vae.encoder, vae.decoder):
        own = [weight for weight in network.weights if "class_bias" not in weight.path]
        theirs = plain.encoder if network is vae.encoder else plain.decoder
        for weight, value in zip(own, theirs.get_weights(), strict=True):
            weight.assign(value)
    assert not np.allclose(vae.reconstruct(X, Y), plain.reconstruct(X), atol=1e-3)
    for network in (vae.encoder, vae.decoder):
        for weight in network.weights:
            if "class_bias" in weight.path:
                weight.assign(tf.zeros_like(weight))
    np.testing.assert_allclose(vae.reconstruct(X, Y), plain.reconstruct(X), atol=1e-6)


def own_networks() -> dict:
    layers = keras.layers
    image, label = keras.Input(SHAPE), keras.Input((K,))
    h = layers.Concatenate()([layers.Flatten()(image), label])
    encoder = keras.Model([image, label], layers.Dense(4)(layers.Dense(6, "relu")(h)))
    latent, label = keras.Input((2,)), keras.Input((K,))
    h = layers.Dense(6, "relu")(layers.Concatenate()([latent, label]))
    decoder = keras.Model([latent, label], layers.Reshape(SHAPE)(layers.Dense(16)(h)))
    return {"encoder": encoder, "decoder": decoder}


def test_own_networks_take_two_inputs(tmp_path):
    vae = VAE(**own_networks(), num_classes=K)
    vae.compile(jit_compile=False)
    vae.fit(X, Y, verbose=0)
    assert vae.transfer(X[:2], Y[:2]).shape == (2, K, *SHAPE)
    vae.save(tmp_path / "own.keras")
    again = keras.saving.load_model(tmp_path / "own.keras")
    np.testing.assert_array_equal(again.reconstruct(X, Y), vae.reconstruct(X, Y))


def test_interpolation_moves_the_label_too():
    vae = conditional()
    line = vae.interpolate(X[:3], X[3:6], 5, labels=[0, 1, 2], end_labels=["dog", "dog", "cat"])
    np.testing.assert_allclose(line[:, 0], vae.reconstruct(X[:3], [0, 1, 2]), atol=1e-6)
    np.testing.assert_allclose(line[:, -1], vae.reconstruct(X[3:6], [1, 1, 0]), atol=1e-6)
    one_hot = (tf.one_hot([0, 1, 2], K) + tf.one_hot([1, 1, 0], K)) / 2
    middle = (vae.encode(X[:3], [0, 1, 2]).loc + vae.encode(X[3:6], [1, 1, 0]).loc) / 2
    np.testing.assert_allclose(line[:, 2], vae.decode_tensors(middle, one_hot), atol=1e-6)


def test_predict_reads_the_labels():
    vae = conditional()
    expected = vae.reconstruct(X, Y)
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(7)
    for found in (vae.predict((X, Y), verbose=0), vae.predict(dataset, verbose=0)):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(vae.predict_on_batch((X, Y)), expected, atol=1e-6)


def test_a_model_without_classes_is_what_it_was():
    vae = VAE(**parts())
    assert not {"num_classes", "class_names", "classifier", "classifier_weight"} & {
        *vae.get_config()
    }
    assert len(vae.weights) == len(vae.encoder.weights) + len(vae.decoder.weights)
    vae.compile(jit_compile=False)
    vae.fit(X, np.array(["no", "class"] * 15), verbose=0)  # Keras' pairs (x, y) are welcome


PLAIN, MODEL, MISSES = VAE(**parts()), conditional(), with_classifier()
PLAIN.compile()
BATCHES = tf.data.Dataset.from_tensor_slices((X, Y + 1)).batch(8)
ACCEPTED = "whole numbers from 0 to 2, or names from class_names"
REMEDY = "Pass a class for each image. Missing labels need a classifier."
REFUSED = {
    "another length": (
        lambda: MODEL.fit(X, Y[:3]),
        "labels must hold one class for each image. Received: shape (3,) for 30 images. "
        "Pass one label for each of them.",
    ),
    "one-hot labels": (
        lambda: MODEL.fit(X, np.eye(K)[Y]),
        "labels must hold one class for each image. Received: shape (30, 3) for 30 images. "
        "Pass one label for each of them.",
    ),
    "a fraction": (
        lambda: MODEL.elbo(X, labels=Y + 0.5),
        f"labels must be {ACCEPTED}. Received: 0.5. {REMEDY}",
    ),
    "out of range": (
        lambda: MODEL.evaluate(X, Y + 1),
        f"labels must be {ACCEPTED}. Received: 3. {REMEDY}",
    ),
    "out of range in a batch": (
        lambda: MODEL.evaluate(BATCHES, verbose=0),
        f"labels must be {ACCEPTED}. Received: another number in a batch. {REMEDY}",
    ),
    "missing without a classifier": (
        lambda: MODEL.fit(X, MISSING),
        f"labels must be {ACCEPTED}. Received: -1. {REMEDY}",
    ),
    "missing where a style is needed": (
        lambda: MISSES.reconstruct(X, MISSING),
        "this method needs a label for each image. Received: a missing label. Leave these images "
        "out, or fill their labels in: classify(x).log_prob.argmax(axis=1).",
    ),
    "an unknown name": (
        lambda: MODEL.sample(2, labels="cow"),
        "labels must be names that the model knows: cat, dog, emu. Received: 'cow'. "
        "Pass one of these names.",
    ),
    "names that the model does not know": (
        lambda: VAE(**parts(), num_classes=K).sample(2, labels="cow"),
        "labels may be names once the model knows them. Received: names for a model without "
        "class_names. Make it with VAE(..., class_names=[...]).",
    ),
    "labels for a model without classes": (
        lambda: PLAIN.sample(2, labels=1),
        "labels and classes need a model with classes. Received: labels, for a model without. "
        "Make the model with VAE(..., num_classes=...).",
    ),
    "classify without classes": (
        lambda: PLAIN.classify(X),
        "labels and classes need a model with classes. Received: classify, for a model without. "
        "Make the model with VAE(..., num_classes=...).",
    ),
    "no labels for a model with classes": (
        lambda: MODEL.sample(2),
        f"a model of 3 classes needs the label of each image. Received: no labels. "
        f"Pass {ACCEPTED}.",
    ),
    "batches without labels": (
        lambda: MODEL.fit(BATCHES.map(lambda x, _: x), verbose=0),
        "a model of 3 classes needs the label of each image. Received: batches of images only. "
        f"Yield (images, labels), with {ACCEPTED}.",
    ),
    "labels beside a dataset": (
        lambda: MODEL.encode(BATCHES, Y),
        "labels are given beside arrays only. Received: labels beside a _BatchDataset. "
        "Let its batches be (images, labels).",
    ),
    "a class without an image": (
        lambda: MODEL.fit(X, np.minimum(Y, 1)),
        "each class must have a labelled image to train on. Received: no image of class emu. "
        "Add images, or make a model with fewer classes.",
    ),
    "a class whose images all weigh 0": (
        lambda: MODEL.fit(X, Y, sample_weight=(Y != 2).astype(np.float32)),
        "each class must have a labelled image to train on. Received: no image of class emu. "
        "Add images, or make a model with fewer classes.",
    ),
    "names of another number": (
        lambda: VAE(**parts(), num_classes=2, class_names=NAMES),
        "class_names must hold 2 different names, one for each class. "
        "Received: ['cat', 'dog', 'emu']. Leave out class_names, or num_classes.",
    ),
    "a classifier without classes": (
        lambda: VAE(**parts(), classifier=MLPClassifier(K)),
        "The classifier must be a Keras layer or model, for a model with classes. "
        "Received: a model without classes. Pass num_classes and an instance.",
    ),
    "a classifier of other classes": (
        lambda: VAE(**parts(), num_classes=K, classifier=MLPClassifier(4)),
        "The classifier must return logits [N, 3]. Received: (None, 4) for images "
        "(None, 4, 4, 1). End it with Dense(3).",
    ),
    "probabilities of classes": (
        lambda: setattr(MODEL, "class_probabilities", [1, 0, 1]),
        "class_probabilities must be 3 numbers above 0. Received: [1, 0, 1]. "
        "Pass the number of images in each class.",
    ),
    "probabilities below 0": (
        lambda: setattr(MODEL, "class_probabilities", [-1, -2, -3]),
        "class_probabilities must be 3 numbers above 0. Received: [-1, -2, -3]. "
        "Pass the number of images in each class.",
    ),
    "probabilities that are texts": (
        lambda: setattr(MODEL, "class_probabilities", ["a", "b", "c"]),
        "class_probabilities must be 3 numbers above 0. Received: ['a', 'b', 'c']. "
        "Pass the number of images in each class.",
    ),
    "a probability that float32 has not": (
        lambda: setattr(MODEL, "class_probabilities", [1, 1, 1e-60]),
        "class_probabilities must be 3 numbers above 0. Received: [1, 1, 1e-60]. "
        "Pass the number of images in each class.",
    ),
    "labels that are lists": (
        lambda: MODEL.encode(X[:2], np.array([[1], [2, 3]], object)),
        "labels must be names that the model knows: cat, dog, emu. Received: [1]. "
        "Pass one of these names.",
    ),
    "a top-down decoder": (
        lambda: VAE(TopDownEncoder(), TopDownDecoder(), num_classes=K),
        "A top-down decoder takes no labels. Received: 3 classes. Use other networks, or leave "
        "the classes out.",
    ),
}


@pytest.mark.parametrize(("act", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_right_is_refused_in_one_sentence(act, sentence):
    before = MODEL.get_weights()
    with pytest.raises(checks.InputError) as caught:
        act()
    assert str(caught.value) == sentence
    for ours, theirs in zip(before, MODEL.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_network_of_one_input_is_refused():
    one = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    with pytest.raises(checks.InputError, match="must take \\[images, labels\\], with one-hot"):
        VAE(one, parts()["decoder"], num_classes=K)


def test_binarized_images_classify_in_any_form():
    vae, grey = conditional(), (X * 255).astype(np.uint8)
    expected = vae.classify(X, 10).log_prob
    np.testing.assert_allclose(vae.classify(grey, 10).log_prob, expected, atol=1e-5)
    np.testing.assert_allclose(vae.classify((X, Y), 10).log_prob, expected, atol=1e-5)
    assert data.binarize(grey, 0).shape == X.shape


@pytest.mark.parametrize("wrong", [{"callbacks": ["no callback"]}, {"initial_epoch": 1}])
def test_a_fit_that_trains_nothing_leaves_the_probabilities(wrong):
    vae = conditional()
    with contextlib.suppress(checks.InputError):
        vae.fit(X, np.where(Y == 2, 2, np.minimum(Y, 0)) + (np.arange(30) == 1), verbose=0, **wrong)
    np.testing.assert_allclose(vae.class_probabilities, 1 / 3)


def test_each_end_of_a_line_has_the_labels_that_come_with_it():
    vae, ones, twos = conditional(), np.ones(2, int), np.full(2, 2)
    want = vae.interpolate((X[:2], ones), (X[2:4], twos), steps=3)
    np.testing.assert_array_equal(vae.interpolate(X[:2], (X[2:4], twos), 3, labels=ones), want)
    same = vae.interpolate(X[:2], X[2:4], 3, labels=ones)
    np.testing.assert_array_equal(same, vae.interpolate((X[:2], ones), (X[2:4], ones), 3))


@pytest.mark.parametrize("number", [2**32, 2**32 + 1, -(2**32)])
def test_large_labels_of_a_dataset_do_not_wrap_around(number):
    batch = tf.data.Dataset.from_tensor_slices((X[:2], np.array([0, number]))).batch(2)
    with pytest.raises(checks.InputError, match="labels must be whole numbers from 0 to 2"):
        MODEL.fit(batch, verbose=0)


def test_export_of_keras_is_for_models_without_classes(tmp_path):
    with pytest.raises(checks.InputError, match="export_saved_model"):
        conditional().export(tmp_path / "served", verbose=False)
