"""Settings of a transport, and what follows from them for a host: its certificates and its proxy."""

from __future__ import annotations

import functools
import os
import re
import ssl
import urllib.request
from typing import Any

import httpx2
from msgspec import Struct, structs

from allm.drivers.http.calls import failure
from allm.drivers.http.messages import Target


class HttpSettings(Struct, frozen=True, kw_only=True):
    """What makes two transports different. `verify`: true, false, or the path of a CA file or folder.
    `proxy`: a URL for everything; else the environment's where `trust_env`. `max_keepalive`: idle
    connections kept; busy ones are not bounded."""

    verify: bool | str = True
    proxy: str | None = None
    trust_env: bool = True
    max_keepalive: int = 256

    def __repr__(self) -> str:
        """As usual, but without the user and password of the proxy."""
        values = structs.asdict(self)
        if self.proxy is not None:
            values["proxy"] = re.sub(r"(^|//)[^/]*@", r"\1***@", self.proxy)
        return f"HttpSettings({', '.join(f'{name}={value!r}' for name, value in values.items())})"


@functools.lru_cache(maxsize=16)
def tls_context(settings: HttpSettings) -> ssl.SSLContext:
    """The context is shared: loading the system's certificates costs tens of milliseconds.

    Raises ConfigurationError where the certificates cannot be read.
    """
    try:
        context = _loaded(settings)
    except OSError:
        named = "SSL_CERT_FILE or SSL_CERT_DIR" if isinstance(settings.verify, bool) else "verify="
        raise failure("configuration", f"the certificates named by {named} cannot be read", "input") from None
    context.set_alpn_protocols(["http/1.1"])  # else a host may choose what is not spoken here
    return context


def _loaded(settings: HttpSettings) -> ssl.SSLContext:
    verify = settings.verify
    if isinstance(verify, bool):
        return httpx2.create_ssl_context(verify=verify, trust_env=settings.trust_env)
    if os.path.isdir(verify):
        return ssl.create_default_context(capath=verify)
    return ssl.create_default_context(cafile=verify)


class Routes:
    """Which proxy a host is reached by, decided once a host; the environment is read at the start."""

    def __init__(self, settings: HttpSettings) -> None:
        self._fixed = settings.proxy
        self._proxies = urllib.request.getproxies() if settings.trust_env and not settings.proxy else {}
        self._cache: dict[str, httpx2.Proxy | None] = {}

    def proxy(self, target: Target) -> httpx2.Proxy | None:
        if target.origin not in self._cache:
            if len(self._cache) > 256:
                self._cache.clear()
            self._cache[target.origin] = self._choose(target)
        return self._cache[target.origin]

    def _choose(self, target: Target) -> httpx2.Proxy | None:
        scheme = target.origin.partition(":")[0]
        url = self._fixed or self._proxies.get(scheme) or self._proxies.get("all")
        if not url or (not self._fixed and self._bypassed(target)):
            return None
        try:
            return httpx2.Proxy(url if "://" in url else f"http://{url}")
        except (httpx2.InvalidURL, ValueError):
            raise failure("configuration", "the proxy URL cannot be used", "input") from None

    def _bypassed(self, target: Target) -> bool:
        if "no" in self._proxies:
            host = target.origin.partition("//")[2]
            listed: Any = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]  # public, though not in typeshed
            return bool(listed(host, self._proxies) or listed(target.bare, self._proxies))
        return bool(urllib.request.proxy_bypass(target.bare))
