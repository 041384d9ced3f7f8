"""What the environment tells JAX: it works, or one line says why it does not."""

import os
import subprocess
import sys

import pytest


CASES = {
    "JAX_PLATFORMS=cuda": "JAX_PLATFORMS: 'cuda'",
    "JAX_PLATFORMS=nonsense": "JAX_PLATFORMS: 'nonsense'",
    "JAX_ENABLE_X64=maybe": "JAX_ENABLE_X64",
    "JAX_DISABLE_JIT=1": "JAX_DISABLE_JIT",
}


def run(*command, **variables):
    environment = {**os.environ, **variables}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("case", CASES)
def test_what_jax_cannot_do_here_is_said_in_one_line(case):
    name, value = case.split("=")
    done = run("-m", "asmpg", "optimal", "harvest", "--horizon", "4", **{name: value})
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("asmpg: ")
    assert CASES[case] in done.stderr


def test_what_computes_nothing_needs_no_device():
    done = run("-m", "asmpg", "list", JAX_PLATFORMS="cuda")
    assert (done.returncode, done.stderr) == (0, "")
    done = run("-m", "asmpg", "sweep", "pendulum", "--dry-run", JAX_PLATFORMS="cuda")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_optimum_is_found_without_jit():
    code = """
import asmpg
env = asmpg.from_ode(lambda x, u, t: u, lambda x, u, t: x[0] ** 2, initial_state=1.0, duration=1.0, horizon=2,
                     control_bounds=(-1, 1))
print(asmpg.optimal(env, num_starts=1).episode_return, float(asmpg.rollout(env, [[-1], [0]]).rewards.sum()))
"""
    done = run("-c", code, JAX_DISABLE_JIT="1")
    assert done.stderr == ""
    # 1 before the first step and 1/2 after it, for half a second each.
    assert [round(float(word), 6) for word in done.stdout.split()] == [-0.625, -0.625]
