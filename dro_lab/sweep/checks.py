"""What is refused before a sweep's first trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from dro_lab.build import Built
from dro_lab.checks import choice, whole
from dro_lab.errors import UserError

if TYPE_CHECKING:
    from dro_lab.sweep.search import Search


def options(search: Search) -> None:
    """The sweeper's own options.

    Raises:
        UserError: naming the key.
    """
    for key, value, example in (
        ("study_name", search.study_name, "r3_omega"),
        ("storage", search.storage, "sqlite:///outputs/sweeps/study.db"),
    ):
        if not value or not isinstance(value, str):
            raise UserError(
                f"hydra.sweeper.{key}={value}: a sweep needs one, to be found again after an interruption; give "
                f"hydra.sweeper.{key}={example}"
            )
    choice("hydra.sweeper.direction", search.direction, ("maximize", "minimize"), todo="maximize suits quality")
    for key, number, low, todo in (
        ("n_trials", search.n_trials, 1, "the trials of the whole sweep, over all starts"),
        ("n_jobs", search.n_jobs, 1, "or null for as many as the launcher runs side by side"),
        ("max_failures", search.max_failures, 0, "failed trials of the whole sweep; one more ends it"),
        ("final_seeds", search.final_seeds, 0, "runs of the winner on the test split; 5 is the default"),
    ):
        if number is not None:
            whole(f"hydra.sweeper.{key}", number, low=low, todo=todo)


def evaluation(cfg: DictConfig, *, pruned: bool, direction: str) -> None:
    """No selection on the test split, something to prune by, and no policy kept for being worst.

    Raises:
        UserError: naming the key.
    """
    settings = cfg.evaluation
    if settings.split == "test" or "test" in settings.also:
        key = "split" if settings.split == "test" else "also"
        raise UserError(
            f"evaluation.{key}={settings[key]}: a sweep must not see the test split, or its winner would be chosen on "
            "it; leave evaluation.split=validation. The winner runs on test at the end, with fresh seeds"
        )
    if settings.split != "validation":
        raise UserError(
            f"evaluation.split={settings.split}: a sweep compares its trials on validation. Leave it out; "
            f"objective={cfg.objective}/ood looks at further rows (evaluation.also)"
        )
    if direction == "minimize" and cfg.keep == "best":
        raise UserError(
            f"keep=best with hydra.sweeper.direction=minimize: keep=best saves the policy with the highest "
            f"{cfg.objective}, which is the worst here; leave keep=last"
        )
    if pruned and "/" in cfg.objective and settings.extras != "every":
        raise UserError(
            f"objective={cfg.objective} is measured before and after training only, so no trial can be pruned; set "
            "evaluation.extras=every, or hydra/sweeper/pruner=none"
        )


def test_rows(built: Built, *, final_seeds: int) -> None:
    """Rows for the winner.

    Raises:
        UserError: there are none.
    """
    if final_seeds and not built.task.splits.get("test"):
        raise UserError(
            f"dataset={built.task.name}: has no usable rows in its test split, on which the winner is to run; give "
            "some, or set hydra.sweeper.final_seeds=0 (then no number is reported)"
        )
