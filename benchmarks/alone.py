"""Our library without the shared harness: what can be timed in this process, and a stream over loopback.

    python -m benchmarks.alone

No floor and no peers, so no ratios: CPU µs per unit, medians of rounds, for the reader of one machine. The
growth of each kind of work is shown by two sizes. Needs `allm` installed or on the path.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Final

from benchmarks.figures import number
from benchmarks.report import table
from benchmarks.workloads import WORKLOADS

ROUNDS: Final = 5
GROWTH: Final = 8
_PIECES: Final = 2000


def cost(run: Callable[[], object], units: int) -> float:
    """CPU µs per unit, the median of some rounds after one that warms up."""
    run()
    spent = []
    for _ in range(ROUNDS):
        began = process_time()
        run()
        spent.append(process_time() - began)
    return median(spent) / units * 1e6


def in_process() -> list[list[str]]:
    """Every workload in its size, and in one that is some times larger."""
    lines = []
    for name, load in WORKLOADS.items():
        small, large = (cost(load.make(n), n) for n in (load.size, GROWTH * load.size))
        lines.append([name, f"µs/{load.unit}", number(small), number(large)])
    return lines


def serve() -> None:
    """A server of scripted answers in this process, until standard input ends."""
    from allm.testing import scripted

    with scripted(lambda _: [{"text": ["word "] * _PIECES}]) as server:
        print(server.url, flush=True)
        sys.stdin.read()


def over_loopback() -> list[list[str]]:
    """Streams from a server in another process, as `clients.ours` reads them."""
    command = [sys.executable, "-m", "benchmarks.alone", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        lines = [_streamed(url, proto) for proto in ("chat", "resp", "anth", "gem")]
        server.communicate()
    return lines


def _streamed(url: str, proto: str) -> list[str]:
    import asyncio

    from benchmarks.clients.ours import Client

    client = Client(url, proto)
    blocking = cost(client.stream, _PIECES)
    awaited = cost(lambda: asyncio.run(client.astream()), _PIECES)
    return [f"stream over loopback, {proto}", "µs/event", number(blocking), f"{number(awaited)} awaited"]


def main() -> None:
    head = ["work", "CPU", "small", f"{GROWTH} times as large"]
    print(table(head, [*in_process(), *over_loopback()]))


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
