"""A hash of what an object of the user's own computes: its numbers, its fields, and the source of its code.

Two objects of the same digest do the same. It is compared where a run goes on, so that a task whose parameter has
changed is not taken for the one that the run was started with.
"""

import dataclasses
import dis
import functools
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from types import CodeType, FunctionType, MappingProxyType, MethodType, ModuleType
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


_PLAIN = type(None) | bool | int | float | complex | str | bytes
_COMPILED = (type(jax.jit(lambda: 0)), functools._lru_cache_wrapper)
# Attributes of a class that say nothing about what it computes.
_NOT_CODE = {"_abc_impl", "_is_protocol", "_is_runtime_protocol"}


def digest(thing: object) -> str:
    """The hash, equal in every process that defines the same.

    Args:
        thing: an environment, a model, a class, a function, or anything made of these.
    """
    state = hashlib.sha256()
    _feed(state, thing, {})
    return state.hexdigest()


def settled(thing: object) -> Any:
    """What of a thing stays as it is while a program runs: numbers, texts, arrays, code, and containers of them.

    Of anything else, such as an open file or a simulator, the class.
    """
    if isinstance(thing, list | tuple | set | frozenset) and type(thing).__module__ == "builtins":
        return [
            settled(part)
            for part in (thing if isinstance(thing, list | tuple) else sorted(thing, key=_order))
        ]
    if isinstance(thing, dict):
        return {
            settled(key) if isinstance(key, _PLAIN) else digest(key): settled(thing[key]) for key in thing
        }
    arrays = np.ndarray | np.generic | jax.Array
    code = FunctionType | MethodType | functools.partial | type
    frozen = getattr(getattr(thing, "__dataclass_params__", None), "frozen", False)
    return thing if isinstance(thing, _PLAIN | arrays | code) or frozen else type(thing)


def constants_of(thing: object) -> dict[str, Any]:
    """The attributes of an object that no method but its constructor assigns, and that cannot change otherwise."""
    functions = [
        value
        for kind in type(thing).__mro__
        for name, value in vars(kind).items()
        if isinstance(value, FunctionType) and name not in ("__init__", "__new__")
    ]
    codes = [code for function in functions for code in _codes(function.__code__)]
    assigned = {
        instruction.argval
        for code in codes
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_ATTR"
    }
    known = {name: value for name, value in vars(thing).items() if name not in assigned}
    return {name: value for name, value in known.items() if isinstance(value, _PLAIN)}


def _feed(state: PyTree, thing: Any, seen: dict[int, Any]) -> None:
    if isinstance(thing, np.integer):
        thing = int(thing)
    if isinstance(thing, _PLAIN):
        return state.update(f"{type(thing).__name__} {thing!r};".encode())
    if isinstance(thing, jax.Array) and jnp.issubdtype(thing.dtype, jax.dtypes.prng_key):
        thing = jax.random.key_data(thing)
    if isinstance(thing, np.ndarray | np.generic | jax.Array):
        return _feed_array(state, np.asarray(thing))
    if id(thing) in seen:
        return state.update(f"seen {seen[id(thing)][0]};".encode())
    seen[id(thing)] = len(seen), thing  # kept, so that no other object gets its id
    state.update(type(thing).__name__.encode())
    for part in _parts(thing):
        _feed(state, part, seen)
    return state.update(b".")


def _feed_array(state: PyTree, array: np.ndarray) -> None:
    """In single precision, so that it makes no difference in which a task was built."""
    if np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
    state.update(f"array {array.dtype.kind} {array.shape};".encode() + np.ascontiguousarray(array).tobytes())


def _parts(thing: Any) -> Iterable[Any]:
    """What an object consists of, in an order that does not depend on the process."""
    if type(thing) in (dict, MappingProxyType):
        return [part for key in sorted(thing, key=_order) for part in (key, thing[key])]
    if type(thing) in (set, frozenset):
        return sorted(thing, key=_order)
    if type(thing) in (list, tuple):
        return thing
    if isinstance(thing, ModuleType):
        return [thing.__name__]
    if isinstance(thing, functools.partial):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, staticmethod | classmethod):
        return [thing.__func__]
    if isinstance(thing, property):
        return [thing.fget]
    if isinstance(thing, functools.cached_property):
        return [thing.func]
    if isinstance(thing, FunctionType):
        return _parts_of_function(thing)
    if isinstance(thing, type):
        return _parts_of_class(thing)
    if isinstance(thing, _COMPILED):  # besides the function, what it remembers
        return [cast(Any, thing).__wrapped__]
    return [type(thing), *_state_of(thing)]


