"""The preset `paper` on a CPU: `asmpg sweep benchmarks/paper_cpu.py --out sweeps/paper-cpu --workers 1`, resumable.

Three tasks, three seeds, entropy weight 0.01, 30,000 steps instead of the paper's 200,000; the one-step model in both
units and, in the paper's own, the whole 200,000 too. What is cheapest comes first. About 18 hours of one idle core.
"""

TASKS = ["harvest", "hiv_treatment", "timber_harvest"]


def suite(scale: str) -> dict:
    """The grids, in the order in which they are run; `scale` changes nothing."""
    common = {"preset": "paper", "seeds": 3, "steps": 30_000, "chunk_steps": 1_000}

    def grid(model: str, horizons: list[int], tasks: list[str] | None = None, **more: object) -> dict:
        return {**common, "tasks": tasks or TASKS, "models": [model], "horizons": horizons, **more}

    def unit(*names: str) -> dict:
        return {"difference_unit": list(names)}

    return {
        "name": "paper_cpu",
        "grid": [
            grid("one-step", [20, 100], settings=unit("state", "typical")),
            grid("sac", [20, 100]),
            grid("rnn", [20, 100]),
            grid("lstm", [20, 100]),
            grid("one-step", [500], settings=unit("state", "typical")),
            grid("one-step", [100], ["timber_harvest", "harvest"], steps=200_000, settings=unit("state")),
            grid("rnn", [500]),
            grid("one-step", [500], ["timber_harvest", "harvest"], steps=200_000, settings=unit("state")),
            grid("history-lstm", [20, 100]),
            grid("transformer", [20, 100]),
        ],
    }
