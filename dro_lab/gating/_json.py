"""Answers against a JSON schema: strict reading, and one yes/no check for the object and each of its properties."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012, specification_with

OBJECT = "json"
"""The check that the whole answer is one JSON value whose form as a whole the schema allows."""


def strict_json(text: str) -> Any:
    """The value that ``text`` is, all of it: no prose before or behind, no key twice at any depth, no NaN, no infinity.

    Raises:
        ValueError: it is not; says why.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return made


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond floating point")
    return value


@dataclass(frozen=True, slots=True)
class SchemaChecks:
    """A compiled schema: the check `OBJECT`, and ``property NAME`` for each top-level property."""

    names: tuple[str, ...]
    properties: tuple[str, ...]
    validator: Validator

    def faults(self, value: Any) -> dict[str, str]:
        """What is wrong with a value, by check; the first fault of each. Never raises on model output.

        A property's check holds where the property is absent and not required. What concerns no property (the type,
        unknown keys, combinations) is the object's.
        """
        found: dict[str, str] = {}
        try:
            for error in self.validator.iter_errors(value):
                for name in self._checks_of(error):
                    found.setdefault(name, error.message)
        except (RecursionError, ArithmeticError, Unresolvable) as error:  # nested too deeply; an integer beyond floats
            found.setdefault(OBJECT, f"{type(error).__name__}: {error}")
        return found

    def _checks_of(self, error: Any) -> list[str]:
        path = list(error.absolute_path)
        if path:
            return [self._check_of(path[0])]
        if error.validator == "required":
            return [self._check_of(name) for name in error.validator_value if name not in error.instance]
        return [OBJECT]

    def _check_of(self, key: Any) -> str:
        return f"property {key}" if key in self.properties else OBJECT


def compile_schema(schema: Mapping[str, Any]) -> SchemaChecks:
    """Check and compile a schema (the draft that its ``$schema`` names, else 2020-12; no reference leaves it).

    Raises:
        ValueError: it is no valid schema; says where.
    """
    return _compiled(json.dumps(schema))


@functools.lru_cache(maxsize=256)
def _compiled(text: str) -> SchemaChecks:
    schema = json.loads(text)
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        place = "/".join(map(str, error.absolute_path)) or "the schema"
        raise ValueError(f"at {place}: {error.message}") from error
    _check_references(schema, kind)
    validator = kind(schema, registry=Registry())
    properties = tuple(schema.get("properties", {}))
    return SchemaChecks((OBJECT, *(f"property {name}" for name in properties)), properties, validator)


def _check_references(schema: dict[str, Any], kind: type[Validator]) -> None:
    """Every ``$ref`` is found in the schema itself: nothing is ever fetched."""
    specification = specification_with(kind.META_SCHEMA.get("$id", ""), default=DRAFT202012)
    resolver = Registry().resolver_with_root(specification.create_resource(schema))
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise ValueError(f"refers to {reference!r}, which it does not hold") from error


def _references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [found for item in part for found in _references(item)]
    if not isinstance(part, dict):
        return []
    own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
    return own + [found for item in part.values() for found in _references(item)]
