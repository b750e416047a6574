"""Shared set-up of the tests: 64-bit floats, no display, quick compilations, no timing limits of hypothesis."""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

#: Tests and examples that were measured to take seconds of processor time, others of their kind being quick: one id a line.
DEAR = Path(__file__).with_name("dear.txt").read_text().split("\n")[:-1]
#: Nine tenths of the default suite are compilations, which take XLA a third of the time without its optimizations, and
#: less in this way, which not every version has.
NO_EMITTERS = ("xla_cpu_use_fusion_emitters", False)
#: Programs that are optimized a little, as they run for longer than they compile, or draw lots of random numbers.
OPTIMIZED = {
    "jit_advance",
    "jit_flips",
    "jit__moments",
    "jit__largest",
    "jit_expected",
    "jit_wrapped",
    "jit_sums",
}
#: Tests of the simulator, whose words and numbers have 32 bits: mixing types is an error there.
STRICT = {"test_simulate", "test_sampler", "test_gpu_kernel", "test_long_runs", "test_devices"}
CACHE = "JAX_COMPILATION_CACHE_DIR"
FOLDER = pytest.StashKey[str]()


install_import_hook("stedyn", "shapes.shapes")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Set up JAX; with ``-m slow`` or ``-m ''`` all programs are those of a user."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    quick = config.option.markexpr == "not slow"
    if quick and CACHE not in os.environ:  # workers and processes of tests inherit it
        config.stash[FOLDER] = os.environ[CACHE] = tempfile.mkdtemp(prefix="stedyn-tests-")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
        os.environ["EQX_ON_ERROR"] = "nan"  # a program that calls back into Python cannot be kept
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # loading a kept program logs features of the machine

    import jax
    from hypothesis import settings

    jax.config.update("jax_enable_x64", True)
    settings.register_profile("stedyn", deadline=None, max_examples=60, derandomize=True)
    settings.load_profile("stedyn")
    if quick:
        compile_quickly()


@pytest.fixture(autouse=True)
def no_promotion(request):
    import jax

    strict = jax.numpy_dtype_promotion("strict")
    with strict if request.path.stem in STRICT else contextlib.nullcontext():
        yield


def known(option):
    """Whether this version of XLA has an option."""
    import jax

    try:
        jax.jit(lambda x: x + 1, compiler_options=dict([option]))(0.0)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def compile_quickly():
    from jax._src import compiler

    more_options = [NO_EMITTERS] if known(NO_EMITTERS) else []
    compile_or_load = compiler.compile_or_get_cached

    def quickly(backend, computation, devices, options, *more, **named):
        level = int(computation.operation.attributes["sym_name"].value in OPTIMIZED)
        options.env_option_overrides += [("xla_backend_optimization_level", level), *more_options]
        return compile_or_load(backend, computation, devices, options, *more, **named)

    compiler.compile_or_get_cached = quickly


def pytest_unconfigure(config):
    if folder := config.stash.get(FOLDER, None):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark what is dear as slow; a line that names nothing any more is an error where all of its file was collected."""
    ids = {item.nodeid: item for item in items}
    whole = {
        file
        for file, *rest in (arg.partition("::") for arg in ids)
        if not any("::" in arg for arg in config.args)
    }
    for name in DEAR:
        if name in ids:
            ids[name].add_marker(pytest.mark.slow)
        elif name.partition("::")[0] in whole:
            raise pytest.UsageError(f"tests/dear.txt names {name}, which there is not; remove the line")
