"""The plan of a run: sizes that follow from the data, weights to start from, splits."""

import numpy as np
import pytest

from tests.training.conftest import config
from vae_keras.data import datasets
from vae_keras.training import TrainConfig
from vae_keras.training.plan import load_data, make_plan
from vae_keras.utils import checks
from vae_keras.zoo import presets

ROWS = np.arange(250, dtype=np.uint8).reshape(-1, 1, 1, 1)


def own(rows: int, **changes) -> datasets.DataSet:
    x = np.zeros((rows, 1, 1, 1), np.uint8)
    images = datasets.Images(x, None, x[:1], None)
    return datasets.DataSet("mine", images, "as given", own=True, **changes)


def planned(settings: TrainConfig, dataset: datasets.DataSet):
    return make_plan(settings, settings.recipe(), dataset)


@pytest.mark.parametrize(
    ("rows", "given", "validation", "batch"),
    [
        (9, {}, 0, 9),
        (50, {}, 5, 10),
        (2000, {}, 200, 18),
        (60000, {}, 6000, 100),
        (2000, {"validation": 0}, 0, 20),
        (2000, {"batch_size": 7}, 200, 7),
        (2000, {"validation": 1900, "batch_size": 50}, 1900, 50),
    ],
)
def test_the_sizes_that_the_user_left_open_follow_own_data(rows, given, validation, batch):
    recipe = planned(TrainConfig(data="mine.npz", **given), own(rows)).recipe
    assert (recipe.validation, recipe.batch_size) == (validation, batch)


def coloured(side: int) -> datasets.DataSet:
    x = np.zeros((200, side, side, 3), np.uint8)
    return datasets.DataSet("mine", datasets.Images(x, None, x[:1], None), "as given", own=True)


def test_colour_images_that_are_not_binarized_have_256_levels():
    recipe = planned(TrainConfig(data="mine", binarization="none"), coloured(8)).recipe
    assert recipe.likelihood.name == "DiscretizedLogisticMixture"
    grey = own(50)
    grey.images.x_train[:] = 7
    recipe = planned(TrainConfig(data="mine", binarization="none"), grey).recipe
    assert recipe.likelihood.name == "ContinuousBernoulli"
    assert recipe.decoder.arguments["bound"] > 0


@pytest.mark.parametrize(
    ("side", "widths"), [(28, [16, 64]), (64, [16, 64, 128]), (128, [16, 64, 128, 128])]
)
def test_own_images_get_the_recipe_for_own_images(side, widths):
    settings = TrainConfig("conv_mnist", data="mine", binarization="none")
    recipe = planned(settings, coloured(side)).recipe
    assert (recipe.optimizer.name, recipe.precision, recipe.restarts) == ("Adam", "float32", 0)
    assert "global_clipnorm" in recipe.optimizer.arguments
    assert recipe.decoder.arguments["upsampling"] == "nearest"
    assert recipe.encoder.arguments["widths"] == recipe.decoder.arguments["widths"] == widths
    assert recipe.learning_rate < presets.load_recipe("conv_mnist").learning_rate
    given = TrainConfig("conv_mnist", data="mine", binarization="none", learning_rate=0.02)
    assert planned(given, coloured(side)).recipe.learning_rate == 0.02


def test_another_named_set_keeps_the_sizes_of_the_preset(mnist):
    dataset = datasets.DataSet("fashion_mnist", mnist, "as published")
    plan = planned(TrainConfig(data="fashion_mnist"), dataset)
    assert (plan.recipe.validation, plan.recipe.batch_size) == (10000, 100)
    assert plan.recipe.data == "fashion_mnist"
    assert plan.recipe.description == "The networks of mlp_mnist, trained on fashion_mnist"
    assert plan.title == "Run of mlp_mnist on fashion_mnist"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"validation": 50}, "validation must leave images to train on. Received: 50 of 50"),
        ({"batch_size": 46}, "batch_size must not exceed the number of images"),
        ({"binarization": "none"}, "needs pixels between black and white"),
    ],
)
def test_data_that_do_not_suit_the_recipe_are_refused(changes, sentence):
    with pytest.raises(checks.InputError, match=sentence):
        planned(TrainConfig(data="mine.npz", **changes), own(50))


def test_other_data_than_the_presets_start_from_fresh_weights():
    plan = planned(TrainConfig("iwae_mnist", data="mine.npz"), own(50))
    assert plan.remarks == (
        "Starting from fresh weights: those of mlp_mnist_converged are for other data.",
    )
    assert plan.remarks[0] in plan.describe()
    assert plan.settings["start_from"] == ""
    assert presets.START_HASH not in plan.settings


