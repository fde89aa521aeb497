"""A model file from a stranger runs no code, on the command line and as a preset."""

import json
import shutil
import zipfile

import keras
import numpy as np
import pytest

from tests.conftest import small_vae
from vae_keras import VAE
from vae_keras.__main__ import main
from vae_keras.utils import checks, files, keras_file
from vae_keras.zoo import presets


@pytest.fixture
def malicious(tmp_path):
    """A saved VAE whose decoder ends in a Lambda that creates a file when it runs."""
    trace = tmp_path / "it ran"
    name = str(trace)
    run = keras.layers.Lambda(lambda x: [open(name, "w").close(), x][1])
    layers = [keras.Input((3,)), keras.layers.Dense(36), run, keras.layers.Reshape((6, 6, 1))]
    path = tmp_path / "model.keras"
    small_vae(decoder=keras.Sequential(layers)).save(path)
    trace.unlink()
    return path, trace


def test_keras_would_run_the_code(malicious):
    """Unsafe loading without our check runs the Lambda, so the other tests prove something."""
    path, trace = malicious
    keras.saving.load_model(path, safe_mode=False)
    assert trace.exists()


def test_the_command_line_refuses_it_unrun(malicious, capsys):
    path, trace = malicious
    assert main(["sample", "--model", str(path)]) == 2
    error = capsys.readouterr().err.strip()
    assert "run no code of their own. Received: Lambda in" in error
    assert len(error.splitlines()) == 1
    assert not trace.exists()


@pytest.mark.parametrize("trusted", [True, False])
def test_a_preset_that_was_replaced_by_it_is_refused(malicious, tmp_path, monkeypatch, trusted):
    path, trace = malicious
    zoo = tmp_path / "zoo"
    shutil.copytree(presets.folder() / "mlp_mnist", zoo / "mlp_mnist")
    shutil.copy(path, zoo / "mlp_mnist" / "model.keras")
    if trusted:  # the metadata were replaced, too
        metrics = presets.load_metrics("mlp_mnist")
        metrics["provenance"]["weights_sha256"] = files.sha256(path)
        files.write_json(zoo / "mlp_mnist" / "metrics.json", metrics)
    monkeypatch.setattr(presets, "folder", lambda: zoo)
    sentence = "run no code of their own" if trusted else "must have the SHA-256"
    with pytest.raises(checks.InputError, match=sentence):
        VAE.from_preset("mlp_mnist")
    assert not trace.exists()


def test_unsafe_loading_switched_on_elsewhere_changes_nothing(malicious):
    path, trace = malicious
    keras.config.enable_unsafe_deserialization()
    try:
        with pytest.raises(checks.InputError, match="Received: Lambda"):
            keras_file.load(path)
    finally:
        keras.src.saving.serialization_lib.SafeModeScope(None).__enter__()
    assert not trace.exists()


@pytest.mark.parametrize(
    "module", ["subprocess", "os", "tests.utils.test_keras_file", "antigravity"]
)
def test_no_module_is_imported_for_a_file(tmp_path, monkeypatch, module):
    def imported(name, *_):
        pytest.fail(f"{name} was imported")

    config = {"class_name": "Popen", "module": module, "config": {"args": ["true"]}}
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"config": {"layers": [config]}}))
    monkeypatch.setattr("importlib.import_module", imported)
    with pytest.raises(checks.InputError, match=rf"Received: {module}\.Popen"):
        keras_file.load(tmp_path / "m.keras")


@pytest.mark.parametrize("name", ["layers.Lambda", "src.layers.core.lambda_layer.Lambda"])
def test_a_program_by_another_name_is_refused_unrun(malicious, tmp_path, name):
    path, trace = malicious
    renamed = tmp_path / "renamed.keras"
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(renamed, "w") as other:
        for member in whole.namelist():
            content = whole.read(member)
            if member == "config.json":
                given = b'"module": "keras.layers", "class_name": "Lambda"'
                assert content.count(given) == 1
                content = content.replace(
                    given, f'"module": "keras", "class_name": "{name}"'.encode()
                )
            other.writestr(member, content)
    with pytest.raises(checks.InputError, match=f"Received: {name} in"):
        keras_file.load(renamed)
    assert not trace.exists()


def test_keras_own_functions_and_layers_load(tmp_path):
    decoder = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(36, "gelu"), keras.layers.Reshape((6, 6, 1))]
    )
    small_vae(decoder=decoder).save(tmp_path / "m.keras")
    assert keras_file.load(tmp_path / "m.keras").image_shape == (6, 6, 1)


def test_a_sound_file_loads_as_keras_would_load_it(tmp_path, digits):
    vae = small_vae()
    vae.save(tmp_path / "m.keras")
    loaded = keras_file.load(tmp_path / "m.keras")
    assert loaded.get_config() == keras.saving.load_model(tmp_path / "m.keras").get_config()
    np.testing.assert_array_equal(loaded.reconstruct(digits), vae.reconstruct(digits))


@pytest.mark.parametrize("part", ["config.json", "model.weights.h5"])
def test_damage_anywhere_is_one_line(tmp_path, part):
    path, cut = tmp_path / "m.keras", tmp_path / "cut.keras"
    small_vae().save(path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(cut, "w") as damaged:
        for name in whole.namelist():
            content = whole.read(name)
            damaged.writestr(name, content[: len(content) // 2] if name == part else content)
    with pytest.raises(checks.InputError, match=r"must be sound\. Received: ") as caught:
        keras_file.load(cut)
    assert "\n" not in str(caught.value)


def test_another_kind_of_model_is_no_vae(tmp_path, capsys):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "m.keras")
    assert main(["sample", "--model", str(tmp_path / "m.keras")]) == 2
    assert "--model takes a VAE. Received: a Sequential" in capsys.readouterr().err
