"""One line of advice from the numbers of a diagnosis, by the questions of docs/when.md in their order."""

from typing import Any

from .finding import is_finite


# Below: a direction that a gradient step should not be taken in.
LEAST_COSINE = 0.5
# Growth of the mean true gradient, from the shortest to the longest horizon or within the longest episode, from which
# on the motion counts as chaotic. A smooth task of a fixed duration has no larger gradient at a longer horizon; the
# double pendulum's is 16 times as large at 100 steps as at 20 with these samples.
CHAOS_BETWEEN, CHAOS_WITHIN = 10.0, 1e4


def advice(content: dict[str, Any]) -> str:
    """What to try, in one sentence.

    Args:
        content: of `diagnose.json`.
    """
    longest, cosine = content["horizons"][-1], content["cosine"][-1]
    if not content["truth_known"]:
        return "Without the task's derivatives only the model speaks: compare its reach with that of --model one-step."
    if not is_finite(content, longest, "the truth", ""):
        return "The task's own derivatives are not finite: mend the task before any model of it."
    model, why = suited(content)
    if content["trained"] and cosine is not None and cosine < LEAST_COSINE:
        other = f"or take --model {model} ({why})" if model != content["model"] else "with other seeds"
        return f"This model's policy gradient points elsewhere (cosine {cosine:.2f}): train on more episodes, {other}."
    if model == content["model"]:
        return f"{why[:1].upper()}{why[1:]}: --model {model} is the one to begin with."
    return f"Begin with --model {model}: {why}."


def suited(content: dict[str, Any]) -> tuple[str, str]:
    """The model to begin with, and what in the truth's numbers speaks for it."""
    longest = content["horizons"][-1]
    norms = [norm or 0.0 for norm in content["true_gradient_norm"]["mean"]]
    growth = content["true_growth"]
    within = growth["eta"] ** (longest - 1) if growth["law"] == "exponential" else 1.0
    # What dies away within an episode may grow from one horizon to another: at the shorter one, steps take longer.
    between = norms[-1] / norms[0] if norms[0] and within >= 1.0 else 0.0
    if between > CHAOS_BETWEEN or within > CHAOS_WITHIN:
        return "transformer", (
            f"the true gradient grows {max(between, within):.2g} times, as in chaos, and a chain's grows with it; look "
            "at the model's loss before you trust it"
        )
    if content["true_reach"][-1] is None and norms[-1] > 0.0:
        return "transformer", "later actions do not reach the last state, so that one early action decides"
    return "one-step", (
        "the motion is smooth and the state observed whole; with contacts, an action-sequence model instead"
    )
