"""How many multiplications and additions a function's matrix products take, read from its traced program."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def product_operations(function: Callable[..., Any], *arguments: Any) -> int:
    """Floating-point operations of all matrix products; a loop whose turns are not known counts as one turn."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, shapes = equation.primitive.name, [variable.aval.shape for variable in equation.invars]
        if name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            depth = math.prod(shapes[0][axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        elif name == "multiply":
            total += 2 * math.prod(shapes[0]) * shapes[1][1]
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in equation.params["branches"])
        else:
            turns = equation.params["length"] if name == "scan" else 1
            total += turns * sum(map(_count, _inner(equation.params)))
    return total


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs inside a program's step."""
    for value in parameters.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            if hasattr(part, "jaxpr"):
                yield part.jaxpr
            elif hasattr(part, "eqns"):
                yield part
