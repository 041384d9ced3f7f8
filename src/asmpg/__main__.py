"""`asmpg`, which `python -m asmpg` is too."""

import gc
import sys


def main() -> int:
    """Runs one command, see `asmpg.cli.main`.

    Importing and tracing make a great many objects and hardly any garbage: without the collector a run begins most of a
    second earlier. Commands that train turn it on again with their first record, all others before they begin.
    """
    gc.disable()
    from .cli import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
