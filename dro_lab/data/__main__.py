"""``python -m dro_lab.data dataset=NAME [dataset.source=PATH ...] [model=NAME] [--json]``: look at data, train nothing.

Takes the overrides of ``python -m dro_lab.run`` and reads its configuration, so it shows what a run would see.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dro_lab.errors import UserError
from dro_lab.judges.keys import refuse_keys
from dro_lab.secrets import hide

BAD_INPUT = 2
CONF = Path(__file__).resolve().parents[2] / "conf"
USAGE = """\
usage: python -m dro_lab.data dataset=NAME [dataset.source=twin|hub|PATH] [model=NAME] [KEY=VALUE ...] [--json]

Shows the rows by split, where they come from, what was cut, rubrics, the first prompt as the policy sees it, token
lengths, and every refused row with its reason. --json prints the same as one JSON document."""


def compose(overrides: Sequence[str]) -> Any:
    """The configuration of a run with these overrides. Raises `UserError` for unknown groups, options and keys."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    import dro_lab.config  # noqa: F401  (types the root of the configuration)
    from dro_lab.explain import explain

    try:
        with initialize_config_dir(config_dir=str(CONF)):
            return hydra_compose(config_name="config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error) or str(error)) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the inspection; returns the exit status: 0, or 2 with one message on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        print(USAGE)
        return 0
    as_json = "--json" in given
    overrides = [argument for argument in given if argument != "--json"]
    try:
        refuse_keys(given)
        if flags := [argument for argument in overrides if argument.startswith("-")]:
            raise UserError(
                f"{flags[0]}: unknown option. Allowed: --json, --help, and overrides such as dataset=finqa."
            )
        seen = _inspect(compose(overrides))
    except UserError as error:
        print(f"error: {hide(str(error))}", file=sys.stderr)
        return BAD_INPUT
    from dro_lab.data.inspection import print_json, print_tables

    (print_json if as_json else print_tables)(seen, sys.stdout)
    return 0


def _inspect(cfg: Any) -> dict[str, Any]:
    from omegaconf.errors import OmegaConfBaseException

    from dro_lab.config import check
    from dro_lab.explain import explain

    try:
        check(cfg)  # before the heavy imports, as a run does
        from dro_lab.data.inspection import inspect_task
        from dro_lab.data.load import load_task
        from dro_lab.data.twins.knobs import dataset_name
        from dro_lab.models import context_length, load_config, load_tokenizer, policy_spec

        task = load_task(cfg)
        spec = policy_spec(cfg.model, dataset=dataset_name(cfg.dataset))
    except OmegaConfBaseException as error:
        raise UserError(explain(error) or str(error)) from error
    tokenizer = load_tokenizer(spec)
    return inspect_task(
        task,
        tokenizer,
        model=spec.name,
        context=context_length(load_config(spec)),
        max_completion=cfg.rollout.max_completion_length,
        closing=spec.reasoning_format(task.answer_marker).closing,
        chat_template_kwargs=spec.chat_template_kwargs,
    )


if __name__ == "__main__":
    sys.exit(main())
