"""A loopback server that plays recorded answers, whole or byte by byte, and keeps what it was sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]
_OURS = frozenset({"content-length", "transfer-encoding", "connection", "content-encoding"})


class Loopback:
    """`with Loopback(answer) as server`: `answer(path, body) -> (status, headers, body)`.

    A path with `/bytewise/` in it is answered with every byte a chunk of its own. `bodies` holds the
    request bodies in the order they came, `headers` their headers.
    """

    def __init__(self, answer: Callable[[str, bytes], Answer]) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # an answer leaves in one write, so that no write waits for an acknowledgement

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                loopback.bodies.append(body)
                loopback.headers.append({k.lower(): v for k, v in self.headers.items()})
                status, headers, payload = answer(self.path, body)
                bytewise = "/bytewise/" in self.path
                self.send_response(status)
                for name, value in headers.items():
                    if name not in _OURS:
                        self.send_header(name, value)
                framing = (
                    ("transfer-encoding", "chunked") if bytewise else ("content-length", str(len(payload)))
                )
                self.send_header(*framing)
                self.end_headers()
                if not bytewise:
                    self.wfile.write(payload)
                    return
                self.wfile.write(b"".join([b"1\r\n%c\r\n" % byte for byte in payload]) + b"0\r\n\r\n")

            def log_message(self, *args: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that let go is what some tests are about."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Loopback:
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()