def test_another_likelihood_than_the_presets_starts_from_fresh_weights(mnist):
    dataset = datasets.DataSet("mnist", mnist, "as published")
    plan = planned(TrainConfig("iwae_mnist", binarization="none"), dataset)
    assert (plan.recipe.start_from, plan.recipe.choices) == ("", "")
    assert (plan.recipe.likelihood.name, plan.recipe.batch_size) == ("ContinuousBernoulli", 100)
    assert plan.remarks == (
        "Starting from fresh weights: those of mlp_mnist_converged are for other pixels.",
    )


def test_another_condition_than_the_presets_starts_from_fresh_weights(mnist):
    dataset = datasets.DataSet("mnist", mnist, "as published")
    plan = planned(TrainConfig("iwae_mnist", condition="labels"), dataset)
    assert plan.recipe.start_from == ""
    assert plan.remarks == (
        "Starting from fresh weights: those of mlp_mnist_converged are for another condition.",
    )


def test_the_presets_own_data_start_where_the_recipe_says(mnist):
    settings = TrainConfig("iwae_mnist")
    plan = planned(settings, datasets.DataSet("mnist", mnist, "as published"))
    assert plan.recipe == settings.recipe()
    assert plan.remarks == ()
    start = presets.load_metrics(plan.recipe.start_from)["provenance"]["weights_sha256"]
    assert plan.settings == {"preset": "iwae_mnist", presets.START_HASH: start} | (
        plan.recipe.to_dict()
    )


def test_own_data_are_identified_by_their_content():
    plan = planned(TrainConfig(data="mine.npz"), own(50, identity={"sha256": "0"}))
    assert plan.settings["own_data"] == {"sha256": "0"}


@pytest.mark.parametrize("validation", [0, 50])
def test_the_splits_share_no_image(tmp_path, validation):
    images = datasets.Images(ROWS[:200], np.arange(200), ROWS[200:], None)
    dataset = datasets.DataSet("mnist", images, "as published")
    plan = planned(config(tmp_path, validation=validation), dataset)
    assert plan.held_out == ("validation" if validation else "training")
    x, labels = plan.images("training")
    np.testing.assert_array_equal(x, ROWS[: 200 - validation])
    np.testing.assert_array_equal(labels, np.arange(200 - validation))
    x, labels = plan.images("validation")
    np.testing.assert_array_equal(x, ROWS[200 - validation : 200])
    np.testing.assert_array_equal(labels, np.arange(200 - validation, 200))
    x, labels = plan.images("test")
    np.testing.assert_array_equal(x, ROWS[200:])
    assert labels is None


def test_data_without_a_name_are_refused():
    with pytest.raises(checks.InputError, match="data must be a path"):
        load_data("")


def test_a_named_set_is_not_scaled():
    with pytest.raises(checks.InputError, match="image_size is for own images only"):
        load_data("mnist", "32")


def test_convolutions_get_a_stage_for_each_halving_of_larger_images():
    def widths(side: int) -> list[int]:
        x = np.zeros((20, side, side, 3), np.uint8)
        images = datasets.Images(x, None, x[:1], None)
        dataset = datasets.DataSet("mine", images, "as given", own=True)
        recipe = planned(TrainConfig("conv_mnist", data="mine.npz"), dataset).recipe
        assert recipe.encoder.arguments["widths"] == recipe.decoder.arguments["widths"]
        return list(recipe.encoder.arguments["widths"])

    assert widths(28) == widths(32) == [16, 64]
    assert widths(33) == [16, 64, 128]
    assert widths(256) == [16, 64, 128, 128, 128]


def test_networks_that_do_not_fit_into_memory_are_refused_with_their_bytes(monkeypatch):
    x = np.broadcast_to(np.uint8(0), (20, 1000, 1000, 3))
    dataset = datasets.DataSet("mine", datasets.Images(x, None, x, None), "as given", own=True)
    monkeypatch.setattr(checks, "machine_memory", lambda: 16 * 10**9)
    with pytest.raises(checks.InputError, match="1000 x 1000 x 3, which take about") as error:
        planned(TrainConfig(data="mine.npz"), dataset)
    weights = 4 * 4 * 2 * 200 * 3 * 10**6
    assert int(str(error.value).split("about ")[1].split(" bytes")[0].replace(",", "")) > weights
    planned(TrainConfig("conv_mnist", data="mine.npz"), dataset)


