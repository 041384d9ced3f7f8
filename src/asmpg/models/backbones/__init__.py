"""Sequence architectures. A new one is one class and one line in `BACKBONES`."""

import functools
import inspect
from collections.abc import Callable

from ...core.checks import check, check_choice, Dropout
from ...core.types import one_line, PRNGKey, UsageError
from .attention import Transformer as Transformer
from .base import AbstractBackbone as AbstractBackbone
from .base import scan_step as scan_step
from .delta import GatedDelta as GatedDelta
from .equations import SelfAttention as SelfAttention
from .equations import SimpleRNN as SimpleRNN
from .gru import GRU as GRU
from .linear_recurrence import MinGRU as MinGRU
from .recurrent import LSTM as LSTM
from .recurrent import RNN as RNN
from .state_space import LRU as LRU
from .state_space import S5 as S5


BACKBONES: dict[str, type[AbstractBackbone]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "min_gru": MinGRU,
    "transformer": Transformer,
    "lru": LRU,
    "s5": S5,
    "gated_delta": GatedDelta,
    "simple_rnn": SimpleRNN,
    "attention": SelfAttention,
}


CreateBackbone = Callable[..., AbstractBackbone]
"""Makes a backbone like `AbstractBackbone.create`: from (input_size, horizon, *, dropout, key); or a class of them."""


def create_backbone(
    backbone: str | AbstractBackbone | CreateBackbone,
    input_size: int,
    horizon: int,
    *,
    dropout: float = 0.0,
    key: PRNGKey,
) -> AbstractBackbone:
    """A backbone at its standard size.

    Args:
        backbone: a name of `BACKBONES`, or what makes one like `AbstractBackbone.create`; an instance stays as it is.
        input_size: number of features of one element.
        horizon: the longest sequence.
        dropout: the dropout rate.
        key: for the initial parameters.

    Raises:
        UsageError: an unknown name, what makes no backbone, or a rate out of [0, 1).
    """
    dropout = check("dropout", dropout, Dropout)
    if isinstance(backbone, AbstractBackbone):
        return backbone
    if isinstance(backbone, str):
        check_choice("backbone", backbone, BACKBONES)
    try:
        made = _maker(backbone)(input_size, horizon, dropout=dropout, key=key)
    except TypeError as error:  # nothing that is called, or not called like this
        raise UsageError(f"backbone: cannot be made: {one_line(error)}") from error
    if not isinstance(made, AbstractBackbone):
        raise UsageError(f"backbone: must be an AbstractBackbone, got a {type(made).__name__}")
    return made


def _maker(backbone: str | CreateBackbone) -> CreateBackbone:
    """The function behind a name or a class."""
    made = BACKBONES[backbone] if isinstance(backbone, str) else backbone
    return made.create if isinstance(made, type) and issubclass(made, AbstractBackbone) else made


def with_sizes(
    backbone: str | AbstractBackbone | CreateBackbone, **sizes: int
) -> str | AbstractBackbone | CreateBackbone:
    """The same, or what makes it with other sizes than its standard.

    Args:
        backbone: as for `create_backbone`.
        **sizes: `width`, `num_layers`; none for the standard.

    Raises:
        UsageError: it has no such size that could be chosen.
    """
    if not sizes:
        return backbone
    create = backbone if isinstance(backbone, AbstractBackbone) else _maker(backbone)
    known = () if isinstance(create, AbstractBackbone) else inspect.signature(create).parameters
    for name in sizes:
        if name not in known:
            label = getattr(create, "__qualname__", type(create).__name__).removesuffix(".create")
            raise UsageError(f"{name}: the backbone {label} has one of its own, which cannot be chosen")
    assert not isinstance(create, AbstractBackbone)
    return functools.partial(create, **sizes)
