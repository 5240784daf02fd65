"""Sweeps that can be interrupted: a search over settings whose whole state lies in one folder.

``python -m dro_lab.run --multirun +sweep=NAME`` (`conf/sweep/NAME.yaml`). Hydra's Optuna sweeper does the talking to
Hydra; what it cannot do, the modules of this package add:

- `config`, `plugin`: the options, and the class that Hydra finds; both import nothing heavy.
- `space`: what is searched, and which settings all trials share.
- `storage`, `ledger`: Optuna's study on disk; which trial is done, running, dead, or to be run again.
- `search`: the loop; `final`: the winner with fresh seeds on the test split; `result`, `figures`: what is written.
- `trial`: the job's side; reports evaluations and hears whether to stop.
- `parent`: the sweep in MLflow.
"""
