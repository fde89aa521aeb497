"""Which folder a run may use, what happens to an earlier run in it, and when it is complete."""

import json

import pytest

from vae_keras.training import TrainConfig, run_folder
from vae_keras.utils import checks, files
from vae_keras.zoo import presets

SETTINGS = {"preset": "mlp_mnist"} | TrainConfig().recipe().to_dict()


def written(path, content):
    if isinstance(content, bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    else:
        files.write_json(path, content)
    return path


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a/b",
            b"",
            "a new run needs an empty folder. Received: {folder}, which holds other files. "
            "Name another --workdir.",
        ),
        (
            "a",
            b"",
            "workdir must be a folder that can be written. Received: {folder} (it is a file). ",
        ),
        (
            "a/config.json",
            b"{",
            "the run folder must be readable and writable. Received: {folder} (Expecting property "
            "name enclosed in double quotes: line 1 column 2 (char 1)). Name another --workdir.",
        ),
        (
            "a/config.json",
            [],
            "the run folder must be readable and writable. Received: {folder} (its config.json is "
            "not a JSON object). Name another --workdir.",
        ),
    ],
)
def test_a_folder_that_a_run_cannot_use_is_refused(tmp_path, name, content, message, overwrite):
    path = written(tmp_path / name, content)
    before = path.read_bytes()
    with pytest.raises(checks.InputError) as caught:
        run_folder.check(tmp_path / "a", SETTINGS, overwrite)
    assert str(caught.value).startswith(message.format(folder=tmp_path / "a"))
    assert path.read_bytes() == before


def test_a_folder_below_a_file_is_refused(tmp_path):
    written(tmp_path / "a", b"")
    with pytest.raises(checks.InputError, match="is not a writable folder"):
        run_folder.check(tmp_path / "a" / "run", SETTINGS, overwrite=False)


def test_another_configuration_asks_for_overwrite(tmp_path):
    written(tmp_path / "config.json", SETTINGS)
    other = SETTINGS | {"epochs": 3, "likelihood": {"name": "ContinuousBernoulli", "arguments": {}}}
    with pytest.raises(checks.InputError) as caught:
        run_folder.check(tmp_path, other, overwrite=False)
    assert str(caught.value) == (
        f"a run folder holds one configuration. Received: {tmp_path}, which holds another epochs, "
        "likelihood. Pass --overwrite, or another --workdir."
    )
    run_folder.check(tmp_path, other, overwrite=True)


def test_texts_for_people_are_not_part_of_the_configuration(tmp_path):
    written(tmp_path / "config.json", SETTINGS | {"description": "Other", "choices": "Other"})
    run_folder.check(tmp_path, SETTINGS, overwrite=False)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """It has fields with other names, and lacks later fields, which now have its values."""
    old = {
        name: value for name, value in SETTINGS.items() if name not in ("likelihood", "restarts")
    }
    written(tmp_path / "config.json", old | {"schedule": "cosine", "cycles": 1})
    run_folder.check(tmp_path, SETTINGS, overwrite=False)
    with pytest.raises(checks.InputError, match="which holds another restarts"):
        run_folder.check(tmp_path, SETTINGS | {"restarts": 1}, overwrite=False)


def test_the_network_of_an_earlier_version_goes_on(tmp_path):
    settings = {"preset": "conv_mnist"} | presets.load_recipe("conv_mnist").to_dict()
    old = json.loads(json.dumps(settings).replace("blocks_per_stage", "depth"))
    assert old != settings
    written(tmp_path / "config.json", old)
    run_folder.check(tmp_path, settings, overwrite=False)


@pytest.mark.parametrize(
    ("splits", "complete", "with_test"),
    [
        (None, False, False),
        ([], True, False),
        (["validation"], True, False),
        (["test"], True, True),
    ],
)
def test_a_run_with_a_page_is_complete(tmp_path, splits, complete, with_test):
    if splits is not None:
        written(tmp_path / "report.html", b"page")
        written(tmp_path / "metrics.json", {"metrics": [{"split": split} for split in splits]})
    assert run_folder.is_complete(tmp_path, test=False) == complete
    assert run_folder.is_complete(tmp_path, test=True) == with_test


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_damaged_measurements_are_measured_again(tmp_path, content):
    written(tmp_path / "report.html", b"page")
    written(tmp_path / "metrics.json", content)
    assert not run_folder.is_complete(tmp_path, test=True)


def test_a_new_folder_gets_the_configuration(tmp_path):
    run_folder.claim(tmp_path / "run", SETTINGS, overwrite=False)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == SETTINGS


def test_a_kill_before_the_first_configuration_leaves_a_folder_for_the_run(tmp_path):
    half = written(files.temporary_name(tmp_path / "config.json"), b"{")
    run_folder.check(tmp_path, SETTINGS, overwrite=False)
    run_folder.claim(tmp_path, SETTINGS, overwrite=False)
    assert not half.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_kill_while_a_run_is_overwritten_leaves_a_run_folder(copied, monkeypatch):
    (copied / "notes.txt").write_text("mine")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run_folder.claim(copied, SETTINGS | {"seed": 1}, overwrite=True)
    run_folder.check(copied, SETTINGS | {"seed": 1}, overwrite=True)
    assert not (copied / "checkpoints").exists()


def test_a_run_that_goes_on_loses_its_page_and_half_files(copied):
    (copied / ".writing-0-model.keras").write_bytes(b"half")
    before = {path.name for path in copied.iterdir()}
    configuration = (copied / "config.json").read_bytes()
    run_folder.claim(copied, SETTINGS, overwrite=False)
    left = {path.name for path in copied.iterdir()}
    assert before - left == {"report.html", ".writing-0-model.keras"}
    assert (copied / "config.json").read_bytes() == configuration


def test_overwrite_removes_the_run_and_nothing_else(copied):
    (copied / "notes.txt").write_text("mine")
    settings = SETTINGS | {"seed": 1}
    run_folder.claim(copied, settings, overwrite=True)
    assert {path.name for path in copied.iterdir()} == {"config.json", "notes.txt"}
    assert (copied / "notes.txt").read_text() == "mine"
    assert json.loads((copied / "config.json").read_text()) == settings


def test_overwrite_removes_a_linked_checkpoint_folder(copied, tmp_path):
    """Otherwise the new run would go on from the weights of the old one."""
    (copied / "checkpoints").rename(tmp_path / "scratch")
    (copied / "checkpoints").symlink_to(tmp_path / "scratch")
    run_folder.claim(copied, SETTINGS | {"seed": 1}, overwrite=True)
    assert {path.name for path in copied.iterdir()} == {"config.json"}
    assert any((tmp_path / "scratch").iterdir()), "what a link points to is the user's"


def test_a_run_folder_is_for_one_process_at_a_time(tmp_path):
    folder = tmp_path / "run"
    with run_folder.held(folder):
        again = run_folder.held(folder)
        with pytest.raises(checks.InputError, match="in which another process trains"), again:
            pass
    with run_folder.held(folder):
        assert list(folder.iterdir()) == []
