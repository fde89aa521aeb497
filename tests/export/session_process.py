"""Compares the session of a server with the Python model, on oneDNN's kernels.

A server runs a SavedModel in a session, whose graph optimizer sees each signature as one graph.
`test_session.py` starts this script, because oneDNN is chosen when TensorFlow is imported. It
prints the outputs that differ in any bit as JSON.
"""

import json
import sys
from pathlib import Path

from tests.conftest import signature_answers
from tests.export.conftest import SESSION_MODELS, differing, session_calls, with_random_weights
from vae_keras import export

found = {}
for name, make in SESSION_MODELS.items():
    vae = with_random_weights(make())
    version = export.export_saved_model(vae, Path(sys.argv[1]) / name, score_samples=2)
    answers = {rows: signature_answers(vae, rows) for rows in (1, 3)}
    with session_calls(version) as call:
        found[name] = [line for rows in answers for line in differing(call, answers[rows])]
print(json.dumps(found))
