"""Every public function, given one wrong argument, says so in one line; see `generated_calls.py`."""

import os
import pathlib
import subprocess
import sys


def test_a_wrong_argument_of_any_public_function_is_one_line():
    file = pathlib.Path(__file__).with_name("generated_calls.py")
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    ended = subprocess.run(
        [sys.executable, str(file), "12"], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
