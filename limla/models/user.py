"""A user's own model: "package.module:function" that returns an nn.Module."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

from limla.errors import SettingsError

_FORM = "write package.module:function, a function that returns an nn.Module"


_consented: set[str] = set()


def consent(spec: str) -> None:
    """Note that the user named `spec` in this process, so that checkpoints which name it too may import it."""
    _consented.add(spec)


def has_consent(spec: str) -> bool:
    """Whether the user named `spec` in this process."""
    return spec in _consented


def is_spec(name: str) -> bool:
    """Whether a model name is the address of a user's function."""
    return ":" in name


def build(spec: str, num_classes: int) -> nn.Module:
    """Import the function and call it with `num_classes=…` if it takes that, else without arguments.

    The current folder is importable, as with `python -m`. This runs the user's code: `spec` must come from the
    user, never from a file.

    Raises `SettingsError` in one line when the module or function is missing, raises, or returns something else.
    """
    function = _find(spec)
    arguments: dict[str, Any] = {"num_classes": num_classes} if _takes_num_classes(function) else {}
    try:
        model = function(**arguments)
    except Exception as error:
        # a stranger's code may raise anything; the cause keeps its traceback for `python -X dev` and debuggers
        raise SettingsError(f"model '{spec}': calling it raised {_brief(error)}") from error
    if not isinstance(model, nn.Module):
        raise SettingsError(f"model '{spec}' returned a {type(model).__name__}, not an nn.Module: {_FORM}")
    return model


def _find(spec: str) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise SettingsError(f"model '{spec}' is not an address: {_FORM}")
    here = os.getcwd()  # noqa: PTH109 (sys.path holds text)
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
        importlib.invalidate_caches()
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        own = error.name is not None and f"{module_name}.".startswith(f"{error.name}.")
        what = f"there is no module '{error.name}'" if own else f"its module needs '{error.name}'"
        raise SettingsError(
            f"model '{spec}': {what}; looked in {here} and the installed packages (PYTHONPATH adds folders)"
        ) from error
    except Exception as error:
        raise SettingsError(f"model '{spec}': importing {module_name} raised {_brief(error)}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise SettingsError(f"model '{spec}': {module_name} has no '{attribute}'")
        found = getattr(found, part)
    if not callable(found):
        raise SettingsError(f"model '{spec}' is a {type(found).__name__}, not a function: {_FORM}")
    return found


def _takes_num_classes(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(item.name == "num_classes" or item.kind is item.VAR_KEYWORD for item in parameters)


def _brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
