"""The terminal, or the pipe or file in its place, that the command line writes to and asks."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Final, TextIO

_CONTROLS: Final = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Screen:
    """stdout and stderr: colour, and what a model may do to them, depend on whether they are terminals."""

    def __init__(self) -> None:
        self._out_terminal, self._err_terminal = is_terminal(sys.stdout), is_terminal(sys.stderr)
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
        self.colour = self._out_terminal and not plain
        self._err_colour = self._err_terminal and not plain
        self._at_start = True
        self._bar_open = False
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # suppressed

    def write(self, text: str) -> None:
        """Show text of a model at once. On a terminal its control characters have no effect."""
        text = text.translate(_CONTROLS) if self._out_terminal else text
        if text:
            self.end_bar()
            self._at_start = text.endswith("\n")  # first: Ctrl-C may come before the write returns
            sys.stdout.write(text)
            sys.stdout.flush()

    def line(self, text: str) -> None:
        self.write(f"{text}\n")

    def end_line(self) -> None:
        """Begin a new line unless the cursor is at the start of one."""
        if not self._at_start:
            self.write("\n")

    def break_line(self) -> None:
        """After Ctrl-C: leave the line, also the one on the terminal with the `^C`."""
        with suppress(OSError):
            ended = self._out_terminal and not self._at_start
            self.end_line()
            if self._err_terminal and not ended:
                sys.stderr.write("\n")
        self._at_start, self._bar_open = True, False

    def note(self, text: str) -> None:
        self._stderr(text, "2")

    def error(self, text: str) -> None:
        self._stderr(text, "31")

    def _stderr(self, text: str, colour: str) -> None:
        with suppress(BrokenPipeError):
            self.end_line()
            sys.stdout.flush()
        self.end_bar()
        text = f"allm: {' '.join(text.split()).translate(_CONTROLS)}"
        sys.stderr.write(f"\x1b[{colour}m{text}\x1b[0m\n" if self._err_colour else f"{text}\n")
        sys.stderr.flush()

    def progress(self, done: int, total: int | None) -> None:
        """A bar on a terminal, nothing elsewhere."""
        share = done / total if total else 0.0
        bar = "#" * round(share * 30)
        size = f"{done / 1e6:.0f} of {(total or 0) / 1e6:.0f} MB"
        self.status(f"[{bar:<30}] {share:4.0%} {size}")

    def status(self, text: str) -> None:
        """A line on a terminal that the next one takes the place of; nothing elsewhere."""
        if self._err_terminal:
            self._bar_open = True
            sys.stderr.write(f"\rallm: {text:<60}")
            sys.stderr.flush()

    def end_bar(self) -> None:
        """Leave the line of the bar, if there is one."""
        if self._bar_open:
            sys.stderr.write("\n")
            self._bar_open = False

    def flush(self) -> None:
        sys.stdout.flush()

    def ask(self, prompt: str) -> str | None:
        """One line from the user; `None` at the end of the input."""
        if not is_terminal(sys.stdin):
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        try:
            if self._out_terminal:  # \001 and \002 tell readline what takes no room
                return input(f"\001\x1b[1m\002{prompt}\001\x1b[0m\002" if self.colour else prompt)
            sys.stderr.write(prompt)
            sys.stderr.flush()
            return input()
        except EOFError:
            sys.stderr.write("\n")
            return None


def is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()
