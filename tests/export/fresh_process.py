"""Runs a SavedModel in a process that imports only TensorFlow and NumPy.

`test_signatures.py` starts it with two arguments: the folder of a version, and a folder of recorded
cases `<signature>.<rows>.npz`, whose arrays are named "in <input>" and "out <output>". It prints
its findings as JSON.
"""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import tensorflow as tf

version, recorded = sys.argv[1:]
cases = [(path.name.split(".")[0], dict(np.load(path))) for path in Path(recorded).glob("*.npz")]
wrong: list[str] = []

with tf.compat.v1.Session(graph=tf.Graph()) as session:
    meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], version)

    def compare(name: str, case: dict[str, np.ndarray]) -> None:
        signature = meta_graph.signature_def[name]
        feeds = {tensor.name: case[f"in {key}"] for key, tensor in signature.inputs.items()}
        fetches = {key: tensor.name for key, tensor in signature.outputs.items()}
        for key, value in session.run(fetches, feeds).items():
            if f"out {key}" in case and not np.array_equal(value, case[f"out {key}"]):
                wrong.append(f"{name} {key}, {len(value)} rows")

    threads = [threading.Thread(target=compare, args=case) for case in cases * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

ours = [name for name in sys.modules if name.startswith(("vae_keras", "tensorflow_probability"))]
print(json.dumps({"cases": len(cases), "wrong": wrong, "ours": ours}))
