"""What every test shares: the CPU, caches that live as long as the session, and double precision on request."""

import gc
import os
import tempfile
from importlib import metadata


# Set before JAX is imported, and inherited by the session's workers and by the programs that tests start. Neither the
# user's cache of optima nor a former session's programs are seen; what one process has compiled, the others load.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "PYTEST_XDIST_WORKER" not in os.environ:
    _session = tempfile.TemporaryDirectory(prefix="asmpg-tests-", ignore_cleanup_errors=True)
    os.environ.setdefault("ASMPG_CACHE", f"{_session.name}/asmpg")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{_session.name}/jax")
    # Also the programs of single operations, which every file compiles again: a third of the time of many files.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # Most of the suite's time is spent on compiling small programs that run once: with less optimisation, half of it.
    # A flag that another version does not know would end the process.
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    flags += ["--xla_cpu_parallel_codegen_split_count=1"]
    if metadata.version("jaxlib").startswith("0.10."):
        flags += ["--xla_cpu_use_fusion_emitters=false"]
    os.environ.setdefault("XLA_FLAGS", " ".join(flags))
    # Where a program was written is noted in it for every operation, which takes time and which nobody reads here.
    os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Frees the programs of a file: those of the whole suite take gigabytes, and more mappings than Linux allows."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def x64():
    """Runs the test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def quickly():
    """Compiles quickly rather than well: for tests whose programs are compiled once and run for an instant."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def pytest_configure(config):
    """Warnings are errors, but for those below; a test that is about a warning asks for it."""
    for line in (
        "error",
        "ignore::ResourceWarning",
        # What asmpg says of tasks that are small, short or silly on purpose.
        "ignore::asmpg.tasks.DiscretisationWarning",
        "ignore::asmpg.tasks.optimum.GradientWarning",
        "ignore::asmpg.tasks.optimum.ScoreWarning",
        "ignore::asmpg.tasks.validation.TaskWarning",
        "ignore::asmpg.training.runs.RunWarning",
        # What other packages say of themselves and of each other.
        "ignore:Brax System:UserWarning",
        "ignore:Accessing `ncon` directly:DeprecationWarning",
        "ignore:JAXopt is no longer maintained:DeprecationWarning",
        "ignore:A JAX array is being set as static:UserWarning",
        # Two workers that write the same program at once: it is compiled again.
        "ignore:Error (reading|writing) persistent compilation cache:UserWarning",
        # Tests of locks and of killed processes fork on purpose.
        "ignore:os.fork.. was called:RuntimeWarning",
        "ignore:Do not use the `random` module inside strategies",
    ):
        config.addinivalue_line("filterwarnings", line)
