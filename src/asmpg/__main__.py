"""`asmpg`, which `python -m asmpg` is too."""

import contextlib
import gc
import os
import signal
import sys


def main() -> int:
    """Runs one command, see `asmpg.cli.main`.

    Importing and tracing make a great many objects and hardly any garbage: without the collector a run begins most of a
    second earlier. Commands that train turn it on again with their first record, all others before they begin.
    """
    gc.disable()
    # An import that is interrupted may fail in a hundred ways; there is nothing to clean up yet.
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)
    try:
        from .cli import main
    except ValueError as error:  # an environment variable of JAX's, which it reads when it is imported
        if not any(name.startswith("JAX_") and name in str(error) for name in os.environ):
            raise
        with contextlib.suppress(OSError):
            os.write(2, f"asmpg: {error}\n".encode())
        return 2

    signal.signal(signal.SIGINT, usual)
    return main()


def _leave(*_: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, b"asmpg: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
