"""Search for settings with Optuna, and stop the trials that are behind. Needs `pip install optuna`."""

import optuna

import asmpg


class Prune(asmpg.Callback):
    """Tells Optuna the score of every record, and stops the run where that says so."""

    def __init__(self, trial):
        self.trial = trial

    def on_record(self, record, result):
        self.trial.report(float(record["score"].mean()), step=int(record["steps"][0]))
        return self.trial.should_prune()


def main(num_trials=20, steps=3_000, horizon=50):
    def objective(trial):
        overrides = {
            "policy_learning_rate": trial.suggest_float("policy_learning_rate", 1e-4, 1e-2, log=True),
            "entropy": trial.suggest_float("entropy", 1e-3, 1e-1, log=True),
        }
        fields = {"horizon": horizon, "model": "one-step", "steps": steps, "overrides": overrides}
        result = asmpg.train("harvest", callbacks=[Prune(trial)], **fields)
        if not result.finished:
            raise optuna.TrialPruned
        return float(result.metrics["score"][-1].mean())

    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=steps // 3)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner
    )
    study.optimize(objective, n_trials=num_trials)
    print(f"best {study.best_value:.3f} with {study.best_params}")
    return study


if __name__ == "__main__":
    main()
