"""What the code itself may not do: run what data, a checkpoint or a file of the user's says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
FILES = sorted(path for package in ("dro_lab", "analysis", "experiments") for path in (ROOT / package).rglob("*.py"))
IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
ALLOWED = {
    ("analysis/labels.py", "yaml.safe_load"): "reads the config.yaml that the lab wrote: plain data, a thousand files",
}
"""Calls that are forbidden elsewhere, and why they stand there."""
HYDRA = {
    "dro_lab/components.py": "the one place that turns `_target_` into code, of the configuration alone",
    "dro_lab/sweep/storage.py": "Optuna's samplers and pruners, by a list of what may run",
}
"""Files that call Hydra's `instantiate`, each with a list of what may be called."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with its dotted name; "" in the place of what is no name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            parts, function = [], node.func
            while isinstance(function, ast.Attribute):
                parts.append(function.attr)
                function = function.value
            parts.append(function.id if isinstance(function, ast.Name) else "")
            yield ".".join(reversed(parts)), node


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a keyword is given; None where it is not given or no constant."""
    (*_, value) = [None, *(item.value for item in call.keywords if item.arg == name)]
    return value.value if isinstance(value, ast.Constant) else None


def spread(call: ast.Call) -> set[str]:
    """The expressions that are given as ``**``."""
    return {ast.unparse(item.value) for item in call.keywords if item.arg is None}


def faults(source: str, name: str = "file.py") -> list[str]:
    """What is forbidden in a file, one line each."""
    tree, found = ast.parse(source), []
    for node in ast.walk(tree):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"imports {module}" for module in modules if module.split(".")[0] in IMPORTS]
    for called, call in calls(tree):
        last = called.rsplit(".", 1)[-1]
        if called in BUILTINS:
            found.append(f"calls {called}")
        elif called.startswith("yaml.") and (name, called) not in ALLOWED:
            found.append(f"calls {called}: OmegaConf reads YAML")
        elif called == "torch.load" and keyword(call, "weights_only") is not True:
            found.append("calls torch.load without weights_only=True")
        elif called in ("joblib.load", "pd.read_pickle", "pandas.read_pickle", "os.system", "os.popen"):
            found.append(f"calls {called}")
        elif called in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is True:
            found.append("calls numpy.load with allow_pickle")
        elif called.startswith("subprocess.") and keyword(call, "shell") not in (None, False):
            found.append(f"calls {called} with a shell")
        elif last == "instantiate":
            listed = any(item.arg == "_execution_whitelist_" for item in call.keywords)
            if name not in HYDRA or not listed:
                found.append("calls instantiate")
        elif last in ("from_pretrained", "load_dataset"):
            found += _loads(last, call)
    return found


def _loads(called: str, call: ast.Call) -> list[str]:
    """Remote code is the configuration's to allow, weights are safetensors."""
    text = ast.unparse(call)
    if called == "load_dataset":  # it runs no script of a repository any more, unless asked to
        return ["load_dataset with trust_remote_code"] if "trust_remote_code" in text else []
    found = []
    configured = "_source(spec)" in spread(call)
    if not (configured or keyword(call, "trust_remote_code") is False or "LOCAL" in spread(call)):
        found.append(f"{text}: trust_remote_code is neither the configuration's nor False")
    if "Model" in ast.unparse(call.func) and keyword(call, "use_safetensors") is not True:
        found.append(f"{text}: without use_safetensors=True")
    return found


def test_no_file_runs_what_it_reads() -> None:
    names = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}
    assert len(names) > 200
    assert {name: found for name, source in names.items() if (found := faults(source, name))} == {}


FORBIDDEN = [
    "import pickle",
    "from marshal import loads",
    "eval('1')",
    "exec(text)",
    "yaml.safe_load(text)",
    "yaml.load(text)",
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "np.load(path, allow_pickle=True)",
    "pd.read_pickle(path)",
    "subprocess.run(text, shell=True)",
    "instantiate(node)",
    "hydra.utils.instantiate(node, _execution_whitelist_=['x'])",
    "AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False)",
    "AutoTokenizer.from_pretrained(path)",
    "AutoTokenizer.from_pretrained(path, trust_remote_code=True)",
    "AutoTokenizer.from_pretrained(path, trust_remote_code=trusted)",
    "load_dataset(path, trust_remote_code=True)",
]


@pytest.mark.parametrize("source", FORBIDDEN)
def test_the_check_sees_what_is_forbidden(source: str) -> None:
    assert len(faults(source)) == 1


def test_the_check_lets_the_rest_pass() -> None:
    assert faults("model.eval()\ntorch.load(p, weights_only=True)\nre.compile('x')\nsubprocess.run(['git'])") == []
    assert faults("AutoModelForCausalLM.from_pretrained(**_source(spec), use_safetensors=True)") == []


def test_what_is_allowed_is_needed() -> None:
    for name, called in ALLOWED:
        assert called in {found for found, _ in calls(ast.parse((ROOT / name).read_text()))}
    for name in HYDRA:
        assert "instantiate" in (ROOT / name).read_text()


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf/model").glob("*.yaml")))
def test_no_model_brings_code_unless_asked(name: str) -> None:
    from dro_lab.data.__main__ import compose

    assert compose([f"model={name}"]).model.trust_remote_code is False


def test_loading_takes_trust_from_the_configuration() -> None:
    from dro_lab.models import _source, policy_spec

    node = OmegaConf.load(ROOT / "conf/model/tiny.yaml")
    for trusted in (False, True):
        node.trust_remote_code = trusted
        assert _source(policy_spec(node, dataset="pararev"))["trust_remote_code"] is trusted
