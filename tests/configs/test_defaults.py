"""The defaults of a method stand in two places, its function and its yaml; they must agree."""

import inspect
from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf

from dro_lab.build import REFILL
from dro_lab.data.__main__ import compose

CONF = Path(__file__).parents[2] / "conf"
YAMLS = [
    path for group in ("reward", "advantage", "gating", "filtering") for path in sorted((CONF / group).glob("*.yaml"))
]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_yaml_and_function_have_the_same_defaults(path):
    group = path.parent.name
    node = OmegaConf.to_container(compose([f"{group}={path.stem}"])[group], resolve=True)
    function = get_object(node["_target_"])
    declared = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "state"
    }
    given = {key: value for key, value in node.items() if not key.startswith("_") and key not in REFILL}
    assert set(given) == set(declared)
    if function.__name__ != path.stem and "defaults" in (own := OmegaConf.load(path)):
        given = {key: value for key, value in given.items() if key not in own}  # a variant is what it sets otherwise
    for key, value in given.items():
        # a node of keys of its own (rubrics, parts of a mix) has no default in a signature
        assert (declared[key] in (None, inspect.Parameter.empty)) if isinstance(value, dict) else value == declared[key]
