"""The stages of pipelines as functions, made from the JSON Schema that the command prints.

>>> from trajmill import stages
>>> stages.filter("return > 200")
{'filter': 'return > 200'}
>>> stages.subsample(fraction=0.5, seed=7)
{'subsample': {'fraction': 0.5, 'seed': 7}}

`help(trajmill.stages.label)` shows the options of a stage.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from typing import Any

from trajmill._process import call

_ABSENT: Any = inspect.Parameter.empty


@functools.cache
def schema() -> dict[str, Any]:
    """Returns the JSON Schema of pipeline files."""
    found: dict[str, Any] = call(["schema"], lambda stdout: json.loads(stdout.read()))
    return found


@functools.cache
def _stages() -> dict[str, Callable[..., dict[str, Any]]]:
    entries = schema()["properties"]["stages"]["items"]["oneOf"]
    made = {}
    for entry in entries:
        for name, options in entry["properties"].items():
            made[name] = _stage(name, options)
    return made


def _resolved(options: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in options:
        options = schema()["$defs"][options["$ref"].rsplit("/", 1)[-1]]
    return options


def _forms(options: dict[str, Any]) -> list[dict[str, Any]]:
    """The forms that the options of a stage may have, each without references."""
    options = _resolved(options)
    nested = options.get("anyOf") or options.get("oneOf")
    return [form for part in nested for form in _forms(part)] if nested else [options]


def _type(value: dict[str, Any]) -> str:
    forms = _forms(value)
    names = [form.get("type", "any") for form in forms]
    flat = [n for name in names for n in (name if isinstance(name, list) else [name])]
    return " or ".join(dict.fromkeys(str(name) for name in flat))


def _stage(name: str, options: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    plain = False
    for form in _forms(options):
        properties = form.get("properties", {})
        known |= {key: value for key, value in properties.items() if key not in known}
        plain |= not properties

    def stage(*value: Any, **options: Any) -> dict[str, Any]:
        if len(value) > 1 or (value and options):
            raise TypeError(f"{name}() takes one value, or options by name")
        for key in options:
            # A keyword of Python is written with an underscore behind it: `from_`.
            if key.removesuffix("_") not in known and key not in known:
                raise TypeError(f"{name}() has no option `{key}`: it has {', '.join(known)}")
        named = {k if k in known else k.removesuffix("_"): v for k, v in options.items()}
        return {name: value[0] if value else named}

    lines = [str(_resolved(options).get("description", f"The stage `{name}`.")), ""]
    lines += [
        f"{key}: {_type(value)}. {_resolved(value).get('description', '')}"
        if "description" not in value
        else f"{key}: {_type(value)}. {value['description']}"
        for key, value in known.items()
    ]
    stage.__name__ = stage.__qualname__ = name
    stage.__module__ = __name__
    stage.__doc__ = "\n".join(lines)
    kinds = inspect.Parameter
    given = [kinds("value", kinds.POSITIONAL_ONLY, default=None)] if plain else []
    given += [
        kinds(key if not _is_keyword(key) else f"{key}_", kinds.KEYWORD_ONLY, default=None)
        for key in known
        if key.isidentifier()
    ]
    stage.__signature__ = inspect.Signature(given)  # type: ignore[attr-defined]
    return stage


def _is_keyword(name: str) -> bool:
    import keyword

    return keyword.iskeyword(name)


def __getattr__(name: str) -> Callable[..., dict[str, Any]]:
    if name.startswith("__"):
        raise AttributeError(name)
    try:
        return _stages()[name]
    except KeyError:
        raise AttributeError(
            f"there is no stage `{name}`: the stages are {', '.join(_stages())}"
        ) from None


def __dir__() -> list[str]:
    return sorted(_stages())
