"""What the README prints can be run, and what it shows exists."""

import re
import shlex
from pathlib import Path

import pytest

from vae_keras.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.startswith("python -m vae_keras")
]


@pytest.mark.slow
def test_the_ten_lines_run_as_printed(capsys):
    (code,) = [text for language, text in BLOCKS if language == "python"]
    assert len(code.strip().splitlines()) <= 13
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["images"].shape == (25, 28, 28, 1)
    assert names["between"].shape == (5, 11, 28, 28, 1)
    assert -130 < float(capsys.readouterr().out.splitlines()[-1]) < -60


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_run_as_printed(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[3:]) == 0


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)$", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_pictures_and_links_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
