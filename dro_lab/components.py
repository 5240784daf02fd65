"""From a yaml node to a checked function: the only place that turns `_target_` into code.

A reward, gate, filter, estimator or judge is a plain function; its yaml names it with ``_target_`` and binds its
arguments. Its module may declare functions beside it, all called with the bound arguments:

``check(**bound) -> None``
    raises UserError for values that make no sense, before any weight is loaded;
``needs(**bound) -> frozenset[Need]``
    the statistics it reads; a module without it is taken to read the reference log-probabilities;
``prepare(task, **bound) -> Task``
    checks the loaded data set against the component, or selects from its rows (with notes); raises UserError;
``initial_state(**bound) -> Mapping``
    for a gate or filter with memory, whose function takes ``state=`` and returns ``(result, new_state)``; states are
    JSON-serialisable mappings. The run owns the state; evaluations read it and leave it as it was;
``GIVES_PROCESS = True``
    of a reward that gives credit on tokens (`Rewards.process_PGC`); ``TAKES_PROCESS = True`` of an estimator that uses
    it. A reward that gives it is refused with an estimator that does not take it.
``NODES = ("outcome",)``
    arguments that are yamls of components: they are handed over as mappings, and the module builds them.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from dro_lab.errors import UserError
from dro_lab.types import Need, Stat, Task


def unchanged(task: Task) -> Task:
    """The data set as it is: what a component without ``prepare`` asks for."""
    return task


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A bound function with its name and the statistics it reads."""

    name: str
    call: Callable[..., Any]
    needs: frozenset[Need]
    prepare: Callable[[Task], Task] = unchanged
    initial_state: Mapping[str, Any] | None = None
    gives_process: bool = False
    takes_process: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def remember(self, *args: Any, state: Mapping[str, Any] | None) -> tuple[Any, Mapping[str, Any] | None]:
        """Call with the state of a method with memory; ``(result, new state)``, None for a method without."""
        if self.initial_state is None:
            return self.call(*args), None
        result, new = self.call(*args, state=self.initial_state if state is None else state)
        return result, new


REMEMBERING = ("gating", "filtering")
"""The groups whose methods may have memory."""


def component(
    group: str,
    node: Any,
    *,
    name: str,
    default_needs: frozenset[Need] = frozenset(),
    supplied: frozenset[str] = frozenset(),
) -> Component:
    """Resolve and check one group's node.

    Args:
        group: the config group, for messages.
        node: the group's DictConfig with `_target_`.
        name: the chosen option, e.g. ``r3``.
        default_needs: what a function reads whose module has no ``needs``.
        supplied: keyword arguments that the caller gives at call time.

    Raises:
        UserError: no `_target_`, it cannot be imported, an argument it does not take, a value its ``check`` refuses.
    """
    function, bound = resolve(group, node)
    module = sys.modules[function.__module__]
    takes_state = "state" in inspect.signature(function).parameters
    memory = getattr(module, "initial_state", None) if takes_state else None
    if memory and group not in REMEMBERING:
        raise UserError(
            f"{group}._target_: {function.__name__} is a method with memory (it takes `state`); a run keeps one for "
            f"{' and '.join(REMEMBERING)} only. Take its memory away, or let it be one of these"
        )
    hidden = supplied | ({"state"} if memory else frozenset())
    _check_signature(group, function, bound, supplied=hidden, positional=False)
    if check := getattr(module, "check", None):
        check(**bound)
    needs = getattr(module, "needs", None)
    prepare = getattr(module, "prepare", None)
    return Component(
        name=name,
        call=functools.partial(function, **bound),
        needs=frozenset(needs(**bound)) if needs else default_needs,
        prepare=functools.partial(prepare, **bound) if prepare else unchanged,
        initial_state=memory(**bound) if memory else None,
        gives_process=bool(getattr(module, "GIVES_PROCESS", False)),
        takes_process=bool(getattr(module, "TAKES_PROCESS", False)),
    )


