"""What every test shares: the CPU, a cache of its own and double precision on request."""

import os

# Before JAX is imported, and inherited by the subprocesses that tests start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Keeps the optima and random returns the tests cache in a folder of this session, not in the user's."""
    if "ASMPG_CACHE" in os.environ:
        yield
        return
    base = tmp_path_factory.getbasetemp()
    # The workers of one session share a folder, so that an optimum is computed once and not once per worker.
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "asmpg-cache"
    os.environ["ASMPG_CACHE"] = str(folder)
    yield
    del os.environ["ASMPG_CACHE"]


@pytest.fixture
def x64():
    """Runs the test in double precision."""
    with jax.enable_x64(True):
        yield
