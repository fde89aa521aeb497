"""The figures of a model, the HTML page of a run, and the provenance of its numbers."""
