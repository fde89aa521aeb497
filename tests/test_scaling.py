"""The model behind the table of more machines, against figures worked out by hand."""

import json

import pytest

from benchmarks import scaling
from vae_keras import VAE
from vae_keras.trainer import replicas

NETWORK = {"gbit_per_second": 8, "latency_us": 100}  # a byte a nanosecond


def test_one_worker_sends_nothing():
    assert scaling.network_seconds(1000, 1, NETWORK) == 0.0


def test_a_ring_of_four():
    # Three quarters of the message pass a worker's link twice, in six hops.
    assert scaling.network_seconds(4_000_000, 4, NETWORK) == pytest.approx(6e-3 + 6e-4)


def test_shares_cover_the_batch():
    assert [scaling.share(100, workers) for workers in (1, 2, 8, 64, 1000)] == [100, 50, 13, 2, 1]


def test_the_message_is_the_gradient_and_a_few_sums():
    vae = VAE()
    assert replicas.message_bytes(vae) == 4 * (vae.count_params() + 6)


def test_the_figures_are_those_of_the_model():
    found = json.loads(scaling.PATH.read_text(encoding="utf-8"))
    assert found["parameters"] == VAE().count_params()
    assert found["message_bytes"] == replicas.message_bytes(VAE())
    runs = [found["alone"], found["one_replica"], *found["seconds"].values()]
    runs += [case[kind] for case in found["cases"] for kind in ("alone", "shared")]
    assert all(len(seconds) == found["rounds"] >= 7 for seconds in runs)


def test_the_table_follows_from_the_figures(tmp_path):
    found = json.loads(scaling.PATH.read_text(encoding="utf-8"))
    sizes = {scaling.share(10, workers) for workers in (1, 2, 5)}
    made_up = {
        "batch_size": 10,
        "message_bytes": 1_000_000,
        "network": NETWORK,
        "workers": [2, 5],
        "alone": [0.010, 0.010, 0.020],
        "one_replica": [0.008, 0.016, 0.016],
        "seconds": {str(size): [0.001 * size, 0.001 * size, 0.002 * size] for size in sizes},
        "cases": [
            {"name": "dense", "batch_size": 1000, "message_bytes": 1_000_000}
            | {"alone": [0.01], "shared": [0.02]}
        ],
    }
    path = tmp_path / "scaling.json"
    path.write_text(json.dumps(found | made_up))
    lines = scaling.text(path).splitlines()
    assert lines[2] == "| 1, no strategy | 10.0 ms |  | 1.00 | 1.00 |"
    assert lines[3] == "| 1, a strategy | 8.0 ms |  | 1.25 | 1.25 |"
    assert lines[4] == "| 2 | 5.0 ms | 1.2 ms | 1.61 | 1.79 |"
    assert lines[5] == "| 5 | 2.0 ms | 2.4 ms | 2.27 | 4.03 |"
    assert "the fastest step is that of 5 workers" in lines[7]
    assert "network from 42 workers on" in lines[7]
    assert "| dense | 1,000 | 10.0 ms | 20.0 ms | 1.0 MB | 0.94 | 2.23 |" in lines
