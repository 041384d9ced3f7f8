"""A first run with the installed package, on any system: trained, stopped, resumed, exported, and run without asmpg.

Not collected by pytest: `python tests/smoke.py` tries whatever `asmpg` the interpreter has, away from the checkout.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np


def asmpg(*arguments: str, status: int = 0) -> str:
    """The last line of what a command prints."""
    command = [sys.executable, "-m", "asmpg", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return (done.stdout.strip().splitlines() or [""])[-1]


def main() -> None:
    """Every line of it has to work."""
    with tempfile.TemporaryDirectory() as folder:
        run = str(pathlib.Path(folder) / "run")
        assert "harvest" in json.loads(asmpg("list", "--json"))["tasks"]
        trained = json.loads(
            asmpg(
                "train",
                "harvest",
                "--horizon",
                "10",
                "--model",
                "one-step",
                "--steps",
                "700",
                "--out",
                run,
                "--json",
            )
        )
        assert np.isfinite(trained["returns"]).all()
        assert json.loads(asmpg("train", "--resume", run, "--steps", "900", "--json"))["steps"] == 900
        asmpg("export", run)
        policy = dict(np.load(pathlib.Path(run) / "policy.npz", allow_pickle=False))
        assert policy["weight0"].shape[0] == 2
        asmpg("train", "no such task", status=2)
    import asmpg as package

    version = sys.version.split()[0]
    sys.stdout.write(f"asmpg {package.__version__} on Python {version}: {trained['returns'][0]:.4g}\n")


if __name__ == "__main__":
    main()
