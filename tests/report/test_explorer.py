"""The explorer in a real browser, from the disk: the numbers are Python's, the controls work."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.export.conftest import with_random_weights
from vae_keras import VAE, MLPDecoder, MLPEncoder, TopDownDecoder, TopDownEncoder
from vae_keras.priors import AutoregressiveFlow
from vae_keras.report import engine, explorer, gallery
from vae_keras.utils import checks

ROWS = 60
GENERATOR = np.random.default_rng(3)
X = GENERATOR.integers(0, 256, (ROWS, 28, 28, 1), dtype=np.uint8)
LABELS = np.arange(ROWS) % 3


def flat(**arguments) -> VAE:
    vae = VAE(MLPEncoder(latent_dim=4, hidden=(8,)), MLPDecoder(hidden=(8,)), **arguments)
    vae.build((None, 28, 28, 1))
    return with_random_weights(vae)


def top_down() -> VAE:
    size = {"top_dim": 2, "groups": ((1,), (2,)), "widths": (3, 4)}
    vae = VAE(TopDownEncoder(**size), TopDownDecoder((28, 28, 1), **size))
    vae.build((None, 28, 28, 1))
    return with_random_weights(vae)


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as running:
        yield running.chromium.launch(executable_path=path, args=["--no-sandbox"])


def written(model: VAE, folder: Path, **arguments) -> Path:
    pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    try:
        found = engine.find()
    except checks.InputError as error:
        pytest.skip(str(error))
    arguments = {"title": "small", "invert": True} | arguments
    return explorer.write(folder / "explorer.html", model, X, LABELS, found, **arguments)


def opened(browser, path: Path, **settings):
    """The page, without a network, once its model runs. It keeps what the console printed."""
    page = browser.new_page(**settings)
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.context.set_offline(True)
    page.goto(path.as_uri())
    page.evaluate("explorer.ready")
    return page


@pytest.fixture(scope="module")
def model() -> VAE:
    return flat()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory, browser) -> Path:
    return written(model, tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="module")
def page(browser, path):
    found = opened(browser, path, viewport={"width": 1200, "height": 900})
    yield found
    assert found.said == []


def numbers(page, call: str, *arrays) -> object:
    """Calls a function of the page with float32 arrays."""
    values = [np.asarray(array, np.float32).ravel().tolist() for array in arrays]
    return page.evaluate(
        f"async values => {{ const found = await explorer.{call}("
        f"...values.map(value => Float32Array.from(value)), {len(arrays[0])});"
        "return found instanceof Float32Array ? [...found] : Object.fromEntries("
        "Object.entries(found).map(([name, part]) => [name, [...part]])); }",
        values,
    )


def require_the_models_numbers(page, model: VAE, learned: bool = False) -> None:
    posterior = model.encode(X[:3])
    found = numbers(page, "encode", X[:3] / np.float32(255))
    for name, expected in posterior._asdict().items():
        np.testing.assert_allclose(found[name], expected.ravel(), rtol=0, atol=1e-5)
    means = numbers(page, "decode", posterior.loc)
    np.testing.assert_allclose(means, model.decode(posterior.loc).ravel(), rtol=0, atol=1e-5)
    noise = np.random.default_rng(4).normal(size=(3, model.latent_dim)).astype(np.float32)
    drawn = numbers(page, "prior", noise)
    np.testing.assert_allclose(drawn, model.prior_draws(noise).ravel(), rtol=0, atol=1e-5)
    assert learned == (not np.allclose(drawn, noise.ravel()))
    binary = (X[:3] > 127).astype(np.float32)
    found = numbers(page, "score", binary, noise)
    for name, expected in model.terms(binary, noise)._asdict().items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


def until(page, condition: str) -> None:
    """Waits for a condition. The policy of the page forbids Playwright's own way."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(20)
    raise AssertionError(condition)


def state(page) -> dict:
    return page.evaluate("explorer.state()")


