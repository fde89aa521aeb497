"""Tests the provenance of numbers."""

import json
import re
import subprocess
from pathlib import Path

import pytest

import vae_keras
from vae_keras.report.provenance import metric, provenance


def test_a_metric_is_its_name_value_and_facts():
    entry = metric("elbo", -99.5, seed=0, num_images=10)
    assert entry == {"name": "elbo", "value": -99.5, "seed": 0, "num_images": 10}


def test_a_fact_that_is_nan_is_left_out():
    """The standard error of one image is NaN, which JSON does not have."""
    entry = metric("elbo", -99.5, standard_error=float("nan"), num_images=1)
    assert entry == {"name": "elbo", "value": -99.5, "num_images": 1}


def test_provenance_names_versions_hardware_and_data():
    facts = provenance("0fa7")
    assert json.loads(json.dumps(facts)) == facts
    assert facts["data_sha256"] == "0fa7"
    assert facts["versions"]["vae_keras"] == vae_keras.__version__
    assert set(facts["versions"]) >= {"python", "tensorflow", "keras", "numpy"}
    assert all(re.match(r"\d+\.\d+", version) for version in facts["versions"].values())
    assert facts["hardware"]["cores"] >= 1
    assert facts["hardware"]["cpu"]


@pytest.mark.parametrize(
    "error", [FileNotFoundError("git"), subprocess.CalledProcessError(128, "git")]
)
def test_outside_of_a_checkout_there_is_no_commit(monkeypatch, error):
    def failing(*_arguments, **_keywords):
        raise error

    monkeypatch.setattr(subprocess, "run", failing)
    assert provenance("")["commit"] is None


def test_the_commit_is_that_of_this_checkout():
    checkout = Path(vae_keras.__file__).parent.parent
    if not (checkout / ".git").exists():
        pytest.skip("the tests do not run in a checkout")
    head = subprocess.run(
        ["git", "-C", checkout, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    commit = provenance("")["commit"]
    assert commit is not None
    assert commit.removesuffix("-dirty") == head.stdout.strip()
