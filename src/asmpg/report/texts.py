"""What each figure of the paper shows and claims, in our words."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Text:
    """About one figure.

    Attributes:
        title: what it shows.
        claim: what the paper says about it.
    """

    title: str
    claim: str


TEXTS = {
    "2": Text(
        "Accuracy of policy gradients against the horizon",
        "On the toy task, where one early action is rewarded at the very end, gradients through action- "
        "sequence models with good architectures keep pointing along the true one up to 500 steps. A Markov "
        "model loses the direction somewhere past 100.",
    ),
    "3": Text(
        "A contact",
        "A block bounces off a wall once. Its path has a kink but its resting place depends smoothly on the "
        "push: a model from actions to states learns that, while a one-step model, unrolled through the "
        "kink, does not.",
    ),
    "4": Text(
        "Optimising a chaotic system",
        "On the double pendulum, a policy trained through an action-sequence model ends better than one "
        "trained through the differentiable simulator itself, the more so the longer the episode.",
    ),
    "5": Text(
        "Gradients and landscapes of a chaotic system",
        "The gradient of the double pendulum's last state explodes with the episode's length, and so does "
        "that of a one-step model; through a transformer it stays flat, and the landscape of returns it "
        "sees is smooth.",
    ),
    "6": Text(
        "Sample efficiency on Myriad",
        "Action-sequence models with an LSTM or a transformer learn from fewer environment steps than soft "
        "actor-critic; differentiating through a one-step model does not.",
    ),
    "7": Text(
        "Credit assignment against the horizon on Myriad",
        "With an LSTM or a transformer, final performance holds up to 500 steps; with a plain RNN or a one- "
        "step model it falls past 100. Models that are also fed the states do worse than those fed actions "
        "alone.",
    ),
    "8": Text(
        "A learned reward",
        "On the toy task, learning the reward function along with the dynamics costs nothing noticeable.",
    ),
    "9": Text(
        "What a trained transformer attends to",
        "Trained online on the toy task, the transformer attends straight to the first action, the one that "
        "every later state depends on.",
    ),
    "10": Text("Learning curves on the double pendulum", "The runs behind Figure 4, one panel a horizon."),
    "11": Text(
        "The online decision transformer on Myriad",
        "Trained from scratch online, a decision transformer does poorly on these tasks, worse than a one- "
        "step model, and worse the longer the episode; action-sequence models beat it on every task.",
    ),
    "12": Text(
        "The online decision transformer by task",
        "The runs behind Figure 11. Asking for more than the optimum can be a catastrophe, as on mould fungicide.",
    ),
    "13": Text(
        "Architectures by task", "The runs behind Figure 7, one panel a task: better backbones hold longer."
    ),
    "14": Text(
        "Histories by task",
        "The runs behind Figure 7, one panel a task: models of actions alone do better than models of whole histories.",
    ),
    "theory": Text(
        "The theory, checked by numbers",
        "Differentiating an unrolled model is backpropagation through a recurrent network; its gradient can "
        "grow exponentially with the horizon, that of attention only like a power of it.",
    ),
}