def picture(page, name: str) -> np.ndarray:
    """The pixels of a canvas in [0, 1], once no request is waiting."""
    page.wait_for_timeout(50)
    values = page.evaluate(
        "name => { const copy = new OffscreenCanvas(28, 28);"
        "const context = copy.getContext('2d', { willReadFrequently: true });"
        "context.drawImage(document.getElementById(name), 0, 0);"
        "return [...context.getImageData(0, 0, 28, 28).data].filter((_, i) => i % 4 === 0); }",
        name,
    )
    return np.reshape(values, (28, 28, 1)) / 255


def require_decoded(page, model: VAE) -> None:
    """The picture shows the latents, to the 256 levels of a screen."""
    expected = model.decode(np.array([state(page)["z"]], np.float32))[0]
    np.testing.assert_allclose(picture(page, "decoded"), expected, atol=0.5 / 255 + 1e-5)


def test_the_numbers_are_pythons(page, model):
    require_the_models_numbers(page, model)


def test_the_map_shows_the_posterior_means(page, model):
    points, axis_name = gallery.project(model.encode(X).loc)
    assert axis_name in page.locator("#axes").text_content().replace("components", "component")
    view = state(page)["view"]
    box = page.locator("#map").bounding_box()
    for index in (0, 7):
        x, y = page.evaluate("index => explorer.at(index)", index)
        at = [(x - box["width"] / 2) / view["scale"], (box["height"] / 2 - y) / view["scale"]]
        np.testing.assert_allclose(at + np.array([view["x"], view["y"]]), points[index], atol=0.05)


def test_an_image_is_chosen_by_a_click_and_its_reconstruction_shown(page, model):
    box = page.locator("#map").bounding_box()
    x, y = page.evaluate("explorer.at(17)")
    page.mouse.click(box["x"] + x, box["y"] + y)
    until(page, "explorer.state().chosen === 17")
    until(page, "document.getElementById('image-text').textContent === 'image 18, 2'")
    np.testing.assert_allclose(picture(page, "image"), X[17] / 255.0, atol=1e-6)
    expected = model.reconstruct(X[17:18])[0]
    np.testing.assert_allclose(picture(page, "reconstruction"), expected, atol=0.5 / 255 + 1e-5)
    require_decoded(page, model)


def test_the_ring_is_dragged_through_the_plane(page, model):
    page.evaluate("explorer.choose(3)")
    box, before = page.locator("#map").bounding_box(), state(page)
    x, y = before["ring"]
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.down()
    page.mouse.move(box["x"] + x + 60, box["y"] + y - 30, steps=5)
    page.mouse.up()
    after = state(page)
    np.testing.assert_allclose(np.subtract(after["ring"], before["ring"]), [60, -30], atol=0.1)
    moved = np.subtract(after["z"], before["z"])
    directions = gallery.plane(model.encode(X).loc).directions
    expected = np.array([60, 30]) / before["view"]["scale"] @ directions
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-5)
    require_decoded(page, model)


def test_the_map_moves_and_zooms(page):
    page.locator("#whole").click()
    box, before = page.locator("#map").bounding_box(), state(page)["view"]
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 25, box["y"] + 5, steps=3)
    page.mouse.up()
    moved = state(page)["view"]
    assert moved["x"] == pytest.approx(before["x"] - 20 / before["scale"])
    page.mouse.wheel(0, -100)
    until(page, f"explorer.state().view.scale > {1.2 * moved['scale']}")
    page.locator("#whole").click()
    assert state(page)["view"] == before


