"""Measures the explorer of some presets in a browser, and photographs it for the cards.

    python -m benchmarks.explorer

It needs Chromium, Playwright and the engine. The times are those of one thread.
"""

from __future__ import annotations

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
_PICTURED = ("planar_mnist", "mlp_mnist")
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


def run(browser: Any, name: str, folder: Path) -> dict[str, Any]:
    """Writes and opens the explorer of a preset, and returns its size and times."""
    from vae_keras.cli.main import main as command
    from vae_keras.zoo import presets

    path = folder / f"{name}.html"
    if command(["explore", "--preset", name, "--to", str(path)]):
        raise SystemExit(1)
    page = browser.new_page(viewport={"width": 1180, "height": 760})
    page.goto(path.as_uri())
    start = page.evaluate("explorer.ready.then(() => performance.now())")
    times = page.evaluate(_TIMES)
    if name in _PICTURED:
        page.evaluate("explorer.choose(7)")
        page.wait_for_timeout(300)
        picture = Image.open(io.BytesIO(page.screenshot()))
        # A palette takes a third of the bytes.
        few = picture.convert("RGB").quantize(160, Image.Quantize.MAXCOVERAGE)
        few.save(presets.folder() / name / "figures" / "explorer.png", optimize=True)
    page.close()
    return {"preset": name, "bytes": path.stat().st_size, "start": start, **times}


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

    machine = results.machine()
    script, wasm = engine.find()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        rows = [run(browser, name, Path(folder)) for name in PRESETS]
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
