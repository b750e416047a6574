"""Shared set-up of the tests: 64-bit floats, no display, no timing limits of hypothesis."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
settings.register_profile("stedyn", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("stedyn")
