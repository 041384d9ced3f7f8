"""The transformer with rotary positions, as a backbone that `--model benchmarks/rotary.py:rotary_transformer` names."""

from typing import Any

from asmpg.models.backbones import Transformer


def rotary_transformer(input_size: int, horizon: int, *, dropout: float = 0.0, key: Any) -> Transformer:
    """Queries and keys turned by their position, nothing learned about positions."""
    return Transformer.create(input_size, horizon, dropout=dropout, positions="rotary", key=key)
