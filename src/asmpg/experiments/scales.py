"""What the grids of trained policies have in common at each scale."""

from collections.abc import Mapping
from typing import Any


# Where credit assignment shows most, so that few tasks say much.
CPU_TASKS = ("harvest", "hiv_treatment", "timber_harvest")
SMOKE_TASKS = ("harvest", "timber_harvest")

ACTION_SEQUENCE_MODELS = ("transformer", "lstm", "rnn")
# Appendix E.1 sweeps this weight for every model-based method.
ENTROPIES = {"entropy": [0.1, 0.01, 0.001]}

SMOKE = {"steps": 80, "chunk_steps": 40, "seeds": 2}
SMOKE_SETTINGS = {"warmup_steps": 20, "model_batch_size": 2, "policy_batch_size": 2}
CPU = {"steps": 8_000, "chunk_steps": 250, "seeds": 3}
PAPER = {"steps": 200_000, "chunk_steps": 2_000, "seeds": 10}


def both_presets(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The paper's settings and ours, so that no method loses by old ones."""
    return [{**options, "preset": "paper"}, {**options, "preset": "default"}]
