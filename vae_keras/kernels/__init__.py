"""Numerical kernels that are fast and hard to read. Each states the measurement that earns it."""
