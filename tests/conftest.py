"""Shared set-up of the tests: 64-bit floats, no display, no timing limits of hypothesis."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
settings.register_profile("stedyn", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("stedyn")

#: Examples in docstrings that compile for seconds what tests of the default suite compile, too.
SLOW_EXAMPLES = {"stedyn.ranges.choose", "stedyn.rules.base.Rule", "stedyn.sensitivities.sensitivity"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.name in SLOW_EXAMPLES:
            item.add_marker(pytest.mark.slow)
