"""Models that come from a folder or the Hugging Face Hub, and go there."""

import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import keras
import numpy as np
import pytest

from tests.conftest import small_vae
from vae_keras import VAE
from vae_keras.utils import checks, files, keras_file
from vae_keras.zoo import presets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as the files of a repository."""
    folder = tmp_path_factory.mktemp("shared") / "mine"
    small_vae(seed=3).save_pretrained(folder)
    return folder


def same(one: VAE, other: VAE) -> bool:
    return np.array_equal(one.sample(3, seed=5), other.sample(3, seed=5))


def test_a_folder_comes_back_compiled(folder):
    vae = VAE.from_preset(folder)
    assert same(vae, small_vae(seed=3))
    assert vae.compiled


def test_the_state_of_the_optimizer_is_not_shared(digits, folder, tmp_path, recwarn):
    vae = small_vae(seed=3)
    vae.fit(digits, verbose=0)
    vae.save_pretrained(tmp_path / "mine")
    assert same(VAE.from_preset(tmp_path / "mine"), vae)
    sizes = [(at / "model.weights.h5").stat().st_size for at in (folder, tmp_path / "mine")]
    assert sizes[0] == sizes[1]
    assert not json.loads((folder / "config.json").read_text()).get("compile_config")
    assert [warning for warning in recwarn if "optimizer" in str(warning.message)] == []


def test_keras_own_loader_reads_the_folder(folder):
    assert same(keras.saving.load_model(folder), small_vae(seed=3))


def test_a_saved_file_comes_back_compiled(folder, tmp_path):
    small_vae(seed=3).save(tmp_path / "mine.keras")
    vae = VAE.from_preset(tmp_path / "mine.keras")
    assert same(vae, small_vae(seed=3))
    assert vae.compiled


def test_a_file_is_checked_before_keras_reads_it(tmp_path):
    lambda_layer = keras.layers.Lambda(lambda x: x)
    keras.Sequential([keras.Input((2,)), lambda_layer]).save(tmp_path / "mine.keras")
    with pytest.raises(checks.InputError, match="run no code of their own"):
        VAE.from_preset(tmp_path / "mine.keras")
    with pytest.raises(checks.InputError, match=r"must be a \.keras file"):
        VAE.from_preset(tmp_path / "missing.keras")


def test_a_card_is_written_once(folder, tmp_path):
    assert 'from_preset("hf://NAMESPACE/mine")' in (folder / "README.md").read_text()
    shutil.copytree(folder, tmp_path / "mine")
    files.write_text(tmp_path / "mine" / "README.md", "my own")
    small_vae(seed=4).save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "my own"
    assert same(VAE.from_preset(tmp_path / "mine"), small_vae(seed=4))


def test_a_model_without_weights_is_refused(tmp_path):
    with pytest.raises(checks.InputError, match="a model that saw no images"):
        VAE(encoder=keras.layers.Dense(6), decoder=keras.layers.Dense(36)).save_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def damage(folder, kind):
    if kind == "without its configuration":
        (folder / "config.json").unlink()
    elif kind == "with half of its weights":
        weights = folder / "model.weights.h5"
        weights.write_bytes(weights.read_bytes()[:900])
    elif kind == "with a program":
        config = json.loads((folder / "config.json").read_text())
        layer = {"module": "keras.layers", "class_name": "Lambda", "config": {}}
        config["config"]["decoder"] = layer
        (folder / "config.json").write_text(json.dumps(config))
    else:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        for name in keras_file.MEMBERS:
            (folder / name).unlink()
        keras.saving.save_model(model, folder / "other", zipped=False)
        for path in (folder / "other").glob("*.*"):
            path.rename(folder / path.name)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("without its configuration", "without config.json. Write it with save_pretrained"),
        ("with half of its weights", "must be sound"),
        ("with a program", "run no code of their own. Received: Lambda"),
        ("with another model", "from_preset loads a VAE. Received"),
    ],
)
def test_a_folder_that_is_no_such_model_is_refused(folder, tmp_path, kind, sentence):
    shutil.copytree(folder, tmp_path / "mine")
    damage(tmp_path / "mine", kind)
    with pytest.raises(checks.InputError, match=re.escape(sentence)):
        VAE.from_preset(tmp_path / "mine")


def test_sizes_are_limited_before_a_file_is_read(folder, monkeypatch):
    monkeypatch.setattr(keras_file, "LARGEST", 100)
    with pytest.raises(checks.InputError, match="must unpack to at most 100 bytes"):
        VAE.from_preset(folder)


def test_a_preset_comes_before_a_folder_of_its_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "mlp_mnist")
    assert VAE.from_preset("mlp_mnist").image_shape == (28, 28, 1)
    assert VAE.from_preset("./mlp_mnist").image_shape == (6, 6, 1)
    assert "mlp_mnist" in presets.trained()


# ------------------------------------------------------------------------------------ the Hub


@pytest.mark.parametrize("name", ["hf://mine", "hf://a/b/c", "hf://", "hf://../x y"])
def test_a_name_that_is_no_repository_is_refused(name):
    with pytest.raises(checks.InputError, match="must be named hf://NAMESPACE/NAME"):
        VAE.from_preset(name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(checks.InputError, match=r"pip install 'vae-keras\[hub\]'"):
        VAE.from_preset("hf://me/mine")


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A local server with the routes of the Hub that a download asks, and what it was asked."""
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    shutil.copytree(folder, tmp_path / "mine")
    (tmp_path / "mine" / "evil.py").write_text("raise SystemExit")
    commit, asked = "0" * 40, []
    names = sorted(path.name for path in (tmp_path / "mine").iterdir())

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0]
            asked.append(path.rsplit("/", 1)[-1])
            if path.startswith("/api/models/me/mine"):
                siblings = [{"rfilename": name} for name in names]
                info = {"_id": "1", "id": "me/mine", "sha": commit, "siblings": siblings}
                tree = [
                    {"type": "file", "path": name, "oid": name, "size": self.size(name)}
                    for name in names
                ]
                self.answer(json.dumps(tree if "/tree/" in path else info).encode(), "info")
            elif path.startswith("/me/mine/resolve/") and path.rsplit("/", 1)[-1] in names:
                name = path.rsplit("/", 1)[-1]
                self.answer((tmp_path / "mine" / name).read_bytes(), name)
            else:
                self.send_error(404)

        def size(self, name):
            return (tmp_path / "mine" / name).stat().st_size

        def answer(self, body, tag):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, cache = f"http://127.0.0.1:{server.server_port}", tmp_path / "cache"
    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda *args, **options: real(*args, endpoint=url, cache_dir=cache, **options),
    )
    yield tmp_path / "mine", asked
    server.shutdown()
    server.server_close()


def test_a_model_comes_from_the_hub(hub):
    _, asked = hub
    assert same(VAE.from_preset("hf://me/mine"), small_vae(seed=3))
    assert "evil.py" not in asked
    assert {*keras_file.MEMBERS} <= {*asked}


def test_a_model_of_the_hub_runs_no_code(hub):
    source, _ = hub
    damage(source, "with a program")
    with pytest.raises(checks.InputError, match="run no code of their own"):
        VAE.from_preset("hf://me/mine")


def test_a_repository_that_is_not_there_is_one_line(hub):
    with pytest.raises(checks.InputError, match="must be within reach") as caught:
        VAE.from_preset("hf://me/other")
    assert len(str(caught.value).splitlines()) == 1
