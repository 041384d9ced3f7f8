"""A run folder: trained for a while, extended, and read back for its networks and its records."""

import pathlib
import tempfile

import asmpg


def main(steps: int = 1500, more_steps: int = 2500, folder: str | None = None):
    out = pathlib.Path(folder or tempfile.mkdtemp()) / "harvest"
    config = asmpg.TrainConfig(
        "harvest", horizon=25, model="one-step", steps=steps, num_seeds=2, out=str(out)
    )
    asmpg.train(config, progress=True)

    # Goes on exactly as if it had been meant to be this long all along.
    asmpg.resume(out, steps=more_steps, progress=True)

    run = asmpg.load(out)
    print("score of every seed after", run.steps, "steps:", run.scores)
    print("best mean score:", run.metrics["score"].mean(axis=1).max())

    episodes = [run.rollout(seed=seed) for seed in run.seeds]
    print("harvest effort of the first seed over time:", episodes[0].actions[::5, 0])
    print("returns:", [float(episode.episode_return) for episode in episodes])
    return run


if __name__ == "__main__":
    main()
