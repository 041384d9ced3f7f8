"""Names as types, so that an editor completes them. A test compares them with the tables that they are of."""

from typing import Literal


# fmt: off
TaskName = Literal[
    "cancer_treatment", "bioreactor", "mould_fungicide", "bacteria", "harvest", "invasive_plant",
    "hiv_treatment", "timber_harvest", "credit_assignment", "one_bounce", "double_pendulum",
]
ModelName = Literal[
    "rnn", "lstm", "gru", "min_gru", "transformer", "lru", "s5", "gated_delta", "simple_rnn",
    "attention", "history-rnn", "history-lstm", "history-gru", "history-min_gru",
    "history-transformer", "history-lru", "history-s5", "history-gated_delta", "history-simple_rnn",
    "history-attention", "actions-rnn", "actions-lstm", "actions-gru", "actions-min_gru",
    "actions-transformer", "actions-lru", "actions-s5", "actions-gated_delta", "actions-simple_rnn",
    "actions-attention", "actions", "one-step", "simulator", "sac", "odt", "auto",
]
