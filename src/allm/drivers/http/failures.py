"""What an engine raised, as the library's error. No text in it comes from a header or a body.

The exceptions of httpcore2 are the vocabulary of all connections here, whatever reads the answer.
"""

from __future__ import annotations

import os
import re
import ssl
import zlib

import httpcore2

from allm.drivers.http.calls import Call, failure
from allm.errors import AllmError

STALE = (httpcore2.NetworkError, httpcore2.RemoteProtocolError)
"""What is raised where a server had closed an idle connection, if no byte of an answer came."""


def explain(exc: BaseException, call: Call) -> AllmError | None:
    """The library's error; None for what is no failure of HTTP."""
    if isinstance(exc, AllmError):
        return exc
    if call.cancelled and isinstance(exc, Exception):
        return call.ended()
    if isinstance(exc, zlib.error):
        return failure("malformed_response", "the compressed body cannot be read", call.phase)
    if isinstance(exc, (httpcore2.TimeoutException, TimeoutError)):
        return call.expired()
    if call.phase == "stream":
        cut = "the connection ended before the body did"
        return failure("stream_interrupted", cut, "stream") if isinstance(exc, (*STALE, OSError)) else None
    return _explain_opening(exc, call)


def _explain_opening(exc: BaseException, call: Call) -> AllmError | None:
    if isinstance(exc, (httpcore2.NetworkError, OSError)):
        return _explain_network(exc, call)
    if isinstance(exc, httpcore2.RemoteProtocolError):
        if not call.received:
            return failure("network_error", "the server closed the connection without an answer", call.phase)
        return failure("protocol_error", "the answer is not HTTP/1.1", call.phase)
    if isinstance(exc, httpcore2.ProxyError):
        status = re.match(r"\d{3}", str(exc))
        text = f"the proxy refused with {status[0]}" if status else "the proxy refused"
        return failure("network_error", text, "connect", retryable=bool(status and status[0] >= "500"))
    if isinstance(exc, (httpcore2.LocalProtocolError, httpcore2.UnsupportedProtocol)):
        return failure("invalid_input", "the request cannot be written as HTTP/1.1", "input")
    if isinstance(exc, ImportError):
        return failure("configuration", "a SOCKS proxy needs the package socksio", "input")
    return None


def _explain_network(exc: BaseException, call: Call) -> AllmError:
    tls = _cause(exc, ssl.SSLError)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return failure("tls_error", f"certificate refused: {tls.verify_message}", call.phase)
    if tls is not None and not isinstance(tls, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        why = (getattr(tls, "reason", None) or "handshake failed").replace("_", " ").lower()
        return failure("tls_error", f"TLS: {why}", call.phase)
    system = _cause(exc, OSError)
    # Only the system's own words: other texts may quote what was sent.
    number = system.errno if isinstance(system, OSError) else None
    why = f": {os.strerror(number)}" if isinstance(number, int) and number > 0 else ""
    what = "cannot connect" if call.phase == "connect" else "the connection broke before an answer came"
    return failure("network_error", what + why, call.phase)


def _cause(exc: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first exception of `kind` behind `exc`."""
    found: BaseException | None = exc
    for _ in range(10):
        if found is None or isinstance(found, kind):
            return found
        found = found.__cause__ or found.__context__
    return None