def test_the_keyboard_moves_the_ring_and_the_map(page, model):
    page.locator("#map").focus()
    before = state(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    moved = np.subtract(state(page)["ring"], before["ring"])
    np.testing.assert_allclose(moved, [8, -40], atol=0.1)
    page.keyboard.press("+")
    assert state(page)["view"]["scale"] == pytest.approx(1.3 * before["view"]["scale"])
    page.keyboard.press("0")
    page.evaluate("explorer.setLatents(explorer.state().z)")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id === 'map' && explorer.state().chosen >= 0")
    require_decoded(page, model)


def test_sliders_set_one_dimension_in_the_order_of_their_kl(page, model):
    measures = [dimension["measure"] for dimension in page.evaluate("explorer.facts.dimensions")]
    assert measures == sorted(measures, reverse=True)
    slider = page.locator(".slider input").first
    index, before = int(slider.get_attribute("data-index")), state(page)["z"]
    slider.focus()
    page.keyboard.press("End")
    after = state(page)["z"]
    assert after[index] == pytest.approx(float(slider.get_attribute("max")), rel=1e-6)
    assert np.delete(after, index) == pytest.approx(np.delete(before, index))
    require_decoded(page, model)


def test_a_walk_ends_at_the_posterior_means(page, model):
    page.evaluate("explorer.choose(5)")
    page.locator("#take-start").click()
    page.evaluate("explorer.choose(9)")
    page.locator("#take-end").click()
    loc = model.encode(X[[5, 9]]).loc
    page.wait_for_timeout(50)
    for key, expected in (("Home", loc[0]), ("End", loc[1])):
        page.locator("#fraction").focus()
        page.keyboard.press(key)
        page.keyboard.press("ArrowLeft" if key == "Home" else "ArrowRight")
        page.evaluate("document.getElementById('fraction').oninput()")
        np.testing.assert_allclose(state(page)["z"], expected, atol=1e-5)
        require_decoded(page, model)
    page.locator("#play").click()
    until(page, "document.getElementById('fraction').value > 2")
    page.locator("#play").click()


def test_draws_are_new_and_can_be_taken(page, model):
    first = page.locator("#draws canvas").count()
    page.locator("#draw").click()
    page.wait_for_timeout(100)
    assert page.locator("#draws canvas").count() == first == 12
    page.locator("#draws button").nth(3).click()
    require_decoded(page, model)


def test_a_drawing_is_encoded_and_has_an_elbo(page, model):
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 20, steps=8)
    page.mouse.up()
    until(page, "document.getElementById('elbo').textContent.startsWith('ELBO -')")
    drawn = np.reshape(page.evaluate("[...explorer.drawn()]"), (1, 28, 28, 1)).astype(np.float32)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert 20 < drawn.sum() < 150
    assert drawn[0, :, 12:16].sum() == drawn.sum()
    np.testing.assert_allclose(state(page)["z"], model.encode(drawn).loc[0], atol=1e-5)
    np.testing.assert_allclose(picture(page, "own"), model.reconstruct(drawn)[0], atol=0.003)
    text = page.locator("#elbo").text_content()
    shown, likelihood, kl = map(float, re.findall(r"-?\d+\.\d", text))
    assert shown == pytest.approx(likelihood - kl, abs=0.11)
    draws = [model.elbo(drawn, seed).elbo[0] for seed in range(20)]
    assert abs(shown - np.mean(draws)) < 6 * np.std(draws) / 4 + 0.1
    page.locator("#clear").click()
    assert not np.any(page.evaluate("[...explorer.drawn()]"))


def test_the_pad_is_drawn_on_with_the_keyboard(page):
    page.locator("#clear").click()
    page.locator("#pad").focus()
    for key in ("Space", "ArrowDown", "ArrowDown", "Space"):
        page.keyboard.press(key)
    drawn = np.reshape(page.evaluate("[...explorer.drawn()]"), (28, 28))
    assert 4 <= drawn[10:20, 10:20].sum() == drawn.sum()


def test_a_label_is_hidden_by_its_button(page):
    button = page.locator("#legend button").first
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"


