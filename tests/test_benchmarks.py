"""The benchmarks' results and what shows them."""

import ast
import importlib
import inspect
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import (
    commands,
    contests,
    detection,
    explorer,
    goals,
    probes,
    race,
    render,
    results,
    tiles,
    trace,
    workload,
)
from benchmarks.__main__ import main
from benchmarks.contestants import ours
from benchmarks.gate import peak_rss
from vae_keras import VAE, anomaly_scores


@pytest.mark.parametrize("path", render.PAGES, ids=lambda path: path.stem)
def test_the_pages_show_the_results(path):
    assert render.rendered(path) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(results.FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_a_ratio_is_that_of_its_seconds(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    reference = rows[0]
    for row in (row for row in rows if row["ratio"]):
        assert len(row["seconds"]) >= 7
        ratio = results.Ratio.of(row["seconds"], reference["seconds"])
        assert ratio.median == pytest.approx(row["ratio"]["median"])


def test_a_goal_is_met_at_its_bound():
    least = goals.Goal("case", "figure", lambda rows: None, at_least=1.3)
    most = goals.Goal("case", "figure", lambda rows: None, at_most=1.7)
    assert [least.is_met_by(figure) for figure in (1.29, 1.3, 1.4)] == [False, True, True]
    assert [most.is_met_by(figure) for figure in (1.6, 1.7, 1.71)] == [True, True, False]


def test_a_goal_compares_within_a_round_with_the_fastest():
    rows = {
        name: {"contestant": name, "floor": "floor" in name, "seconds": seconds}
        for name, seconds in {
            "ours, VAE.fit": [1.0, 2.0, 1.0],
            "ours, otherwise": [0.1, 0.1, 0.1],
            "slow": [3.0, 6.0, 3.0],
            "fast": [2.0, 4.0, 2.0],
            "floor: a": [0.5, 1.0, 0.5],
            "floor: b": [0.8, 1.6, 0.8],
        }.items()
    }
    over_peers = next(goal for goal in goals.GOALS if "peer" in goal.what)
    assert over_peers.measure(rows).rounds == [2.0, 2.0, 2.0]
    over_floor = next(goal for goal in goals.GOALS if "floor" in goal.what)
    assert over_floor.measure(rows).median == 2.0
    removed = {"contestant": "ours, input pipeline removed", "floor": False}
    rows["ours, input pipeline removed"] = removed | {"seconds": [0.9, 1.9, 0.8]}
    rate = next(goal for goal in goals.GOALS if "images a second" in goal.what)
    assert rate.measure(rows).rounds == [1.0, 0.5, 1.0]
    share = next(goal for goal in goals.GOALS if "pipeline" in goal.what).measure(rows)
    assert (share.low, share.median, share.high) == pytest.approx((0.075, 0.1, 0.15))


def test_a_goal_without_its_contestants_is_not_measured_yet(monkeypatch):
    for goal in goals.GOALS:
        with pytest.raises((KeyError, ValueError)):
            goal.measure({})
    monkeypatch.setattr(goals, "rows_of", lambda case: {})
    rows = goals.table().splitlines()[2:]
    assert len(rows) == len(goals.GOALS)
    assert all(row.endswith("| not yet |  |  |") for row in rows)


def test_a_race_follows_another_order_each_round(monkeypatch):
    monkeypatch.setattr(race, "_PAUSE", 0.0)
    ran: list[str] = []
    contestants = {name: lambda name=name: ran.append(name) or 1.0 for name in "abcd"}
    costs = race.race(contestants, 7, lambda _: None)
    orders = ["".join(ran[start : start + 4]) for start in range(0, len(ran), 4)]
    assert all(sorted(order) == [*"abcd"] for order in orders)
    before_a = {order[order.index("a") - 1] for order in orders if order[0] != "a"}
    assert len(before_a) > 1, "somebody always follows the same one"
    assert costs == {name: [1.0] * 7 for name in "abcd"}


MEASURED = [case for case in (*contests.CONTESTS, *commands.COMMANDS) if results.read(case)]


@pytest.mark.parametrize("case", MEASURED)
def test_no_text_of_a_chart_is_cut_off(case):
    title = contests.CONTESTS[case].title if case in contests.CONTESTS else commands.TITLES[case]
    figure = render.chart(title, results.read(case))
    figure.canvas.draw()
    assert len(figure.texts) == 2  # the title and the label below the bars
    for text in figure.texts:
        extent = text.get_window_extent()
        assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width, text.get_text()


@pytest.mark.parametrize("path", render.PAGES, ids=lambda path: path.stem)
def test_every_place_for_results_is_closed(path):
    text = path.read_text(encoding="utf-8")
    marks = re.findall(r"^<!-- (begin|end) (\w+) -->$", text, re.MULTILINE)
    assert marks[::2] == [("begin", name) for _, name in marks[1::2]]
    assert marks[1::2] == [("end", name) for _, name in marks[::2]]
    assert len(marks) == 2 * len(render.places(path)) == text.count("<!-- begin") * 2


def test_the_pages_have_a_place_for_every_result():
    """Without its marks rendering would change nothing, and nothing would differ."""
    benchmarks, *guides = (render.places(path) for path in render.PAGES)
    assert {*contests.CONTESTS, *commands.COMMANDS, "goals", "findings", "trace"} == set(benchmarks)
    assert guides == [["own_images", "disk"], ["scaling"], ["detection"], ["explorer"]]


def test_an_area_under_the_curve_by_hand():
    normal, unusual = np.array([1.0, 2.0, 2.0, 4.0]), np.array([2.0, 3.0])
    assert detection.auroc(normal, unusual) == (1 + 0.5 + 0.5 + 3) / 8
    assert detection.auroc(normal, normal) == 0.5


def test_the_default_score_has_the_best_validation_figures():
    """The default is chosen by the rows of the table, where the ten digits are one row."""
    rows: dict[str, list[dict]] = {}
    for name, pair in detection.read().items():
        rows.setdefault(name.partition(" / ")[0] if "digits" in name else name, []).append(pair)
    assert sorted(map(len, rows.values())) == [1, 1, 1, 1, 10]

    def mean(score: str) -> float:
        of_rows = (
            np.mean([pair["scores"][score]["validation_auroc"] for pair in pairs])
            for pairs in rows.values()
        )
        return float(np.mean(list(of_rows)))

    assert max(anomaly_scores.SCORES, key=mean) == anomaly_scores.SCORES[0]
    assert mean("PCA error") > mean(anomaly_scores.SCORES[0])  # as the guide says


def test_a_finding_is_what_its_commit_says():
    git = ["git", "-C", str(results.FOLDER), "show"]
    for finding in json.loads((results.FOLDER / "findings.json").read_text(encoding="utf-8")):
        run = subprocess.run([*git, finding["commit"]], capture_output=True, text=True)
        if run.returncode:
            pytest.skip("not a checkout with the history")
        assert finding["measured"] in " ".join(run.stdout.split())


@pytest.mark.parametrize("arguments", [["--rounds", "6"], ["train_20", "--rounds", "1"]])
def test_too_few_rounds_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "a result takes 7 rounds or more" in capsys.readouterr().err


def test_a_likelihood_is_that_of_the_images_all_have_in_common(tmp_path):
    np.save(tmp_path / "x_test.npy", np.zeros((1, 784), np.uint8))
    ours, theirs, floor = [entry.name for entry in contests.CONTESTS["likelihood"].entries][:3]
    outcomes = {ours: np.array([-1.0, -2.0, -9.0]), theirs: [-1.1, -2.1], floor: None}
    figures = contests._check(contests.CONTESTS["likelihood"], tmp_path, outcomes, print)
    assert figures == {ours: -1.5, theirs: pytest.approx(-1.6)}
    with pytest.raises(contests.CheckFailed):
        contests._check(
            contests.CONTESTS["likelihood"], tmp_path, outcomes | {theirs: [-9.0]}, print
        )


def test_a_process_tells_its_peak_memory():
    own = peak_rss(os.getpid())
    seconds, held = commands._python(f"held = b'1' * {own + 200_000_000}")()
    assert seconds > 0
    assert own + 200e6 < held < own + 300e6
    with pytest.raises(subprocess.CalledProcessError):
        commands._python("raise SystemExit(3)")()


@pytest.mark.parametrize("package", ["jax", "sklearn"])
def test_no_command_of_ours_finds_what_is_there_for_the_peers(tmp_path, package):
    """TensorFlow and Keras would import it, and count it as theirs."""
    for name in ("innocent", package):
        (tmp_path / f"{name}.py").write_text("")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import "
    commands._python(code + "innocent")()
    with pytest.raises(subprocess.CalledProcessError):
        commands._python(code + package)()


@pytest.mark.parametrize("shape", [(28, 28, 1), (12, 12, 3)])
def test_the_judge_knows_the_convolutional_networks(shape):
    vae = ours.conv_vae(shape=shape)
    rng = np.random.default_rng(0)
    vae.set_weights([w + rng.normal(0, 0.1, w.shape).astype("f") for w in vae.get_weights()])
    encode, decode = workload.conv(vae.get_weights(), shape)
    images = rng.integers(0, 2, (3, *shape)).astype(np.float32)
    latents = rng.normal(size=(3, workload.CONV_LATENT_DIM)).astype(np.float32)
    expected = np.asarray(vae.decoder(latents)).reshape(3, -1)
    np.testing.assert_allclose(encode(images.reshape(3, -1)), vae.encoder(images), atol=1e-3)
    np.testing.assert_allclose(decode(latents), expected, atol=1e-3)


class Passed(Exception):
    pass


class TwoSlices:
    """A gate that lets two slices pass."""

    slices, is_ready = 0, False

    def ready(self):
        self.is_ready = True

    def passed(self, images, outcome):
        assert self.is_ready
        self.slices += 1
        self.images, self.weights = images, outcome()
        if self.slices == 2:
            raise Passed


@pytest.mark.parametrize(
    "name", [pytest.param("fit_as_train_py", marks=pytest.mark.slow), "fit_with_defaults"]
)
def test_what_a_row_is_called_is_what_runs(name, tmp_path, monkeypatch):
    """`train.py`'s row goes through its own stage and leaves its files; the other names nothing."""
    monkeypatch.setattr(VAE, "xla_pays", lambda _: False)
    np.save(tmp_path / "x_train.npy", np.zeros((64, 784), np.uint8))
    workload.write_weights(tmp_path, workload.initial_weights())
    given = []
    fit = VAE.fit
    monkeypatch.setattr(VAE, "fit", lambda *args, **kw: given.append(kw) or fit(*args, **kw))
    gate = TwoSlices()
    with pytest.raises(Passed):
        getattr(ours, name)(workload.Workload(tmp_path, 32, 64), gate)
    assert gate.images == 64
    assert [w.shape for w in gate.weights] == [w.shape for w in workload.initial_weights()]
    if name == "fit_with_defaults":
        assert set(given[0]) == {"epochs", "callbacks"}
    else:
        assert given[0]["batch_size"] == 32
        kinds = {type(callback).__name__ for callback in given[0]["callbacks"]}
        written = {"ELBOWriter", "BestWeights", "FigureWriter", "Checkpointer"}
        assert kinds == {*written, "GateCallback"}
        assert len((tmp_path / "run" / "elbo.csv").read_text().splitlines()) == 3
        assert list((tmp_path / "run" / "checkpoints").glob("*.keras"))


def test_a_trace_counts_each_operation_without_those_inside_of_it():
    second = 10**12
    thread = [("MatMul.3", 2, 5), ("loop", 0, 10), ("MatMul_1.20", 5, 6), ("fusion.1", 3, 4)]
    lines = [[(name, start * second, end * second) for name, start, end in thread]] * 2
    assert trace.sum_up(lines) == {"loop": 12.0, "MatMul": 6.0, "fusion": 2.0}


def test_every_goal_is_of_a_case():
    cases = {*contests.CONTESTS, *commands.COMMANDS, "scaling"}
    assert {goal.case for goal in goals.GOALS} <= cases


def test_probes_measure_what_the_features_tell():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    labels = np.arange(200) % 2
    rng = np.random.default_rng(0)
    told = (labels[:, np.newaxis] + rng.normal(0, 0.05, (200, 3))).astype(np.float32)
    features = {"told": (told, told[::-1]), "noise": (rng.normal(size=(200, 3)),) * 2}
    entries = probes.measure(features, labels, labels[::-1])
    assert [entry["accuracy"] for entry in entries[:2]] == [1.0, 1.0]
    assert all(entry["accuracy"] < 0.8 for entry in entries[2:])
    assert all(entry["interval"][0] < entry["accuracy"] for entry in entries)


def test_wilsons_interval_is_that_of_the_textbook():
    low, high = probes.wilson(0.5, 10)
    assert (low, high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert probes.wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_the_explorers_measurements_are_rendered_with_the_machine(tmp_path):
    assert explorer.text(tmp_path / "none.json") == "Not measured yet."
    times = {"start": 2500, "show": 1.26, "show_slow": 3, "encode": 1}
    row = {"preset": "p", "bytes": 7_800_000, **times}
    held = {
        "engine_bytes": 4_900_000,
        "browser": "Chromium 1",
        "machine": {"cpu": "a processor", "load_average": 1.0},
        "presets": [row],
    }
    (tmp_path / "e.json").write_text(json.dumps(held), encoding="utf-8")
    text = explorer.text(tmp_path / "e.json")
    assert "| p | 7.8 MB | 2.5 s | 1.3 ms | 3.0 ms | 1.0 ms |" in text
    assert "takes 4.9 MB of a file, compressed. One thread of a processor" in text


@pytest.mark.parametrize(
    "path", sorted(results.FOLDER.parent.glob("*.py")), ids=lambda path: path.stem
)
def test_a_benchmark_calls_what_exists(path):
    """A benchmark runs for minutes before it comes to its last lines."""
    modules, tree = {}, ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("bench", "vae")):
            for alias in node.names:
                found = getattr(importlib.import_module(node.module), alias.name, None)
                found = found or importlib.import_module(f"{node.module}.{alias.name}")
                if inspect.ismodule(found):
                    modules[alias.asname or alias.name] = found
    missing = [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and not hasattr(modules[node.value.id], node.attr)
    ]
    assert missing == []


def test_tiles_of_a_photograph_are_written_once_each(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (80, 128, 3), dtype=np.uint8)
    with pytest.raises(FileNotFoundError, match="mate-backgrounds"):
        tiles.write(tmp_path / "none", tmp_path)
    nature = tmp_path / "share" / "backgrounds" / "mate" / "nature"
    nature.mkdir(parents=True)
    for name in ("one.jpg", "two.jpg"):
        Image.fromarray(picture).save(nature / name)
    tiles.write(tmp_path / "tiles", tmp_path)
    train, test = (tiles.read(tmp_path / "tiles" / part) for part in ("train", "test"))
    assert train.shape == (2 * 15, math.prod(tiles.SHAPE))
    assert test.shape == (2 * 5, math.prod(tiles.SHAPE))
    assert len(np.unique(np.concatenate([train, test]), axis=0)) == 20


def test_the_driver_does_not_load_tensorflow():
    """The peak memory of a command would be that of the driver."""
    code = "import benchmarks.__main__, sys; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=results.FOLDER.parents[1], check=True)
