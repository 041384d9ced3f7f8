"""Which cases of a test `make test` runs, and which only CI does."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thorough_but(quick: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """The cases, of which all but the quick ones are marked `thorough`. A case of many arguments is a tuple of them."""
    cases = list(cases)
    unknown = [case for case in quick if case not in cases]
    if unknown:
        raise ValueError(f"quick: {unknown} are none of the cases {cases}")
    return [case if case in quick else _marked(case) for case in cases]


def _marked(case: Any) -> Any:
    arguments = case if isinstance(case, tuple) else (case,)
    return pytest.param(*arguments, marks=pytest.mark.thorough)