def test_given_validation_images_are_the_validation_split():
    dataset = own(50, validation=15)
    plan = planned(TrainConfig(data="mine.npz"), dataset)
    assert plan.recipe.validation == 15
    assert len(plan.images("validation")[0]) == 15
    assert "35 for training, 15 for validation, 1 for testing" in " ".join(plan.describe())
    with pytest.raises(checks.InputError, match="validation is for data without"):
        planned(TrainConfig(data="mine.npz", validation=5), dataset)


def test_images_that_stay_together_are_held_out_together():
    continues = np.arange(50) % 4 != 0
    plan = planned(TrainConfig(data="mine.npz"), own(50, continues=continues))
    assert (plan.recipe.validation, plan.remarks) == (6, ())
    plan = planned(TrainConfig(data="mine.npz", validation=8), own(50, continues=continues))
    assert plan.recipe.validation in (6, 10)
    assert plan.remarks[0].startswith("Held out for validation: ")


def test_data_without_test_images_cannot_be_tested():
    x = np.zeros((50, 1, 1, 1), np.uint8)
    images = datasets.Images(x, None, x[:0], None)
    dataset = datasets.DataSet("mine", images, "as given", own=True, validation=5)
    with pytest.raises(checks.InputError, match="test needs test images"):
        planned(TrainConfig(data="mine.npz", test=True), dataset)


def labelled(y_train, y_test=None) -> datasets.DataSet:
    x = np.zeros((len(y_train), 1, 1, 1), np.uint8)
    images = datasets.Images(x, np.array(y_train), x[:1], y_test)
    return datasets.DataSet("mine", images, "as given", own=True)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["dog", "cat"], {"num_classes": 2, "class_names": ["cat", "dog"]}),
        ([2, 0, 1], {"num_classes": 3}),
        ([7, 3], {"num_classes": 2, "class_names": ["3", "7"]}),
    ],
)
def test_the_labels_of_the_data_are_the_classes_of_a_conditional_model(labels, classes):
    settings = TrainConfig(data="mine", condition="labels")
    plan = planned(settings, labelled(labels * 10))
    assert plan.classes == classes
    assert plan.settings["condition"] == "labels"
    names = classes.get("class_names", range(3))
    assert set(np.unique(plan.images("training")[1])) <= set(names)
    assert planned(TrainConfig(data="mine"), labelled(labels * 10)).classes is None


@pytest.mark.parametrize(
    ("labels", "received"),
    [
        (["cat"], "data without classes"),
        (["cat", "dog", ""], "10 images without a label"),
    ],
)
def test_a_condition_needs_the_label_of_each_image(labels, received):
    with pytest.raises(checks.InputError, match=received):
        planned(TrainConfig(data="mine", condition="labels"), labelled(labels * 10))


def with_classes(train, test) -> datasets.DataSet:
    x, of_test = (np.zeros((len(y), 1, 1, 1), np.uint8) for y in (train, test))
    images = datasets.Images(x, np.array(train), of_test, np.array(test))
    return datasets.DataSet("mine", images, "as given", own=True)


@pytest.mark.parametrize(
    ("train", "test", "received"),
    [
        (["a", "b"] * 10 + ["a", "c"], ["a"], "held-out images of c"),
        (["a", "b"] * 11, ["d"], "held-out images of d"),
        ([0, 1] * 11, [2], "held-out images of 2"),
        ([0, 1, -1, 0, 1] * 4, [1], "4 images without a label"),
    ],
)
def test_each_class_that_is_measured_has_an_image_to_train_on(train, test, received):
    settings = TrainConfig(data="mine", condition="labels", validation=2, test=True)
    with pytest.raises(checks.InputError, match=received):
        planned(settings, with_classes(train, test))


def test_a_measured_condition_needs_the_labels_of_the_test_images():
    dataset = labelled(["cat", "dog"] * 10)
    settings = {"data": "mine", "condition": "labels"}
    with pytest.raises(checks.InputError, match="test images without labels"):
        planned(TrainConfig(**settings, test=True), dataset)
    assert planned(TrainConfig(**settings), dataset).classes["num_classes"] == 2


def test_classes_of_test_images_count_only_with_test():
    settings = TrainConfig(data="mine", condition="labels", validation=2)
    assert planned(settings, with_classes([0, 1] * 11, [2])).classes == {"num_classes": 2}


def test_a_named_set_keeps_the_validation_images_that_come_with_it():
    """Patches of one photograph overlap, so no other patches may be held out."""
    dataset = datasets.DataSet("mnist", datasets.Images(ROWS, None, ROWS, None), "", validation=30)
    assert planned(TrainConfig(batch_size=10), dataset).recipe.validation == 30
    with pytest.raises(checks.InputError, match="Received: 40 beside a set of 30 images"):
        planned(TrainConfig(batch_size=10, validation=40), dataset)
