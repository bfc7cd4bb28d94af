"""API keys, five levels: call > process store (`put`) > application configuration > environment > .env.

Keys are looked up by the driver when a request is opened. They are never part of an engine, a
request, an event or an error.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from allm.data.failure import ErrorInfo
from allm.errors import ConfigurationError, MissingKeyError
from allm.ports import KeyRule


class Unset:
    """The default of `api_key`: not passed, as against passed empty."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset()


class Secret(str):
    """A key on its way to the header: a string whose repr is blind, as tracebacks may show locals, and that
    cannot be pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ConfigurationError("a key is not data: keys are never stored")


class _Levels:
    """The levels that live in the process."""

    def __init__(self) -> None:
        self.store: dict[str, str] = {}
        self.application: dict[str, str] = {}
        self.source: Callable[[str, str], Any] | None = None
        self.env_file: str | None = None

    def __repr__(self) -> str:
        return f"keys for {sorted({*self.store, *self.application})}"


_levels = _Levels()


def put(provider: str, key: str) -> None:
    """Keep a key for the life of the process. For a key per tenant pass `api_key=` with the call."""
    if not key:
        raise ConfigurationError(f"the key for {provider!r} is empty")
    _levels.store[provider] = key


def delete(provider: str) -> None:
    """Forget the key that `put` kept, if any."""
    _levels.store.pop(provider, None)


def configure_keys(
    *,
    keys: dict[str, str] | None = None,
    key_source: Callable[[str, str], Any] | None = None,
    env_file: str | None = None,
) -> None:
    """The application level, the key source, and whether an `.env` file is read."""
    if keys is not None:
        _levels.application = dict(keys)
    if key_source is not None:
        _levels.source = key_source
    if env_file is not None:
        _levels.env_file = env_file


class KeyRing:
    """The levels as one call sees them, the call's own first. Held by drivers only.

    `fallbacks` are the rings of the plan's fallbacks, in their order: no key goes to another provider.
    """

    __slots__ = ("_explicit", "fallbacks", "trusted")

    def __init__(self, explicit: Any = UNSET, *, trusted: bool = True) -> None:
        if explicit is not UNSET and (explicit is None or explicit == ""):
            raise ConfigurationError(
                "api_key= was passed but is empty; leave it out to use the other levels (store, environment)"
            )
        if explicit is not UNSET and not isinstance(explicit, str) and not callable(explicit):
            raise ConfigurationError("api_key= takes a string or a callable (provider, origin) -> key")
        self._explicit = Secret(explicit) if isinstance(explicit, str) else explicit
        self.trusted = trusted
        self.fallbacks: tuple[KeyRing, ...] = ()

    def __repr__(self) -> str:
        return "KeyRing(...)"

    def __reduce__(self) -> Any:
        raise ConfigurationError("a key ring is not data: keys are never stored")

    def find(self, rule: KeyRule, origin: str) -> Any:
        """The key as a `Secret`, or what a key source answered (perhaps an awaitable), or `None`."""
        found = self._search(rule, origin)
        return Secret(found) if isinstance(found, str) else found

    def _search(self, rule: KeyRule, origin: str) -> Any:
        if self._explicit is not UNSET:
            return self._explicit(rule.name, origin) if callable(self._explicit) else self._explicit
        if not self.trusted:
            return None
        if found := _levels.store.get(rule.name):
            return found
        if _levels.source is not None and (found := _levels.source(rule.name, origin)):
            return found
        return _levels.application.get(rule.name) or _environment(rule) or _dotenv(rule)

    def check(self, rule: KeyRule | None) -> None:
        """Raise `MissingKeyError` where no plain level has a key and no source can be asked."""
        if rule is None or not rule.required or callable(self._explicit):
            return
        if self._explicit is UNSET and self.trusted and _levels.source is not None:
            return
        if not self.find(rule, ""):
            raise missing_key(rule)


def missing_key(rule: KeyRule) -> MissingKeyError:
    """The error that says which variable to set and where was looked."""
    variables = " or ".join(rule.variables) or f"{rule.name.upper()}_API_KEY"
    levels = "api_key=, allm.keys.put, application configuration, environment"
    levels += ", .env" if _levels.env_file else " (.env is switched off)"
    return MissingKeyError(
        ErrorInfo(
            reason="configuration",
            code="missing_key",
            provider=rule.name,
            message=f"no API key for {rule.name}: set {variables}; searched: {levels}",
        )
    )


def _environment(rule: KeyRule) -> str | None:
    return next((value for name in rule.variables if (value := os.environ.get(name))), None)


def _dotenv(rule: KeyRule) -> str | None:
    if _levels.env_file is None:
        return None
    values = read_env_file(_levels.env_file)
    return next((value for name in rule.variables if (value := values.get(name))), None)


def read_env_file(path: str) -> dict[str, str]:
    """`KEY=VALUE` lines; `#` comments, `export ` and surrounding double quotes are taken off."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    pairs = (
        line.strip().removeprefix("export ").partition("=")
        for line in lines
        if not line.lstrip().startswith("#")
    )
    return {name.strip(): _unquoted(value.strip()) for name, equals, value in pairs if equals}


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value
