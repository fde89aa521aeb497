"""Checks, atomic files and safe reading of `.keras` files."""
