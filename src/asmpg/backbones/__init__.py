"""Sequence architectures. A new one is one class and one line in `BACKBONES`."""

from .attention import Transformer as Transformer
from .base import AbstractBackbone as AbstractBackbone
from .base import scan_step as scan_step
from .equations import SelfAttention as SelfAttention
from .equations import SimpleRNN as SimpleRNN
from .recurrent import LSTM as LSTM
from .recurrent import RNN as RNN


BACKBONES: dict[str, type[AbstractBackbone]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "transformer": Transformer,
    "simple_rnn": SimpleRNN,
    "attention": SelfAttention,
}
