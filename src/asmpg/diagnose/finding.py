"""The measurements of a diagnosis in plain words. What is not finite is named before anything is concluded."""

from typing import Any

from .figure import rate_text


def finding(content: dict[str, Any]) -> str:
    """The measurements in plain words.

    Args:
        content: of `diagnose.json`.
    """
    longest = content["horizons"][-1]
    kind = "trained" if content["trained"] else "untrained"
    growth, truth = _growth_words(content["growth"]), _growth_words(content["true_growth"])
    sentences = [
        *_nonfinite_words(content),
        f"This {kind} model ({content['model']}) of {content['task']}: {_reach_words(content, longest)}.",
        f"Within an episode, {growth}{f'; in truth {truth}' if content['truth_known'] else ''}.",
        *_direction_words(content, longest),
    ]
    return " ".join(sentences)


def _nonfinite_words(content: dict[str, Any]) -> list[str]:
    """How many numbers of which kind are not finite, where, and that nothing follows from them."""
    parts = content["nonfinite_parts"]
    if not parts:
        return []
    named = "; ".join(
        f"{part['count']} of {part['of']} {part['what']} at H = {part['horizon']}" for part in parts
    )
    where = f" ({content['nonfinite']})" if content["nonfinite"] else ""
    return [f"Not finite: {named}{where}. What follows from these is not told below."]


def is_finite(content: dict[str, Any], horizon: int, through: str, about: str) -> bool:
    """Whether everything of a kind is finite at a horizon.

    Args:
        content: of `diagnose.json`.
        horizon: which.
        through: "the model", "the truth" or "the model before training".
        about: the beginning of what it is called.
    """
    return not any(
        part["horizon"] == horizon and part["what"].startswith(about) and part["what"].endswith(through)
        for part in content["nonfinite_parts"]
    )


def _reach_words(content: dict[str, Any], longest: int) -> str:
    reach, before = content["reach"][-1], content["reach_before"]
    if reach is None and not is_finite(content, longest, "the model", "|"):
        return f"its gradients at H = {longest} are not finite, so how far they reach cannot be told"
    if reach is None:
        return (
            f"the last action has no effect on the last state, so its reach at H = {longest} cannot be told"
        )
    words = f"it carries {reach:.2g} of the gradient from step {longest} to step 0"
    if before is not None and before[-1] is not None:
        words += f" (before training {before[-1]:.2g})"
    truth = content["true_reach"][-1]
    if not content["truth_known"]:
        return words
    if truth is not None:
        return f"{words}, where the truth carries {truth:.2g}"
    unknown = "; the true gradients are not finite"
    return words if is_finite(content, longest, "the truth", "|") else words + unknown


def _direction_words(content: dict[str, Any], longest: int) -> list[str]:
    """Where the policy gradient points; none of a trained model at another horizon than its own."""
    cosine = content["cosine"][-1]
    if cosine is not None:
        return [f"Its policy gradient's cosine to the truth is {cosine:.2f} at H = {longest}."]
    if not content["truth_known"]:
        return ["What it is of has no derivatives to compare its direction with."]
    whose = {"its own": "policy_gradient_norm", "the true one": "true_policy_gradient_norm"}
    through = {"its own": "the model", "the true one": "the truth"}
    bad = [name for name in whose if not is_finite(content, longest, through[name], "policy")]
    zero = [name for name, key in whose.items() if content[key][-1] == 0.0]
    if not bad and not zero:
        return []
    reasons = [f"{name} is {what}" for what, names in (("not finite", bad), ("zero", zero)) for name in names]
    return [f"Its policy gradient has no direction to compare: {' and '.join(reasons)}."]


def _growth_words(growth: dict[str, Any]) -> str:
    """What happens to the first action's gradient as the state it reaches gets later."""
    if growth["law"] is None:
        return f"no growth law can be fitted ({growth['reason']})"
    eta, p = rate_text(growth["eta"]), growth["p"]
    return {
        "exponential": f"the growth is exponential, eta = {eta} a step",
        "power": f"the growth is a power of the step, of degree {p:.2g}",
        "constant": "the gradient neither grows nor fades",
        "undecided": f"no law fits clearly better than the other (eta = {eta} a step, or degree {p:.2g})",
    }[growth["law"]]
