"""A digest tells a task from one that computes something else, wherever the difference stands, and knows it again."""

import importlib.util
import sys

import numpy as np
import pytest

import asmpg
from asmpg.core.digest import digest
from asmpg.training.stored_config import _digest_of
from wanderer import Wanderer


TASK = """
import collections, dataclasses, fractions, functools, operator, types
import equinox as eqx, jax, jax.numpy as jnp, numpy as np
import asmpg
{before}

class Task(asmpg.AbstractEnvironment):
    horizon: int = 5
    name: str = "task"
    {field}
    state_size = property(lambda self: 1)
    action_size = property(lambda self: 1)

    def initial_state(self, *, key=None):
        return jnp.zeros(1)

    def transition(self, s, a, step):
        return {move}

    def reward(self, s, a, step):
        return s[0]

task = Task({given})
"""
# Where a factor of 1 or 2 may stand: before the class, in its body, in a step, in an argument.
BEFORE = {
    "a constant": ("G = @", "s * G"),
    "a private constant": ("_G = @", "s * _G"),
    "an array": ("G = np.full(2, @)", "s * G[0]"),
    "within a lambda": ("G = @", "(lambda x: x * G)(s)"),
    "a default argument": ("def f(s, g=@): return s * g", "f(s)"),
    "a default array": ("def f(s, *, g=np.full(1, @)): return s * g", "f(s)"),
    "jax.jit": ("f = jax.jit(lambda s: s * @)", "f(s)"),
    "jax.jit of a closure": ("def make(g): return jax.jit(lambda s: s * g)\nf = make(@)", "f(s)"),
    "eqx.filter_jit": ("f = eqx.filter_jit(lambda s: s * @)", "f(s)"),
    "jax.vmap": ("f = jax.vmap(lambda s: s * @)", "f(s)"),
    "a derivative": (
        "@jax.custom_jvp\ndef f(s): return s\nf.defjvp(lambda p, t: (p[0], @ * t[0]))".replace(
            "@jax", "%jax"
        ),
        "f(s)",
    ),
    "functools.partial": ("f = functools.partial(lambda g, s: s * g, @)", "f(s)"),
    "functools.lru_cache": ("%functools.lru_cache\ndef f(): return @", "s * f()"),
    "an object": ("class F:\n    def __init__(self, g): self.g = g\nf = F(@)", "s * f.g"),
    "an object with slots": (
        "class F:\n    __slots__ = ('g',)\n    def __init__(self, g): self.g = g\nf = F(@)",
        "s * f.g",
    ),
    "an attribute beside the fields": ("%dataclasses.dataclass\nclass F: pass\nf = F()\nf.g = @", "s * f.g"),
    "a namespace": ("f = types.SimpleNamespace(g=@)", "s * f.g"),
    "a base class": ("class Base(eqx.Module):\n    g = @\nf = Base()", "s * f.g"),
    "a neighbour's constant": ("import neighbour", "s * neighbour.G"),
    "a neighbour's function": ("import neighbour", "neighbour.f(s)"),
    "a neighbour's class": ("import neighbour", "s * neighbour.C.G"),
    "a neighbour's name": ("from neighbour import f", "f(s)"),
}
FIELDS = {
    "a class constant": ("G = @", "s * self.G"),
    "a private class constant": ("_G = (@,)", "s * self._G[0]"),
    "a property": ("_g = property(lambda self: @)", "s * self._g"),
    "a static method": ("_f = staticmethod(functools.partial(pow, @))", "s * self._f(2.0)"),
}
VALUES = {
    "a number": "@",
    "an array": "np.full(2, @)",
    "an array of JAX's": "jnp.full(2, @)",
    "its order": "[@, 3.0 - @]",
    "its nesting": "[[@], [3.0 - @]]",
    "which of two is twice there": "(lambda a, b: [a, b, a if @ == 1 else b])([0.0], [0.5])",
    "a dictionary": "{'a': @, 'b': 3.0 - @}",
    "a function": "lambda s: s * @",
    "a closure": "(lambda g: lambda s: s * g)(@)",
    "jax.tree_util.Partial": "jax.tree_util.Partial(jnp.multiply, @)",
    "a deque": "collections.deque([@])",
    "a fraction": "fractions.Fraction(1, int(@))",
    "a range": "range(int(@))",
    "a slice": "slice(int(@))",
    "a getter": "operator.itemgetter(int(@))",
    "a mapping": "types.MappingProxyType({'a': @})",
    "a polynomial": "np.poly1d([1.0, @])",
}
CASES = {
    **{name: {"before": before, "move": move} for name, (before, move) in BEFORE.items()},
    **{f"{name} ": {"field": field, "move": move} for name, (field, move) in FIELDS.items()},
    **{
        f"field: {name}": {"field": "p: object = None", "given": f"p={value}"}
        for name, value in VALUES.items()
    },
}
NEIGHBOUR = "G = @\ndef f(s): return s * G\nclass C:\n    G = @"


