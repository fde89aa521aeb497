"""Measures the explorer of some presets in a browser, and photographs it for the cards.

    python -m benchmarks.explorer times
    python -m benchmarks.explorer pictures  # of every preset, or of those that are named

It needs Chromium, Playwright and the engine. The times are those of one thread.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import results
from vae_keras.utils import files

RESULTS = Path(__file__).resolve().parent / "results" / "explorer.json"
PRESETS = ("planar_mnist", "mlp_mnist", "conv_mnist")
_TIMES = """async () => {
  const took = async (work) => {
    const times = [];
    for (let i = 0; i < 110; i++) {
      const start = performance.now();
      await work();
      times.push(performance.now() - start);
    }
    return times.slice(10).sort((a, b) => a - b);
  };
  const draw = () => Float32Array.from({ length: explorer.facts.latent_dim }, Math.random);
  const decode = await took(() => explorer.setLatents(draw()));
  const encode = await took(() => explorer.encode(explorer.image(0)));
  return { show: decode[50], show_slow: decode[95], encode: encode[50] };
}"""


def opened(browser: Any, name: str, folder: Path) -> tuple[Any, Path, float]:
    """Writes and opens the explorer of a preset: the page, its file, milliseconds to the start."""
    from vae_keras.cli.main import main as command

    path = folder / f"{name}.html"
    if command(["explore", "--preset", name, "--to", str(path)]):
        raise SystemExit(1)
    page = browser.new_page(viewport={"width": 1180, "height": 760})
    page.goto(path.as_uri())
    return page, path, page.evaluate("explorer.ready.then(() => performance.now())")


def measure(browser: Any, name: str, folder: Path) -> dict[str, Any]:
    """Returns the size and the times of the explorer of a preset."""
    page, path, start = opened(browser, name, folder)
    times = page.evaluate(_TIMES)
    page.close()
    return {"preset": name, "bytes": path.stat().st_size, "start": start, **times}


def photograph(browser: Any, name: str, folder: Path) -> None:
    """Writes a picture of the explorer of a preset for its card."""
    from vae_keras.zoo import presets

    page, _, _ = opened(browser, name, folder)
    page.evaluate("explorer.choose(7)")
    page.wait_for_timeout(1000)
    picture = Image.open(io.BytesIO(page.screenshot()))
    page.close()
    # A palette takes a third of the bytes.
    few = picture.convert("RGB").quantize(160, Image.Quantize.MAXCOVERAGE)
    few.save(presets.folder() / name / "figures" / "explorer.png", optimize=True)


def text(path: Path = RESULTS) -> str:
    """Renders the measurements as a Markdown table with the machine below."""
    if not path.exists():
        return "Not measured yet."
    held = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| preset | file | until it runs | a new picture, median | 95% | encoder |",
        "|---|---|---|---|---|---|",
    ]
    for row in held["presets"]:
        lines.append(
            f"| {row['preset']} | {row['bytes'] / 1e6:.1f} MB | {row['start'] / 1000:.1f} s "
            f"| {row['show']:.1f} ms | {row['show_slow']:.1f} ms | {row['encode']:.1f} ms |"
        )
    machine = held["machine"]
    return "\n".join(
        [
            *lines,
            "",
            f"The engine takes {held['engine_bytes'] / 1e6:.1f} MB of a file, compressed. "
            f"One thread of {machine['cpu']}, load average {machine['load_average']}, "
            f"{held['browser']}.",
        ]
    )


def main() -> None:
    from playwright.sync_api import sync_playwright

    from vae_keras.report import engine
    from vae_keras.zoo import cards, presets

    parser = argparse.ArgumentParser(description="Measures or photographs explorers.")
    parser.add_argument("what", choices=("times", "pictures"))
    parser.add_argument("presets", nargs="*", help="presets to photograph (default: all)")
    asked = parser.parse_args()
    machine = results.machine()
    script, wasm = engine.find()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if asked.what == "pictures":
            for name in asked.presets or presets.trained():
                photograph(browser, name, Path(folder))
            cards.write()
            return
        rows = [measure(browser, name, Path(folder)) for name in PRESETS]
        content = {
            "engine": f"{engine.PACKAGE} {engine.VERSION}",
            "engine_bytes": sum(len(gzip.compress(part, 6)) for part in (script, wasm)) * 4 // 3,
            "browser": f"Chromium {browser.version}",
            "machine": machine,
            "presets": rows,
        }
    files.write_json(RESULTS, content)
    print(text())


if __name__ == "__main__":
    main()
