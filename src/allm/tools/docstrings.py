"""What a docstring says of a function and of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

_GOOGLE: Final = frozenset({"args:", "arguments:", "parameters:", "params:", "keyword args:"})


def read_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """The first paragraph, and the descriptions of parameters (Google, NumPy or Sphinx style)."""
    if not text or not text.strip():
        return "", {}
    import inspect

    lines = inspect.cleandoc(text).splitlines()
    notes: dict[str, str] = {}
    for name, note in (*_google(lines), *_numpy(lines), *_sphinx(lines)):
        if note:
            notes.setdefault(name.lstrip("*\\"), note)
    return _summary(lines), notes


def _summary(lines: list[str]) -> str:
    taken: list[str] = []
    for index, line in enumerate(lines):
        starts_section = line.strip().lower() in _GOOGLE or line.startswith(":") or _underlined(lines, index)
        if not line.strip() or starts_section:
            break
        taken.append(line.strip())
    return " ".join(taken)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _underlined(lines: list[str], index: int) -> bool:
    below = lines[index + 1].strip() if index + 1 < len(lines) else ""
    return len(below) > 2 and set(below) == {"-"} and not lines[index].startswith(" ")


def _google(lines: list[str]) -> Iterator[tuple[str, str]]:
    for start, line in enumerate(lines):
        if line.lower() in _GOOGLE:
            inside = _until(lines[start + 1 :], lambda text: not text.startswith(" "))
            for head, rest in _entries(inside):
                name, colon, note = head.partition(":")
                while colon and name.count("(") > name.count(")"):  # a colon inside the type
                    more, colon, note = note.partition(":")
                    name += colon + more
                if colon:
                    yield name.partition("(")[0].strip(), _text([note, *rest])


def _numpy(lines: list[str]) -> Iterator[tuple[str, str]]:
    for start, line in enumerate(lines):
        if line.lower() in ("parameters", "other parameters") and _underlined(lines, start):
            body = lines[start + 2 :]
            ends = [index for index in range(len(body)) if _underlined(body, index)]
            for head, rest in _entries(body[: ends[0]] if ends else body):
                for name in head.partition(":")[0].split(","):
                    yield name.strip(), _text(rest)


def _sphinx(lines: list[str]) -> Iterator[tuple[str, str]]:
    for start, line in enumerate(lines):
        if line.startswith((":param ", ":parameter ", ":arg ", ":argument ")):
            head, _, note = line[1:].partition(":")
            more = _until(lines[start + 1 :], lambda text: not text.startswith(" "))
            yield head.split()[-1], _text([note, *more])


def _until(lines: list[str], ends: Callable[[str], bool]) -> list[str]:
    """The lines before the first non-blank one at which a section ends."""
    for index, line in enumerate(lines):
        if line.strip() and ends(line):
            return lines[:index]
    return lines


def _entries(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each line at the section's own indentation, with the deeper lines below it."""
    filled = [line for line in lines if line.strip()]
    level = _indent(filled[0]) if filled else 0
    head, rest = "", list[str]()
    for line in filled:
        if _indent(line) > level:
            rest.append(line)
            continue
        if head:
            yield head, rest
        head, rest = line.strip(), []
    if head:
        yield head, rest


def _text(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines if line.strip())
