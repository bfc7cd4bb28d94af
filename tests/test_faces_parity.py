"""The awaited face is the blocking one, awaited; and no public name is hidden by a module."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import allm
from allm import calls, sessions
from allm.aio import sessions as aio_sessions

PAIRS = [(calls, allm.aio), (sessions, aio_sessions)]


def verbs(module: ModuleType) -> list[str]:
    """The functions that a module defines itself."""
    return [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


@pytest.mark.parametrize(("blocking", "awaited"), PAIRS, ids=["calls", "sessions"])
def test_same_verbs_same_signatures(blocking: ModuleType, awaited: ModuleType) -> None:
    names = verbs(blocking)
    assert set(verbs(awaited)) - {"aclose"} == set(names)
    for name in names:
        one, other = (inspect.signature(getattr(module, name)) for module in (blocking, awaited))
        assert list(one.parameters.values()) == list(other.parameters.values()), name
        returns = str(one.return_annotation).replace("Stream[", "AsyncStream[")
        assert str(other.return_annotation) == returns, name
        assert inspect.iscoroutinefunction(getattr(awaited, name)) is not name.startswith("stream"), name
        assert getattr(blocking, name).__doc__ == getattr(awaited, name).__doc__, name


@pytest.mark.parametrize("name", verbs(calls))
def test_the_error_for_an_a_prefix_names_the_awaited_verb(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"allm\.aio\.{name}\b"):
        getattr(allm, f"a{name}")
    assert hasattr(allm.aio, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        allm.nonsense  # noqa: B018
    assert not hasattr(allm, "a")


def test_every_public_name_resolves_and_is_listed() -> None:
    assert sorted(allm.__all__) == dir(allm)
    for name in allm.__all__:
        assert getattr(allm, name) is not None


SHADOWS = """
import importlib, pkgutil, sys
import allm
before = {name: getattr(allm, name) for name in allm.__all__}
for module in pkgutil.walk_packages(allm.__path__, "allm."):
    if module.name.rpartition(".")[2] != "__main__":
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            assert module.name.startswith("allm.ext"), (module.name, error)
changed = [name for name in allm.__all__ if getattr(allm, name) is not before[name]]
assert not changed, changed
"""


def test_no_module_hides_a_public_name() -> None:
    subprocess.run([sys.executable, "-c", SHADOWS], check=True)


def test_no_public_function_has_the_name_of_a_module() -> None:
    modules = {info.name for info in pkgutil.iter_modules(allm.__path__)}
    public: dict[str, Any] = {name: getattr(allm, name) for name in allm.__all__}
    assert [name for name in modules & set(public) if not inspect.ismodule(public[name])] == []


def test_lowlevel_names() -> None:
    lowlevel = import_module("allm.lowlevel")
    for name in lowlevel.__all__:
        assert getattr(lowlevel, name) is not None
