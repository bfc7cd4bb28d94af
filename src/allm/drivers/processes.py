"""Handlers with `isolation="process"`: each call in a process of its own, which can really be stopped.

The process is started by `spawn`: nothing of this one is shared. The handler goes there by its name, the
arguments, the context and what comes back go as pickles. It is killed as soon as it has answered, or when
nobody waits for the answer any more, and it ends by itself when this process is gone.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from inspect import isawaitable
from multiprocessing.connection import Connection
from typing import Any

from allm.data.content import ToolCall
from allm.data.failure import ErrorInfo
from allm.drivers.files import loaded_result
from allm.drivers.toolwork import Put
from allm.errors import ToolError
from allm.loops.effects import StartTool, ToolDone
from allm.tools import failed, importable_name, imported
from allm.tools.base import STDIN


def start_process(effect: StartTool, put: Put) -> Callable[[], None]:
    """Run the handler in a process; `put` gets what came of it. Returns what kills it.

    Raises `ToolError` for a handler that cannot be imported and for arguments that do not pickle.
    """
    job = _Job(effect, put, _packed(effect))
    name = f"allm-process-{effect.position}"
    threading.Thread(target=job.run, daemon=True, name=name).start()
    return job.kill


def _packed(effect: StartTool) -> bytes:
    """The call for the process: name of the handler, arguments, and the call for its failures."""
    invoke = effect.invoke
    assert isinstance(invoke, partial)
    name = importable_name(invoke.func)
    if name is None:
        raise _error("not_importable", f"the handler {invoke.func!r} is not found under its own name")
    if getattr(sys.modules["__main__"], "__file__", None) == STDIN:  # the process would import it, and fail
        text = "no process can be started by a program that is read from standard input: put it into a file"
        raise _error("not_importable", text)
    try:
        return pickle.dumps((name, invoke.args, invoke.keywords, effect.call))
    except Exception as error:  # the values' own code may raise anything
        text = f"the arguments or the context cannot be sent to the tool's process: {error}"
        raise _error("not_picklable", text) from error


def _error(code: str, message: str) -> ToolError:
    return ToolError(ErrorInfo(reason="tool_failed", code=code, message=message, phase="tool"))


class _Job:
    """One process and the thread that waits for its answer."""

    def __init__(self, effect: StartTool, put: Put, payload: bytes) -> None:
        self.effect = effect
        self.put = put
        self.payload = payload
        self.lock = threading.Lock()
        self.process: Any = None
        self.killed = False

    def run(self) -> None:
        began = time.monotonic()
        value, error = None, None
        try:
            value = self._answer()
        except Exception as caught:
            error = caught
        self.put(self.effect, ToolDone(self.effect.position, value, error, time.monotonic() - began))

    def kill(self) -> None:
        """From any thread, at any time: also while the process is being started."""
        with self.lock:
            self.killed = True
            if self.process is not None:
                self.process.kill()

    def _answer(self) -> Any:
        spawn = multiprocessing.get_context("spawn")
        receiver, sender = spawn.Pipe(duplex=False)
        with receiver:
            with sender:
                process = spawn.Process(target=_serve, args=(sender, self.payload), daemon=True)
                process.start()
            with self.lock:
                self.process = process
                if self.killed:
                    process.kill()
            try:
                answer = receiver.recv_bytes()
            except (EOFError, OSError):
                answer = None
        return _read(answer, self._ended(process, kill=answer is not None))

    def _ended(self, process: Any, kill: bool) -> int | None:
        """Wait for the end of the process; how it ended."""
        if kill:
            process.kill()
        process.join()
        code: int | None = process.exitcode
        with self.lock:
            self.process = None
            process.close()
        return code


def _read(answer: bytes | None, exit_code: int | None) -> Any:
    if answer is None:
        how = f"ended with code {exit_code}"
        if exit_code is not None and exit_code < 0:
            how = f"was killed by signal {-exit_code}"
        hint = " (a script that starts tools needs `if __name__ == '__main__':`)" if exit_code == 1 else ""
        raise _error("handler_exit", f"the tool's process {how} before it gave a result{hint}")
    try:
        value, info = pickle.loads(answer)
    except Exception as error:
        raise _error("not_picklable", f"the result of the tool's process cannot be read: {error}") from error
    if info is not None:
        raise ToolError(info)
    return value


# In the process


def _serve(sender: Connection, payload: bytes) -> None:
    """What the process does: one call, one answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides what it means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer = _called(payload)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    sender.send_bytes(answer)


def _end_with_parent() -> None:
    import os
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _called(payload: bytes) -> bytes:
    call = ToolCall("", "")
    try:
        name, positional, keywords, call = pickle.loads(payload)
        value = loaded_result(_awaited(imported(name)(*positional, **keywords)))
    except BaseException as error:  # a handler that exits ends its call, as on a thread
        return pickle.dumps((None, failed(call.name, call, error)))
    try:
        return pickle.dumps((value, None))
    except Exception as error:
        text = f"a result of type {type(value).__name__} cannot leave the tool's process: {error}"
        return pickle.dumps((None, failed(call.name, call, _error("not_picklable", text))))


def _awaited(value: Any) -> Any:
    if not isawaitable(value):
        return value
    import asyncio

    async def main() -> Any:
        return await value

    return asyncio.run(main())
