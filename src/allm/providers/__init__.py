"""Providers by name: built in, then registered, then installed (entry-point group `allm.providers`).

`resolve(name)` gives the adapter. A module is imported when its provider is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Final

from allm.errors import ConfigurationError, UnknownProviderError

GROUP: Final = "allm.providers"

COMPATIBLE: Final = (
    "groq", "mistral", "deepseek", "openrouter", "xai", "together", "fireworks", "cerebras", "perplexity",
    "azure", "ollama", "lmstudio", "vllm", "llamacpp", "compatible",
)  # fmt: skip
_BUILT_IN: Final = {
    "openai": ("allm.providers.openai", "OpenAI"),
    "anthropic": ("allm.providers.anthropic.messages", "Anthropic"),
    "gemini": ("allm.providers.gemini.generate", "Gemini"),
    "fake": ("allm.providers.fake", "FakeAdapter"),
    "local": ("allm.ext.local", "LocalAdapter"),
}
_MEDIA: Final = {
    "image": {
        "openai": ("allm.providers.openai.images", "OpenAIImages"),
        "gemini": ("allm.providers.gemini.images", "GeminiImages"),
        "fake": ("allm.providers.fake_images", "FakeImages"),
    },
    "embedding": {
        "openai": ("allm.providers.openai.embeddings", "OpenAIEmbeddings"),
        "gemini": ("allm.providers.gemini.embeddings", "GeminiEmbeddings"),
        "voyage": ("allm.providers.voyage", "VoyageEmbeddings"),
        "local": ("allm.ext.local_embeddings", "LocalEmbeddings"),
        "fake": ("allm.providers.fake_embeddings", "FakeEmbeddings"),
    },
}
_UNCACHED: Final = frozenset({"fake"})  # its cursor belongs to one engine

_registered: dict[str, Callable[[], Any]] = {}
_cache: dict[str, Any] = {}


def resolve(name: str) -> Any:
    """The adapter called `name`; `compatible:groq` and `compatible/groq` are `groq`.

    The same object each time, but for `fake`. Raises `UnknownProviderError` naming the nearest.
    """
    name = canonical(name)
    adapter = _cache.get(name)
    if adapter is None:
        adapter = _made(name)
        if name not in _UNCACHED:
            adapter = _cache.setdefault(name, adapter)
    return adapter


def resolve_image(name: str) -> Any:
    """The adapter for images called `name`; compatible servers speak OpenAI's dialect.

    Raises `UnknownProviderError` naming those that there are.
    """
    return _resolved_media("image", name)


def resolve_embedding(name: str) -> Any:
    """The adapter for embeddings called `name`; as `resolve_image`."""
    return _resolved_media("embedding", name)


def _resolved_media(kind: str, name: str) -> Any:
    name, table = canonical(name), _MEDIA[kind]
    if name in table:
        module, made = table[name]
        return getattr(import_module(module), made)()
    module, made = table["openai"]
    if name in COMPATIBLE:
        row = import_module("allm.providers.compatible").TABLE[name]
        return getattr(import_module(module), made)(row.name, row.base_url, row.key)
    known = ", ".join((*table, *COMPATIBLE))
    raise UnknownProviderError(f"no provider {name!r} for {kind}s; known: {known}")


def canonical(name: str) -> str:
    """A provider's name without the prefix `compatible:` or `compatible/`."""
    for prefix in ("compatible:", "compatible/"):
        if name.startswith(prefix):
            rest = name.removeprefix(prefix)
            return rest if rest in COMPATIBLE else name
    return name


def split_model(provider: str, model: str) -> tuple[str, str]:
    """Provider and model id for `compatible:groq/llama`, which is `groq:llama`; others as they are."""
    head, slash, rest = model.partition("/")
    if provider == "compatible" and slash and head in COMPATIBLE:
        return head, rest
    return canonical(provider), model


def register_provider(name: str, factory: Callable[[], Any]) -> None:
    """Make `factory()` the adapter called `name`, in this process. Built-in names cannot be taken."""
    if name in _BUILT_IN or name in COMPATIBLE:
        raise ConfigurationError(f"{name!r} is a built-in provider")
    if not name or any(letter in name for letter in ":@/ "):
        raise ConfigurationError(f"{name!r} cannot be a provider's name: no ':', '@', '/' or blank")
    if not callable(factory):
        raise ConfigurationError(f"the factory of {name!r} is not callable")
    _registered[name] = factory
    _cache.pop(name, None)


def _made(name: str) -> Any:
    place = _BUILT_IN.get(name)
    if place is not None:
        return getattr(import_module(place[0]), place[1])()
    if name in COMPATIBLE:
        return import_module("allm.providers.compatible").adapter(name)
    factory = _registered.get(name) or _installed(name)
    if factory is None:
        raise UnknownProviderError(_unknown(name))
    return factory()


def _installed(name: str) -> Callable[[], Any] | None:
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP, name=name):
        factory: Callable[[], Any] = entry.load()
        return factory
    return None


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    known = [*_BUILT_IN, *COMPATIBLE, *_registered]
    near = get_close_matches(name, known, 1, 0.7)
    meant = f": did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
    return f"no provider {name!r}{meant}"