def _order(key: object) -> str:
    return repr(key) if isinstance(key, _PLAIN) else digest(key)


def _state_of(thing: object) -> list[Any]:
    """What tells an object from another of its class: its attributes, and what a copy of it would be made of."""
    attributes = dict(getattr(thing, "__dict__", {}))
    if dataclasses.is_dataclass(thing):
        attributes |= {field.name: getattr(thing, field.name, None) for field in dataclasses.fields(thing)}
    kind = type(thing)
    # What is only remembered says nothing, and may not be there yet.
    known = {
        name: value
        for name, value in attributes.items()
        if not isinstance(getattr(kind, name, None), functools.cached_property)
    }
    if dataclasses.is_dataclass(thing):
        return [known]
    try:
        made, given, *rest = thing.__reduce_ex__(2)
    except Exception:  # what cannot be copied, such as a lock, or is a name, such as a builtin function
        return [known, getattr(thing, "__qualname__", None)]
    # The second of the rest is its attributes, as above, or those and its slots.
    state, *items = [*rest, None, None, None][:3]
    slots = state[1] if isinstance(state, tuple) and len(state) == 2 else None
    own_state = (
        state if not isinstance(state, dict | tuple) or (type(state) is tuple and slots is None) else slots
    )
    return [known, getattr(made, "__qualname__", None), given, own_state, *map(list, filter(None, items))]


def _parts_of_function(function: FunctionType) -> list[Any]:
    """Its name, what it encloses and, unless it belongs to an installed package, its code and what that refers to."""
    enclosed = []
    for cell in function.__closure__ or ():
        try:
            enclosed.append(cell.cell_contents)
        except ValueError:  # a name that is not bound yet
            enclosed.append(None)
    parts: list[Any] = [function.__qualname__, function.__defaults__, function.__kwdefaults__, enclosed]
    if is_installed(function.__module__):
        return parts
    names = {name for code in _codes(function.__code__) for name in code.co_names}
    known = {name: function.__globals__[name] for name in names if name in function.__globals__}
    return [*parts, _source(function), {name: _used(value, names) for name, value in known.items()}]


def _used(thing: object, names: set[str]) -> Any:
    """A global name's value; of a module of the user's own, what some names stand for in it."""
    if not isinstance(thing, ModuleType) or is_installed(thing.__name__):
        return thing
    inner = {name: vars(thing)[name] for name in names if name in vars(thing)}
    return [thing.__name__, {name: _used(value, names - {name}) for name, value in inner.items()}]


def _codes(code: CodeType) -> list[CodeType]:
    """A function's code and that of the functions defined in it."""
    return [code, *(inner for one in code.co_consts if isinstance(one, CodeType) for inner in _codes(one))]


def _source(function: FunctionType) -> Any:
    """The text of a function, or its compiled form where there is none, as at a prompt."""
    try:
        # What a dataclass writes for itself is in no file, whatever another library may keep under that name.
        if function.__code__.co_filename != "<string>":
            return inspect.getsource(function)
    except (OSError, TypeError):
        pass
    codes = _codes(function.__code__)
    constants = [one for code in codes for one in code.co_consts if isinstance(one, _PLAIN)]
    return [code.co_code for code in codes], constants


def _parts_of_class(kind: type) -> list[Any]:
    # One made by `type(...)` may bear the module of its metaclass.
    if is_installed(kind.__module__) and all(is_installed(name) for name in _modules_of_methods(kind)):
        return [f"{kind.__module__}.{kind.__qualname__}"]
    own = {
        name: value
        for name, value in vars(kind).items()
        if name not in _NOT_CODE and (not name.startswith("__") or isinstance(value, FunctionType))
    }
    return [kind.__qualname__, [base for base in kind.__bases__ if base is not object], own]


def _modules_of_methods(kind: type) -> set[str]:
    """The modules in which the functions of a class's body were written."""
    held = [
        getattr(value, name, None)
        for value in vars(kind).values()
        for name in ("fget", "func", "method", "__func__")
    ]
    functions = [value for value in (*vars(kind).values(), *held) if isinstance(value, FunctionType)]
    return {function.__module__ for function in functions}


@functools.cache
def is_installed(module: str | None) -> bool:
    """Whether a module is Python's own, this package's or an installed one, rather than the user's."""
    root = (module or "").partition(".")[0]
    if root in ("asmpg", "builtins") or (root in sys.stdlib_module_names and root != "__main__"):
        return True
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError, AttributeError):  # run from a file or a prompt
        return False
    return spec is not None and any(part in str(spec.origin) for part in ("site-packages", "dist-packages"))