def target(group: str, node: Any) -> Callable[..., Any]:
    """The function or class that a node's ``_target_`` names. Raises `UserError` where there is none."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        raise UserError(f"{group}: its yaml must name a function with `_target_: package.module.function`")
    name = node["_target_"]
    try:
        function = get_object(name)
    except Exception as error:  # importing a user's module can fail in any way
        cause = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"{group}._target_={name}: cannot be imported ({type(error.__cause__ or error).__name__}: {cause}). Is the "
            "name right, the package installed, or its folder on PYTHONPATH?"
        ) from error
    if not callable(function):
        raise UserError(
            f"{group}._target_={name}: is a {type(function).__name__}, must be a function; name one in that module"
        )
    return function


def resolve(group: str, node: Any, *, leave: Collection[str] = ()) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function a node names and the arguments it binds (nested ``_target_`` nodes are instantiated), without the
    keys of ``leave``."""
    function = target(group, node)
    plain = getattr(sys.modules.get(getattr(function, "__module__", "")), "NODES", ())
    bound: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("_target_", "_partial_") or key in leave:
            continue
        if isinstance(value, DictConfig):
            nested = "_target_" in value and key not in plain
            bound[str(key)] = (
                instantiate_checked(group, value) if nested else OmegaConf.to_container(value, resolve=True)
            )
        else:
            bound[str(key)] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return function, bound


def bound_function(key: str, node: DictConfig, *, takes: Sequence[str]) -> Callable[..., Any]:
    """The function that a node of a data set names, with the node's other keys bound (a class is made once).

    Args:
        key: for messages, e.g. ``dataset.metric``.
        node: ``_target_`` and the keys to bind.
        takes: the positional arguments that the caller gives.

    Raises:
        UserError: no such function, a key that it does not take, or it does not take the positional arguments.
    """
    function, bound = resolve(key, node)
    if inspect.isclass(function):
        made: Callable[..., Any] = instantiate_checked(key, node)
        check_takes(key, made, takes=takes)
        return made
    check_takes(key, function, takes=takes)
    _check_signature(key, function, bound, supplied=frozenset(_positional(function)[: len(takes)]), positional=True)
    return functools.partial(function, **bound)


def check_takes(key: str, function: Callable[..., Any], *, takes: Sequence[str]) -> None:
    """Raise `UserError` unless the function has so many positional parameters (or ``*args``)."""
    open_ended = any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(function).parameters.values())
    if len(_positional(function)) < len(takes) and not open_ended:
        name = getattr(function, "__name__", type(function).__name__)
        raise UserError(
            f"{key}: {name} takes ({', '.join(_positional(function))}), but is called with ({', '.join(takes)}); name "
            "a function of these"
        )


def _positional(function: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, p in inspect.signature(function).parameters.items() if p.kind in kinds]


def _check_signature(
    group: str, function: Callable[..., Any], bound: Collection[str], *, supplied: frozenset[str], positional: bool
) -> None:
    """``positional``: whether keys may fill positional parameters too, as in a call that passes nothing else."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    kinds = {inspect.Parameter.KEYWORD_ONLY, *([inspect.Parameter.POSITIONAL_OR_KEYWORD] if positional else [])}
    allowed = [n for n, p in parameters.items() if p.kind in kinds and n not in supplied]
    if wrong := sorted(set(bound) - set(allowed)):
        raise UserError(f"{group}.{wrong[0]}: unknown key; {function.__name__} takes {', '.join(allowed) or 'no keys'}")
    missing = [n for n in allowed if parameters[n].default is inspect.Parameter.empty and n not in bound]
    if missing:
        raise UserError(f"{group}.{missing[0]}: is required by {function.__name__}; add {group}.{missing[0]}=VALUE")


def instantiate_checked(group: str, node: DictConfig, **kwargs: Any) -> Any:
    """Hydra's instantiate for classes that validate themselves; their complaint becomes the user's message."""
    made = target(group, node)
    given = {str(key) for key in node if not str(key).startswith("_")} | set(kwargs)
    _check_signature(group, made, given, supplied=frozenset(), positional=True)
    try:
        # the run's own configuration is the user's: the target it names is the one that may run
        return instantiate(node, _convert_="all", _execution_whitelist_=[node["_target_"]], **kwargs)
    except UserError:
        raise
    except (HydraException, TypeError, ValueError, ImportError) as error:
        cause = error.__cause__ if isinstance(error, HydraException) and error.__cause__ else error
        if isinstance(cause, UserError):
            raise cause from error
        raise UserError(f"{group}: {node['_target_']} refuses these values: {' '.join(str(cause).split())}") from error


REFERENCE_NEED = frozenset({Need(Stat.REFERENCE)})
