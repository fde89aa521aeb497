"""One harness for the family: networks, objectives, likelihoods, shapes and precisions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import labelled, signature_answers
from vae_keras import (
    ELBO,
    IWAE,
    VAE,
    ContinuousBernoulli,
    ConvDecoder,
    ConvEncoder,
    DiscretizedLogisticMixture,
    MLPDecoder,
    MLPEncoder,
    TopDownDecoder,
    TopDownEncoder,
    data,
    evaluation,
    export,
)
from vae_keras.export.saved_model import SCORE_SAMPLES
from vae_keras.export.signatures import signatures
from vae_keras.priors import AutoregressiveFlow

GREY, COLOUR, CLASSES = (9, 7, 1), (9, 7, 3), 3
MIXTURE = DiscretizedLogisticMixture(components=2)


def flow() -> AutoregressiveFlow:
    return AutoregressiveFlow(depth=2, hidden=(8,))


def member(
    kind: str, objective, shape, likelihood=None, prior=None, dtype: str = "float32", **compiled
) -> VAE:
    """A compiled model of a few hundred weights."""
    if kind == "top_down":
        size = {"top_dim": 3, "groups": ((1,), (2,)), "widths": (4, 6), "dtype": dtype}
        numbers = numbers_per_pixel(likelihood, shape)
        parts = TopDownEncoder(**size), TopDownDecoder(shape, **size, parameters_per_pixel=numbers)
    else:
        parts = flat_parts(kind, shape, dtype, likelihood)
    classes = {"num_classes": CLASSES} if kind.endswith("_of_classes") else {}
    vae = VAE(
        *parts, objective=objective, likelihood=likelihood, prior=prior and prior(), **classes
    )
    vae.compile(**compiled)
    return vae


def numbers_per_pixel(likelihood, shape) -> int | None:
    return likelihood and likelihood.parameters_per_pixel(shape[-1])


def flat_parts(
    kind: str, shape, dtype: str, likelihood
) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    encoder, decoder, size = {
        "mlp": (MLPEncoder, MLPDecoder, {"hidden": (8,), "activation": "mish"}),
        "conv": (ConvEncoder, ConvDecoder, {"widths": (4, 6)}),
    }[kind.removesuffix("_of_classes")]
    more = {"parameters_per_pixel": numbers_per_pixel(likelihood, shape)}
    if kind.startswith("conv") and isinstance(likelihood, DiscretizedLogisticMixture):
        more |= {"upsampling": "nearest", "bound": 8.0}
    return (
        encoder(latent_dim=3, dtype=dtype, **size),
        decoder(image_shape=shape, dtype=dtype, **size, **more),
    )


def images(shape, num: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, *shape), dtype=np.uint8)


MEMBERS = {
    "mlp-elbo": ("mlp", ELBO(), GREY),
    "mlp-iwae-colour": ("mlp", IWAE(4, num_resampled=2), COLOUR),
    "conv-elbo-colour": ("conv", ELBO(), COLOUR),
    "conv-iwae": ("conv", IWAE(4), GREY),
    "mlp-iwae-continuous": ("mlp", IWAE(4, num_resampled=2), GREY, ContinuousBernoulli()),
    "conv-elbo-colour-continuous": (
        *("conv", ELBO(2.0, warmup_steps=4), COLOUR),
        ContinuousBernoulli(),
    ),
    "conv-iwae-flow": ("conv", IWAE(4, num_resampled=1), GREY, None, flow),
    "top-down-elbo-colour-continuous": ("top_down", ELBO(), COLOUR, ContinuousBernoulli()),
    "top-down-iwae": ("top_down", IWAE(4, num_resampled=1), GREY),
    "conv-elbo-colour-levels": ("conv", ELBO(), COLOUR, MIXTURE),
    "mlp-iwae-levels": ("mlp", IWAE(4, num_resampled=2), GREY, MIXTURE),
    "top-down-elbo-colour-levels": ("top_down", ELBO(), COLOUR, MIXTURE),
    "mlp-iwae-of-classes": ("mlp_of_classes", IWAE(4), GREY),
    "mlp-elbo-flow-of-classes": ("mlp_of_classes", ELBO(2.0, warmup_steps=4), GREY, None, flow),
    "conv-elbo-colour-levels-of-classes": ("conv_of_classes", ELBO(), COLOUR, MIXTURE),
}
# The fast members have each kind of network, objective, likelihood and prior once at least.
SAVED = ("conv-iwae-flow",)
SERVED = ("mlp-iwae-of-classes",)
MEASURED = ("mlp-iwae-continuous", "conv-elbo-colour-levels-of-classes", "top-down-iwae")


def members(*fast: str):
    """Parametrizes a test with all members; those that are not named are slow."""
    every = [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in MEMBERS]
    return pytest.mark.parametrize("trained", every, indirect=True)


@pytest.fixture
def trained(request) -> VAE:
    """A member after two epochs."""
    parts = MEMBERS[request.param]
    vae = member(*parts, jit_compile=False)
    vae.fit(labelled(vae, images(parts[2])), batch_size=8, epochs=2, verbose=0)
    return vae


def test_each_kind_of_part_is_in_the_fast_suite():
    def parts(names) -> list[set[str]]:
        columns = zip(*(([*MEMBERS[name], None, None])[:5] for name in names), strict=True)
        return [
            {repr(part) if index in (0, 2) else type(part).__name__ for part in column}
            for index, column in enumerate(columns)
        ]

    assert parts((*SAVED, *SERVED, *MEASURED)) == parts(MEMBERS)


@members(*SAVED)
def test_a_saved_member_answers_alike_and_trains_on(trained, tmp_path):
    x = labelled(trained, images(trained.image_shape))
    trained.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.encoder) is type(trained.encoder)
    assert type(again.objective) is type(trained.objective)
    assert again.objective.get_config() == trained.objective.get_config()
    assert type(again.likelihood) is type(trained.likelihood)
    np.testing.assert_allclose(again.reconstruct(x), trained.reconstruct(x), atol=1e-6)
    for vae in (trained, again):
        vae.fit(x, batch_size=8, epochs=1, verbose=0)
    for ours, theirs in zip(trained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@members(*SERVED)
def test_every_signature_of_a_member_answers(trained, tmp_path):
    version = export.export_saved_model(trained, tmp_path)
    served = tf.saved_model.load(str(version)).signatures
    answers = signature_answers(trained, 3)
    assert set(served) == set(answers)
    for name, (inputs, expected) in answers.items():
        found = served[name](**{key: tf.constant(value) for key, value in inputs.items()})
        for key, value in expected.items():
            rtol = 1e-5 if name == "score" else 0.0
            np.testing.assert_allclose(found[key], value, rtol=rtol, err_msg=f"{name} {key}")
        if name == "score":
            score = signatures(trained, SCORE_SAMPLES)[name]
            own = score.function(*(tf.constant(inputs[spec.name]) for spec in score.inputs))
            np.testing.assert_allclose(found["log_marginal"], own["log_marginal"], rtol=1e-5)


@members(*MEASURED)
def test_a_members_figures_are_in_order(trained):
    x = data.binarize(images(trained.image_shape), 0, trained.binarization)
    x = labelled(trained, x)
    elbo = evaluation.evaluate_elbo(trained, x, 200).elbo.mean
    bound = evaluation.estimate_log_likelihood(trained, x, 400, verbose=False)
    assert elbo < bound.curve[10].mean < bound.curve[100].mean < bound.estimate.mean
    evaluated = trained.evaluate(x, verbose=0, return_dict=True)["elbo"]
    assert evaluated == pytest.approx(elbo, rel=0.05, abs=0.1)


@pytest.mark.slow  # `test_xla_eager_and_graph_agree` of the model is fast
@pytest.mark.parametrize(
    "parts",
    [
        pytest.param(("mlp", ELBO(), GREY), id="mlp"),
        pytest.param(("mlp", IWAE(4, num_resampled=2), GREY), id="resampled"),
        pytest.param(("conv", IWAE(4), GREY), id="conv"),
        pytest.param(("mlp_of_classes", ELBO(), GREY), id="classes"),
        pytest.param(("top_down", IWAE(4, num_resampled=1), GREY), id="top-down"),
        pytest.param(("mlp", IWAE(4), GREY, ContinuousBernoulli()), id="grey"),
        pytest.param(("mlp", ELBO(), GREY, MIXTURE), id="levels"),
        pytest.param(("mlp", ELBO(), GREY, None, flow), id="flow"),
        pytest.param(("mlp", IWAE(4, num_resampled=1), GREY, None, flow), id="flow-resampled"),
    ],
)
def test_xla_changes_nothing_but_rounding(parts):
    def logs(jit_compile: bool) -> dict[str, list[float]]:
        vae = member(*parts, jit_compile=jit_compile)
        x = labelled(vae, images(GREY))
        return vae.fit(x, batch_size=8, epochs=2, verbose=0).history

    plain, compiled = logs(False), logs(True)
    for name, values in plain.items():
        np.testing.assert_allclose(values, compiled[name], rtol=1e-4)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "parts",
    [
        ("mlp", ELBO(), GREY),
        pytest.param(("mlp", IWAE(4), GREY, ContinuousBernoulli()), marks=SLOW),
        pytest.param(("mlp", IWAE(4, num_resampled=2), GREY, None, flow), marks=SLOW),
        pytest.param(("conv", ELBO(), GREY, None, flow), marks=SLOW),
        pytest.param(("conv", IWAE(4), GREY), marks=SLOW),
        pytest.param(("conv", ELBO(), GREY, MIXTURE), marks=SLOW),
        pytest.param(("conv_of_classes", ELBO(), GREY), marks=SLOW),
        pytest.param(("conv", IWAE(4, num_resampled=2), GREY, ContinuousBernoulli()), marks=SLOW),
        pytest.param(("top_down", ELBO(), GREY, ContinuousBernoulli()), marks=SLOW),
        pytest.param(("top_down", IWAE(4, num_resampled=2), GREY), marks=SLOW),
    ],
    ids=lambda parts: "-".join(
        part if isinstance(part, str) else getattr(part, "__name__", type(part).__name__)
        for part in parts
        if part is not None and part != GREY
    ),
)
def test_bfloat16_networks_train_under_float32_distributions(parts):
    half = member(*parts, dtype="mixed_bfloat16", jit_compile=False)
    full = member(*parts, jit_compile=False)
    x = labelled(half, images(GREY))
    logs = [vae.fit(x, batch_size=8, epochs=3, verbose=0).history["elbo"] for vae in (half, full)]
    np.testing.assert_allclose(*logs, rtol=0.02, atol=0.02)
    assert half.reconstruct(x).dtype == np.float32
    assert {weight.dtype for weight in half.get_weights()} == {np.dtype("float32")}
    one_hot = None if half.num_classes is None else tf.zeros((1, CLASSES))
    assert half.posterior(tf.zeros((1, *GREY)), one_hot).distribution.loc.dtype == tf.float32
