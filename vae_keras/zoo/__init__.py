"""The presets of the zoo, their publication, and their model cards."""