def fill(text, number):
    return text.replace("@", number).replace("%", "@")


@pytest.mark.parametrize("case", CASES)
def test_wherever_a_number_stands(case, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)

    def digest_with(number):
        (tmp_path / "neighbour.py").write_text(fill(NEIGHBOUR, number))
        path = tmp_path / f"task{number}.py"
        parts = {"before": "", "field": "", "move": "s", "given": "", **CASES[case]}
        path.write_text(TASK.format(**{name: fill(text, number) for name, text in parts.items()}))
        sys.modules.pop("neighbour", None)
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        spec = importlib.util.spec_from_file_location("own", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "own", module)
        spec.loader.exec_module(module)
        sys.dont_write_bytecode = before
        return digest(module.task)

    assert digest_with("1.0") == digest_with("1.0") != digest_with("2.0")
    sys.modules.pop("neighbour", None)


class Tank(asmpg.HostEnvironment):
    """A simulator with arguments, constants and a state."""

    horizon, observation_size, action_size = 4, 1, 1
    leak = 0.5

    def __init__(self, gain=1.0, shape=lambda u: u, table=(0.0,), handle=None):
        self.gain, self.shape, self.handle = gain, shape, handle
        self.table = np.asarray(table, np.float64)
        self.calls = 0

    def reset(self, seeds):
        self.level = np.zeros((len(seeds), 1))
        self.table[0] += 1
        return self.level

    def step(self, actions):
        self.calls += 1
        self.level = (1 - self.leak) * self.level + self.gain * actions
        return self.level, -(self.level[:, 0] ** 2), np.zeros(len(actions), bool)


def test_a_class_that_was_made_without_a_class_statement_is_known_by_its_methods():
    """It bears the module of Equinox's metaclass, and was taken for a class of Equinox."""

    def made(gain):
        body = {
            "__annotations__": {},
            "state_size": property(lambda self: 1),
            "action_size": property(lambda self: 1),
            "horizon": 5,
            "name": "made",
            "initial_state": lambda self, *, key=None: np.zeros(1),
            "transition": lambda self, s, a, step: gain * s + a,
            "reward": lambda self, s, a, step: s[0],
        }
        return type("Made", (asmpg.AbstractEnvironment,), body)()

    assert not made(1.0).__class__.__module__.startswith(("test", "__main__"))
    assert digest(made(1.0)) == digest(made(1.0)) != digest(made(2.0))
    assert digest(asmpg.make("harvest", 5)) == digest(asmpg.make("harvest", 5))


def test_a_simulator_outside_jax_is_known_by_what_it_was_made_from_and_not_by_its_state():
    before, tank = _digest_of(Tank()), Tank()
    tank.reset([1, 2])
    tank.step(np.zeros((2, 1)))
    assert _digest_of(tank) == before
    assert _digest_of(Tank(handle=object())) == _digest_of(Tank(handle=object()))
    others = [
        Tank(2.0),
        Tank(gain=3.0),
        Tank(shape=lambda u: 2 * u),
        Tank(table=[1.0]),
        Tank(table=np.ones(2)),
    ]
    tank.gain = 4.0
    assert len({before, *map(_digest_of, [*others, tank])}) == 7


def test_a_run_of_a_simulator_is_not_taken_for_that_of_another_parameter(tmp_path):
    config = {"model": Wanderer, "steps": 8, "out": tmp_path / "run", "overrides": {"warmup_steps": 4}}
    asmpg.train(asmpg.TrainConfig(Tank(), **config))
    with pytest.raises(asmpg.UsageError, match="code or a parameter of the task"):
        asmpg.train(asmpg.TrainConfig(Tank(2.0), **config))
    with pytest.raises(asmpg.UsageError, match="its code or a parameter has changed"):
        asmpg.resume(tmp_path / "run", steps=12, task=Tank(2.0), model=Wanderer)
    assert asmpg.resume(tmp_path / "run", steps=12, task=Tank(), model=Wanderer).steps >= 12
