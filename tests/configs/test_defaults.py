"""The defaults of a method stand in two places, its function and its yaml; they must agree."""

import inspect
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

CONF = Path(__file__).parents[2] / "conf"
YAMLS = [
    path for group in ("reward", "advantage", "gating", "filtering") for path in sorted((CONF / group).glob("*.yaml"))
]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_yaml_and_function_have_the_same_defaults(path):
    node = yaml.safe_load(path.read_text())
    function = get_object(node["_target_"])
    declared = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    assert {key: value for key, value in node.items() if not key.startswith("_")} == declared