def test_a_narrow_dark_window_has_all_and_no_scroll_to_the_side(browser, path):
    page = opened(
        browser, path, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", ground))) < 60
    for name in ("map", "decoded", "fraction", "draw", "pad"):
        page.locator(f"#{name}").scroll_into_view_if_needed()
        box = page.locator(f"#{name}").bounding_box()
        assert box["width"] > 20
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 360
    assert page.said == []


def test_a_class_is_chosen_and_the_latents_stay(browser, tmp_path):
    vae = with_random_weights(flat(num_classes=3, class_names=["ant", "bee", "cat"]))
    page = opened(browser, written(vae, tmp_path))
    posterior = vae.encode(X[:2], [1, 1])
    found = page.evaluate(
        "async () => [...(await explorer.encode(new Float32Array("
        "[...explorer.image(0), ...explorer.image(1)]), 2, 1)).loc]"
    )
    np.testing.assert_allclose(found, posterior.loc.ravel(), atol=1e-5)
    page.evaluate("explorer.choose(5)")
    assert page.locator("#class input").nth(LABELS[5]).is_checked()
    latents = vae.encode(X[5:6], LABELS[5:6]).loc
    page.locator("#class label").nth(1).click()
    until(page, "explorer.state().label === 1")
    np.testing.assert_allclose(state(page)["z"], latents[0], atol=1e-5)
    in_class = vae.decode(latents, "bee")[0]
    np.testing.assert_allclose(picture(page, "decoded"), in_class, atol=0.5 / 255 + 1e-5)
    assert np.abs(in_class - vae.decode(latents, "cat")[0]).max() > 0.01
    page.locator("#draws button").nth(3).click()
    drawn = np.array([state(page)["z"]], np.float32)
    expected = vae.decode(drawn, "bee")[0]
    np.testing.assert_allclose(picture(page, "decoded"), expected, atol=0.5 / 255 + 1e-5)
    page.locator("#pad").focus()
    for key in ("Space", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    until(page, "document.getElementById('elbo').textContent.startsWith('In class bee: ELBO -')")
    assert page.said == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["learned prior", "top down"])
def test_the_numbers_of_other_models_are_pythons(kind, browser, tmp_path):
    learned = kind == "learned prior"
    model = flat(prior=AutoregressiveFlow(hidden=(8,))) if learned else top_down()
    page = opened(browser, written(model, tmp_path))
    require_the_models_numbers(page, model, learned)
    assert page.said == []


# ------------------------------------------------------------------------- without a browser


def blobs(html: str) -> dict[str, str]:
    return dict(re.findall(r'<script type="text/plain" id="([\w-]+)">([\w+/=]+)</script>', html))


SMALL = engine.Engine(b"script", b"wasm")


def test_the_file_holds_each_weight_once(model, tmp_path):
    pytest.importorskip("tf2onnx", reason="the extra [onnx] is not installed")
    path = explorer.write(tmp_path / "e.html", model, X, LABELS, SMALL, title="small")
    found = blobs(path.read_text(encoding="utf-8"))
    parts = {"part-encoder", "part-decoder", "part-score"}
    assert set(found) == parts | {"engine-script", "engine-wasm", "weights", "images", "points"}
    weights = len(explorer.gzip.decompress(explorer.base64.b64decode(found["weights"])))
    kernels = sum(part.nbytes for part in model.get_weights() if part.nbytes >= 1024)
    assert kernels <= weights <= kernels + 4 * 2048
    assert not re.search(r"https?://(?!www\.w3\.org)", path.read_text(encoding="utf-8"))


def test_names_of_labels_cannot_end_the_script(model, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "_parts", lambda model: {})
    evil = np.array(["</script><b>", 'a"&'])[np.arange(ROWS) % 2]
    path = explorer.write(tmp_path / "e.html", model, X, evil, SMALL, title="</title><b>")
    html = path.read_text(encoding="utf-8")
    assert "<b>" not in html
    facts = re.search(r'id="facts">(.*?)</script>', html, re.DOTALL)[1]
    assert json.loads(facts)["names"] == ["</script><b>", 'a"&']


def test_images_are_spread_evenly_and_kept_few(model, tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "_parts", lambda model: {})
    monkeypatch.setattr(explorer, "MOST_IMAGES", 4)
    path = explorer.write(tmp_path / "e.html", model, X, None, SMALL, title="small")
    found = blobs(path.read_text(encoding="utf-8"))
    pixels = explorer.gzip.decompress(explorer.base64.b64decode(found["images"]))
    assert pixels == X[[0, 19, 39, 59]].tobytes()
