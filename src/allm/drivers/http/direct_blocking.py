"""A blocking connection of our own, for hosts that need no proxy. What reads its answers can be chosen."""

from __future__ import annotations

import httpcore2
import httpx2

from allm.drivers.http.answers import Answer, H11Answer
from allm.drivers.http.calls import Call
from allm.drivers.http.messages import Target, Wire, bytes_of, head_of
from allm.drivers.http.routes import HttpSettings, tls_context
from allm.drivers.http.sockets import Line
from allm.ports import HttpHead


class DirectLine(Line):
    """A connection without a proxy; `answers` reads what comes."""

    def __init__(
        self,
        settings: HttpSettings,
        target: Target,
        proxy: httpx2.Proxy | None,
        call: Call,
        answers: type[Answer] = H11Answer,
    ) -> None:
        super().__init__(target.origin, call, int(target.secure))
        self._settings = settings
        self._answers = answers
        self._answer: Answer  # of the request that was sent last
        self._whole = True  # whether the request was sent to its end

    def exchange(self, wire: Wire) -> HttpHead:
        self._answer = answer = self._answers(bodiless=wire.method == "HEAD")
        if self._sock is None:
            self._open(wire.target)
        try:
            self.transmit(bytes_of(wire))
        except httpcore2.WriteError:
            self._whole = False  # a server may answer, and close, before it has read all
        while not answer.opened:
            answer.feed(self.receive())
            if answer.fault is not None and not answer.opened:
                raise answer.fault
        return head_of(answer.status, answer.headers, wire.target)

    def more(self) -> bytes:
        answer = self._answer
        while not (data := answer.take()) and not answer.ended:
            answer.feed(self.receive())
        return data

    def settle(self) -> bool:
        return self._whole and self._answer.reusable

    def _open(self, target: Target) -> None:
        context = tls_context(self._settings) if target.secure else None
        self.connect(target.bare, target.port)
        if context is not None:
            self.secure(context, target.bare)
