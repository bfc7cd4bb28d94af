"""What models can do, as a small dated table, and the pre-flight that makes a request fit its model.

The table is data: rows from general to special, later rows win field by field, a user's rows
(`register_capabilities`) come last. What no row says is `None`, unknown, and passes. Sources: the
providers' API pages, the types of their own clients, and recorded refusals; each row has its date.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from allm.data.content import AudioPart, FilePart, ImagePart, OpaquePart, ToolCall
from allm.data.messages import Message
from allm.data.requests import Request
from allm.errors import UnknownOptionError, UnsupportedError, ValidationError

EFFORTS: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""The words of `reasoning`, from least to most."""


class Capabilities(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of one model at one endpoint; `None` is unknown and passes.

    `endpoint`: where OpenAI's model is best asked. `sampling`: temperature and top_p are taken, or
    only while the model does not reason. `efforts`: the words of `reasoning` that it can be given, in
    order; where it thinks by a budget the encoder makes a number of them. `default_effort`: what it
    does when nothing is said. `thinking`: how it is told to think; `budgets`: it takes `budget_tokens`;
    `thinking_off`: how it is told not to. `structured`: how it keeps a schema (`tool`: by a forced tool).
    `stop`: how many stop sequences. `image_detail`: the words beside `auto`. `prefill`: the messages may
    end with the assistant's. `parallel_tool_calls`: there is a switch for them. `as_of`: ISO date of the
    newest fact.
    """

    endpoint: Literal["responses", "chat"] | None = None
    sampling: bool | Literal["without_reasoning"] | None = None
    reasons: bool | None = None
    efforts: tuple[str, ...] | None = None
    default_effort: str | None = None
    thinking: Literal["adaptive", "budget", "level"] | None = None
    thinking_off: Literal["disabled", "between_tools", "never", "minimal"] | None = None
    budgets: bool | None = None
    tools: bool | None = None
    parallel_tool_calls: bool | None = None
    forced_tool_choice: bool | None = None
    forced_with_thinking: bool | None = None
    tools_with_reasoning_on_chat: bool | None = None
    structured: Literal["native", "tool", "json_object", "none"] | None = None
    tools_with_schema: bool | None = None
    images: bool | None = None
    files: bool | None = None
    audio: bool | None = None
    image_detail: tuple[str, ...] | None = None
    max_output_tokens: int | None = None
    prefill: bool | None = None
    seed: bool | None = None
    stop: int | None = None
    as_of: str | None = None


class Row(Struct, frozen=True):
    """Facts about the models of `provider` that fit one of `patterns` (`*` is any text), at one
    endpoint (`chat`, `responses`, `messages`, `generate`) or, where that is empty, at all."""

    provider: str
    patterns: tuple[str, ...]
    endpoint: str
    facts: dict[str, Any]


_READ: Final = "2026-11-01"  # the pages, clients and recordings were read then
_OLD: Final = "2026-02-01"  # facts about models that were old by then


def _row(provider: str, patterns: str, on: str = "", *, as_of: str = _READ, **facts: Any) -> Row:
    return Row(provider, tuple(patterns.split()), on, {**facts, "as_of": as_of})


_LOW_TO_HIGH: Final = ("low", "medium", "high")
_LOW_TO_XHIGH: Final = (*_LOW_TO_HIGH, "xhigh")
_LOW_TO_MAX: Final = (*_LOW_TO_XHIGH, "max")
_ALWAYS: Final[dict[str, Any]] = {"reasons": True, "sampling": False, "default_effort": "medium"}
_OPTIONAL: Final[dict[str, Any]] = {"reasons": True, "sampling": "without_reasoning"}
_ADAPTIVE: Final[dict[str, Any]] = {
    "thinking": "adaptive", "sampling": False, "budgets": False, "forced_with_thinking": None,
    "prefill": False, "structured": "native", "max_output_tokens": 128_000,
}  # fmt: skip

_OPENAI: Final = (
    _row("openai", "*", endpoint="responses", budgets=False, parallel_tool_calls=True),
    _row("openai", "*", "responses", seed=False, stop=0),
    _row("openai", "*", "chat", stop=4),
    _row("openai", "gpt-3.5* gpt-4* chatgpt-4o*", as_of=_OLD, endpoint="chat", reasons=False, sampling=True,
         audio=False, image_detail=("low", "high")),
    _row("openai", "gpt-3.5* gpt-4 gpt-4-*", as_of=_OLD, structured="json_object", images=False),
    _row("openai", "gpt-4-turbo gpt-4-turbo-2*", as_of=_OLD, images=True, max_output_tokens=4096),
    _row("openai", "gpt-4o* chatgpt-4o* gpt-4.1*", as_of=_OLD, structured="native", images=True),
    _row("openai", "gpt-4o* chatgpt-4o* gpt-5-chat*", as_of=_OLD, max_output_tokens=16_384),
    _row("openai", "gpt-4.1*", as_of=_OLD, max_output_tokens=32_768),
    _row("openai", "*audio*", as_of=_OLD, endpoint="chat", audio=True),
    _row("openai", "*-search-preview*", as_of=_OLD, endpoint="chat", sampling=False),
    _row("openai", "o1* o3* o4*", as_of=_OLD, **_ALWAYS, efforts=_LOW_TO_HIGH, audio=False,
         structured="native", image_detail=("low", "high")),
    _row("openai", "o1 o1-2* o1-pro* o3* o4*", as_of=_OLD, max_output_tokens=100_000),
    _row("openai", "o1* o3* o4*", "chat", as_of=_OLD, parallel_tool_calls=False),
    _row("openai", "o3* o4*", "chat", stop=0),
    _row("openai", "o1-mini* o1-preview*", as_of=_OLD, images=False, structured="none"),
    _row("openai", "o3-mini*", as_of=_OLD, images=False),
    _row("openai", "gpt-5* gpt-6-astra* gpt-6-sol* gpt-6-luna* gpt-6.1*", structured="native", images=True),
    _row("openai", "gpt-5 gpt-5-*", "chat", stop=0),
    _row("openai", "gpt-5*", **_ALWAYS, efforts=("minimal", *_LOW_TO_HIGH), audio=False,
         image_detail=("low", "high"), max_output_tokens=128_000),
    _row("openai", "gpt-5-codex* gpt-5.1-codex*", efforts=_LOW_TO_HIGH),
    _row("openai", "gpt-5.1-codex-max*", efforts=_LOW_TO_XHIGH),
    _row("openai", "gpt-5-pro*", efforts=("high",), default_effort="high"),
    _row("openai", "gpt-5-chat*", reasons=False, sampling=True, efforts=None, default_effort=None,
         max_output_tokens=16_384),
    _row("openai", "gpt-5-chat*", "chat", stop=4),
    _row("openai", "gpt-5.1 gpt-5.1-2*", **_OPTIONAL, efforts=("none", *_LOW_TO_HIGH), default_effort="none"),
    _row("openai", "gpt-5.2* gpt-5.3* gpt-5.4*", **_OPTIONAL, efforts=("none", *_LOW_TO_XHIGH),
         default_effort="none"),
    _row("openai", "gpt-5.5*", **_OPTIONAL, efforts=("none", *_LOW_TO_XHIGH)),
    _row("openai", "gpt-5.4* gpt-5.5* gpt-5.6*", image_detail=("low", "high", "original")),
    _row("openai", "gpt-5.*-pro*", **_ALWAYS, efforts=("medium", "high", "xhigh")),
    _row("openai", "gpt-5.*-chat*", **_ALWAYS, efforts=("medium",)),
    _row("openai", "gpt-5.6* gpt-6-sol* gpt-6-luna* gpt-6.1-terra*", **_OPTIONAL, default_effort="medium",
         efforts=("none", *_LOW_TO_MAX)),
    _row("openai", "gpt-5.6* gpt-6-sol* gpt-6-luna* gpt-6.1-terra*", "chat",
         efforts=("none", *_LOW_TO_XHIGH)),
    _row("openai", "gpt-6-astra* gpt-6.1-sol*", **_ALWAYS, efforts=_LOW_TO_MAX),
    _row("openai", "gpt-6-astra* gpt-6.1-sol*", "chat", efforts=_LOW_TO_XHIGH),
    _row("openai", "gpt-5.6* gpt-6*", "chat", tools_with_reasoning_on_chat=False),
)  # fmt: skip

_CLAUDE_5: Final = "claude-opus-5* claude-sonnet-5* claude-haiku-5* claude-fable-5* claude-mythos-*"
_ANTHROPIC: Final = (
    _row("anthropic", "*", audio=False, seed=False, image_detail=(), parallel_tool_calls=True),
    _row("anthropic", "claude-3*", as_of=_OLD, reasons=False, sampling=True, structured="tool", images=True,
         prefill=True),
    _row("anthropic", "claude-3-opus* claude-3-sonnet* claude-3-haiku*", as_of=_OLD, max_output_tokens=4096),
    _row("anthropic", "claude-3-5*", as_of=_OLD, max_output_tokens=8192),
    _row("anthropic", "claude-3-7* claude-opus-4* claude-sonnet-4* claude-haiku-4*", **_OPTIONAL,
         thinking="budget", thinking_off="disabled", budgets=True, efforts=EFFORTS, default_effort="none",
         forced_with_thinking=False, structured="tool", images=True, prefill=True, max_output_tokens=64_000),
    _row("anthropic", "claude-opus-4*", max_output_tokens=32_000),
    _row("anthropic", "claude-opus-4-1* claude-opus-4-5* claude-sonnet-4-5* claude-haiku-4-5*",
         structured="native"),
    _row("anthropic", "claude-opus-4-5*", efforts=("none", *_LOW_TO_HIGH), max_output_tokens=64_000),
    _row("anthropic", "claude-opus-4-6* claude-opus-4-7* claude-opus-4-8* claude-sonnet-4-6*", **_ADAPTIVE,
         efforts=("none", *_LOW_TO_MAX)),
    _row("anthropic", "claude-opus-4-6* claude-sonnet-4-6*", **_OPTIONAL, budgets=True,
         efforts=("none", *_LOW_TO_HIGH, "max")),
    _row("anthropic", _CLAUDE_5, **_ADAPTIVE, reasons=True, images=True, thinking_off="disabled",
         efforts=("none", *_LOW_TO_MAX), default_effort="high"),
    _row("anthropic", "claude-opus-5-5* claude-fable-5* claude-mythos-*", thinking_off="never",
         efforts=_LOW_TO_MAX),
    _row("anthropic", "claude-sonnet-5-5*", thinking_off="between_tools"),
    # Not `5-2*`: the date of a plain 5 begins with a 2 as well.
    _row("anthropic", "claude-opus-5-5* claude-sonnet-5-5* claude-fable-5-1* claude-mythos-5-1*"
         " claude-fable-5-2 claude-fable-5-2-* claude-mythos-5-2 claude-mythos-5-2-*",
         forced_tool_choice=False),
)  # fmt: skip

_GEMINI: Final = (
    _row("gemini", "*", parallel_tool_calls=False, seed=True, stop=5),
    _row("gemini", "gemini-1* gemini-2* gemma*", as_of=_OLD, reasons=False, tools_with_schema=False),
    _row("gemini", "gemini-1.5* gemini-2*", as_of=_OLD, images=True, audio=True, files=True,
         structured="native"),
    _row("gemini", "gemini-1.5* gemini-2.0*", as_of=_OLD, max_output_tokens=8192),
    _row("gemini", "gemini-2.5*", reasons=True, thinking="budget", thinking_off="disabled", budgets=True,
         efforts=EFFORTS, max_output_tokens=65_536),
    _row("gemini", "gemini-2.5-pro*", thinking_off="never", efforts=EFFORTS[1:]),
    _row("gemini", "gemini-3* gemini-4*", reasons=True, thinking="level", thinking_off="minimal", images=True,
         structured="native", tools_with_schema=True),
    _row("gemini", "gemini-3*", efforts=("minimal", *_LOW_TO_HIGH)),
    _row("gemini", "gemini-3-pro*", efforts=("low", "high")),
    _row("gemini", "gemini-3.1-pro* gemini-3.7-flash* gemini-3.8-flash* gemini-4-argon* gemini-4-carbon*",
         efforts=_LOW_TO_HIGH),
    _row("gemini", "gemini-3.1-flash-lite-image*", efforts=("minimal", "high")),
    _row("gemini", "*-image*", tools=False),
    _row("gemini", "gemini-2.5-flash-image*", reasons=False, structured="none", efforts=None,
         max_output_tokens=None),
)  # fmt: skip

# Servers that speak Chat Completions: only what is known to be refused there.
_COMPATIBLE: Final = (
    _row("deepseek", "*", "chat", structured="json_object", efforts=("low", "high", "max")),
    _row("deepseek", "deepseek-chat deepseek-reasoner", images=False, files=False, audio=False, efforts=None),
    _row("deepseek", "deepseek-reasoner", forced_tool_choice=False),
    _row("deepseek", "deepseek-v4* deepseek-flash", forced_with_thinking=False),
    _row("perplexity", "*", as_of=_OLD, tools=False),
    _row("groq", "*gpt-oss*", efforts=_LOW_TO_HIGH),
    _row("groq", "qwen/qwen3*", efforts=("none",)),
    _row("groq", "*llama-guard*", tools=False),
    _row("cerebras", "gpt-oss*", efforts=_LOW_TO_HIGH),
    _row("cerebras", "kimi-k3* zai-glm-5.3*", efforts=("low", "high", "max")),
    _row("xai", "grok-3-mini*", efforts=("none", "low", "high"), stop=0),
    _row("xai", "grok-4.3*", efforts=("none", *_LOW_TO_HIGH)),
    _row("xai", "grok-4.5* grok-4.6*", efforts=_LOW_TO_HIGH),
    _row("xai", "grok-4.7*", efforts=_LOW_TO_XHIGH),
    _row("xai", "grok-code-fast*", efforts=()),
)  # fmt: skip

TABLE: Final = (*_OPENAI, *_ANTHROPIC, *_GEMINI, *_COMPATIBLE)

_SAME_MODELS: Final = {"azure": "openai"}  # a provider that serves another's models by its API
_VENDORS: Final = {
    "openai": "openai", "anthropic": "anthropic", "google": "gemini", "deepseek": "deepseek", "x-ai": "xai",
}  # fmt: skip
# Facts of a model wherever it is served; everything else is a fact of the API that serves it.
_EVERYWHERE: Final = frozenset({"images", "audio", "max_output_tokens"})


class _Table:
    """All rows and what was looked up in them; replaced whole when a user's row comes or goes."""

    def __init__(self, added: dict[tuple[str, str, str], Row]) -> None:
        self.added = added
        self.rows = (*TABLE, *added.values())
        self.known: dict[tuple[str, str, str], Capabilities] = {}


_table = _Table({})
_MAX_KNOWN: Final = 4096  # model ids may come from a user's users


def capabilities_of(provider: str, model: str, endpoint: str = "") -> Capabilities:
    """What is known of `model` at `provider`; `endpoint` is the dialect it is asked in.

    A vendor's prefix is seen through: `openai/gpt-6-luna` at a host of many vendors' models and
    `us.anthropic.claude-opus-5-v1:0` have what the vendor's rows say of the model itself (images,
    audio, output limit), not what they say of the vendor's API.
    """
    table, key = _table, (provider, model, endpoint)
    found = table.known.get(key)
    if found is None:
        if len(table.known) >= _MAX_KNOWN:
            table.known.clear()
        found = table.known[key] = Capabilities(**_merged(table.rows, *key))
    return found


def register_capabilities(provider: str, pattern: str, *, dialect: str = "", **facts: Any) -> None:
    """Put facts above the built-in ones, for this process; `None` makes a fact unknown again.

    `pattern` is a model id in which `*` stands for any text, `dialect` the endpoint it holds for
    (`chat`, `responses`, `messages`, `generate`) or, where empty, all. The same pattern again replaces
    the row before. Raises `UnknownOptionError` for a name that is no field of `Capabilities`,
    `ValidationError` for a value of the wrong kind.
    """
    added = dict(_table.added)
    added[provider, pattern, dialect] = Row(provider, (pattern.lower(),), dialect, _read_facts(facts))
    _install(added)


def unregister_capabilities(provider: str, pattern: str, *, dialect: str = "") -> None:
    """Take back what `register_capabilities` put there; nothing happens where there is nothing."""
    added = dict(_table.added)
    added.pop((provider, pattern, dialect), None)
    _install(added)


def _install(added: dict[tuple[str, str, str], Row]) -> None:
    global _table
    _table = _Table(added)


def _read_facts(facts: dict[str, Any]) -> dict[str, Any]:
    known = Capabilities.__struct_fields__
    for name in facts:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known))}"
            raise UnknownOptionError(f"unknown capability {name!r}; {hint}")
    try:
        wanted = msgspec.convert(facts, Capabilities)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise ValidationError.of("invalid capability", (path.removesuffix("`"), reason)) from None
    for name in ("efforts", "default_effort"):
        said = getattr(wanted, name) or ()
        for word in (said,) if isinstance(said, str) else said:
            if word not in EFFORTS:
                raise _unknown_effort(word, name)
    return {name: getattr(wanted, name) for name in facts}


def _merged(rows: Iterable[Row], provider: str, model: str, endpoint: str) -> dict[str, Any]:
    vendor, names = _named(model)
    facts: dict[str, Any] = {}
    if vendor and vendor != provider:
        found = _facts(rows, vendor, names, "")
        facts = {name: value for name, value in found.items() if name in _EVERYWHERE or name == "as_of"}
    for owner in (_SAME_MODELS.get(provider), provider):
        facts.update(_facts(rows, owner, names, endpoint))
    return facts


def _facts(rows: Iterable[Row], provider: str | None, names: set[str], endpoint: str) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for row in rows:
        here = row.provider == provider and row.endpoint in ("", endpoint)
        if here and any(_fits(pattern, name) for pattern in row.patterns for name in names):
            facts.update(row.facts)
    return facts


def _named(model: str) -> tuple[str, set[str]]:
    """The vendor that an id names, if any, and the names under which rows may know the model.

    `us.anthropic.claude-opus-5-v1:0`, `anthropic/claude-opus-5.5`, `models/gemini-4-argon`,
    `ft:gpt-4.1:team::id` are all in use. Some hosts write Claude's versions with dots, not dashes.
    """
    whole = model.lower().removeprefix("models/").removeprefix("ft:")
    path, _, name = whole.rpartition("/")
    labels = path.split("/")
    head, dot, rest = name.partition(".")
    while dot and head.isalpha():
        labels.append(head)
        name = rest
        head, dot, rest = name.partition(".")
    vendor = next((_VENDORS[label] for label in labels if label in _VENDORS), "")
    return vendor, {whole, name, name.replace(".", "-") if name.startswith("claude-") else name}


def _fits(pattern: str, name: str) -> bool:
    first, *middle = pattern.split("*")
    if not middle:
        return name == pattern
    last = middle.pop()
    at = len(first)
    for part in middle:
        at = name.find(part, at) + len(part)
        if at < len(part):
            return False
    return name.startswith(first) and name.endswith(last) and at + len(last) <= len(name)


# Pre-flight


def preflight(
    request: Request, provider: str, endpoint: str, on_unsupported: str = "adapt"
) -> tuple[Request, tuple[str, ...]]:
    """`request` as its model takes it, and a warning for each thing that was left out or mapped.

    `adapt`: what does not change what was asked is left out or mapped to the nearest, the rest is
    refused. `raise`: both are refused. `pass`: the request as it is. A refusal is one
    `UnsupportedError` with every finding as (path, word and what to do instead).
    """
    if on_unsupported == "pass":
        return request, ()
    if on_unsupported not in ("adapt", "raise"):
        raise ValidationError.of("invalid option", ("on_unsupported", "must_be_adapt_raise_or_pass"))
    check = _Check(request, provider, endpoint, on_unsupported == "raise")
    for find in _FINDERS:
        find(check)
    return check.outcome()


class _Check:
    """One pre-flight: what the model can do, and what was found so far.

    `effort` is the one that the model will use, as far as known; `asked`: the user wants reasoning.
    """

    __slots__ = ("asked", "caps", "changes", "effort", "model", "problems", "raises", "request", "warnings")

    def __init__(self, request: Request, provider: str, endpoint: str, raises: bool) -> None:
        self.request = request
        self.model = request.model or provider
        self.raises = raises
        self.caps = capabilities_of(provider, request.model or "", endpoint)
        self.effort = "none" if self.caps.reasons is False else self.caps.default_effort
        self.asked = False
        self.changes: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.problems: list[tuple[str, str]] = []

    def change(self, field: str, value: Any, word: str, why: str, done: str = "is left out") -> None:
        self.changes[field] = value
        self.note(field, word, why, done)

    def note(self, path: str, word: str, why: str, done: str) -> None:
        """Something that `adapt` may do: a warning, or where nothing may be changed a problem."""
        if self.raises:
            self.problems.append((path, f"{word}: {why}; with on_unsupported='adapt' it {done}"))
        else:
            self.warnings.append(f"{path} {done}: {why}")

    def refuse(self, path: str, word: str, instead: str) -> None:
        self.problems.append((path, f"{word}: {instead}"))

    def outcome(self) -> tuple[Request, tuple[str, ...]]:
        if self.problems:
            raise UnsupportedError.of(f"{self.model!r} cannot do what is asked", *self.problems)
        request = replace(self.request, **self.changes) if self.changes else self.request
        return request, tuple(self.warnings)


def _reasoning(check: _Check) -> None:
    wanted, caps = check.request.reasoning, check.caps
    if wanted is None:
        return
    effort, budget = _asked(wanted)
    if caps.reasons is False:
        if effort in (None, "none") and not budget:  # nothing is lost
            check.changes["reasoning"] = None
        else:
            check.change("reasoning", None, "reasoning_refused", f"{check.model} does not reason")
        return
    if budget is not None and caps.budgets is False:
        effort = effort or _effort_of(budget)
        done = f"became the effort {effort!r}"
        check.change(
            "reasoning",
            _with_effort(wanted, effort, "budget_tokens"),
            "budget_refused",
            f"{check.model} takes an effort, not budget_tokens",
            done,
        )
    taken = _nearest(effort, caps.efforts)
    if taken != effort:
        known = ", ".join(caps.efforts or ()) or "none at all"
        why = f"the efforts of {check.model} are {known}"
        done = f"became {taken!r}" if taken else "is left out"
        left = check.changes.get("reasoning", wanted)
        check.change("reasoning", _with_effort(left, taken), "effort_refused", why, done)
    check.effort = taken or (_effort_of(budget) if budget else check.effort)
    check.asked = taken not in (None, "none") or bool(budget)


def _asked(wanted: str | dict[str, Any]) -> tuple[str | None, int | None]:
    """Effort and token budget of a `reasoning` option."""
    said: dict[str, Any] = {"effort": wanted} if isinstance(wanted, str) else wanted
    effort, budget = said.get("effort"), said.get("budget_tokens")
    if effort is not None and effort not in EFFORTS:
        raise _unknown_effort(effort, "reasoning")
    if budget is not None and type(budget) is not int:
        raise ValidationError.of("invalid request", ("reasoning.budget_tokens", "must_be_an_integer"))
    return effort, budget


def _unknown_effort(word: Any, path: str) -> ValidationError:
    return ValidationError.of("unknown effort", (path, f"{word!r} is not one of {', '.join(EFFORTS)}"))


# Upper ends in tokens, as the peers and the providers' own older guides grade them.
_BUDGETS: Final = ((0, "none"), (2048, "low"), (10_000, "medium"), (16_384, "high"), (32_768, "xhigh"))


def _effort_of(budget: int) -> str:
    if budget < 0:  # -1 leaves it to the model
        return "medium"
    return next((word for most, word in _BUDGETS if budget <= most), "max")


def _nearest(effort: str | None, efforts: tuple[str, ...] | None) -> str | None:
    """The effort of `efforts` next to the wanted one, the lower of two; a wish to reason is never
    mapped to `none`. `None` where there is none."""
    if effort is None or efforts is None or effort in efforts:
        return effort
    at = EFFORTS.index(effort)
    choices = [EFFORTS.index(word) for word in efforts if word != "none"]
    return EFFORTS[min(choices, key=lambda place: (abs(place - at), place))] if choices else None


def _with_effort(
    wanted: str | dict[str, Any] | None, effort: str | None, *dropped: str
) -> str | dict[str, Any] | None:
    if not isinstance(wanted, dict):
        return effort
    kept = {name: value for name, value in wanted.items() if name != "effort" and name not in dropped}
    return ({**kept, "effort": effort} if effort else kept) or None


def _tools(check: _Check) -> None:
    request, caps = check.request, check.caps
    if request.tools and caps.tools is False:
        check.refuse("tools", "tools_refused", "leave the tools out, or take another model")
        return
    if request.tools and caps.tools_with_reasoning_on_chat is False:
        instead = "set adapter_options={'endpoint': 'responses'}, or reasoning='none'"
        _exclude_reasoning(check, "tools_with_reasoning_refused", instead, "tools on chat")
    if _forced(request.tool_choice):
        if caps.forced_tool_choice is False:
            instead = "set tool_choice='auto' and ask for the tool in the prompt"
            check.refuse("tool_choice", "forced_choice_refused", instead)
        elif caps.forced_with_thinking is False:
            instead = "set reasoning='none', or tool_choice='auto'"
            _exclude_reasoning(check, "forced_choice_with_reasoning_refused", instead, "a forced tool choice")
    if request.parallel_tool_calls is not None and caps.parallel_tool_calls is False:
        if request.parallel_tool_calls:  # they are allowed anyway
            check.changes["parallel_tool_calls"] = None
        else:
            why = f"{check.model} has no switch for parallel calls"
            check.change("parallel_tool_calls", None, "switch_refused", why)


def _exclude_reasoning(check: _Check, word: str, instead: str, beside: str) -> None:
    """`beside` goes without reasoning only: refused where reasoning was asked for, else it is turned off."""
    if check.effort in (None, "none"):
        return
    if check.asked or "none" not in (check.caps.efforts or ()):
        check.refuse("reasoning", word, instead)
        return
    wanted = _with_effort(check.changes.get("reasoning", check.request.reasoning), "none")
    why = f"{check.model} takes {beside} only without reasoning"
    check.change("reasoning", wanted, word, why, "became 'none'")
    check.effort = "none"


_FORCED: Final = frozenset({"any", "tool", "function", "custom", "required"})


def _forced(choice: str | dict[str, Any] | None) -> bool:
    if isinstance(choice, dict):
        return choice.get("type") in _FORCED
    return choice not in (None, "auto", "none")


def _sampling(check: _Check) -> None:
    caps, request = check.caps, check.request
    if caps.sampling is None or caps.sampling is True:
        return
    if caps.sampling == "without_reasoning" and check.effort in (None, "none"):
        return
    when = " while it reasons" if caps.sampling else ""
    for name in ("temperature", "top_p"):
        value = getattr(request, name)
        if value == 1:  # what the model does anyway
            check.changes[name] = None
        elif value is not None:
            check.change(name, None, "sampling_refused", f"{check.model} takes no {name}{when}")


def _limits(check: _Check) -> None:
    caps, request = check.caps, check.request
    if request.seed is not None and caps.seed is False:
        check.change("seed", None, "seed_refused", f"{check.model} takes none at this endpoint")
    if caps.stop is not None and len(request.stop) > caps.stop:
        why = f"{check.model} takes {caps.stop or 'no'} stop sequences at this endpoint"
        done = f"keeps its first {caps.stop}" if caps.stop else "is left out"
        check.change("stop", request.stop[: caps.stop], "stop_refused", why, done)
    most = caps.max_output_tokens
    if most is not None and request.max_tokens is not None and request.max_tokens > most:
        why = f"{check.model} writes at most {most} tokens"
        check.change("max_tokens", most, "max_tokens_too_large", why, f"became {most}")


def _schema(check: _Check) -> None:
    wanted, kind = check.request.response_format, check.caps.structured
    if wanted is None or wanted.type == "text":
        return
    if kind == "none":
        instead = "leave response_format out and ask for the shape in the prompt, or take another model"
        check.refuse("response_format", "schema_refused", instead)
    elif kind == "json_object" and wanted.type == "json_schema":
        why = f"{check.model} promises JSON, but no schema"
        check.note("response_format", "schema_not_enforced", why, "is sent as 'json_object'")


def _prefill(check: _Check) -> None:
    messages = check.request.messages
    if check.caps.prefill is not False or not messages or messages[-1].role != "assistant":
        return
    content = messages[-1].content
    # A turn that the provider paused, or with open calls, is not the beginning of an answer.
    if type(content) is tuple and any(type(part) in (ToolCall, OpaquePart) for part in content):
        return
    instead = "end with a user message; ask for the beginning you want in the prompt"
    check.refuse(f"messages[{len(messages) - 1}]", "prefill_refused", instead)


def _content(check: _Check) -> None:
    """Images, files and sound in what the user and the tools say. What the model itself once said is
    made fit where the thread is prepared."""
    caps = check.caps
    refused = {
        kind: word
        for kind, word, able in (
            (ImagePart, "images_refused", caps.images),
            (FilePart, "files_refused", caps.files),
            (AudioPart, "audio_refused", caps.audio),
        )
        if able is False
    }
    if refused:
        for path, part in _parts(check.request.messages, frozenset(refused)):
            check.refuse(path, refused[type(part)], "put it in words, or take another model")
    if caps.image_detail is not None and ImagePart not in refused:
        _detail(check, caps.image_detail)


def _parts(messages: tuple[Message, ...], kinds: Container[type]) -> Iterator[tuple[str, Any]]:
    """The parts of these kinds that are not the model's own, each with its path."""
    for index, message in enumerate(messages):
        if type(message.content) is tuple and message.role != "assistant":
            for place, part in enumerate(message.content):
                if type(part) in kinds:
                    yield f"messages[{index}].content[{place}]", part


def _detail(check: _Check, known: tuple[str, ...]) -> None:
    strange = {
        part.detail: path
        for path, part in _parts(check.request.messages, (ImagePart,))
        if part.detail != "auto" and part.detail not in known
    }
    if not strange:
        return
    nearest = "high" if "high" in known else "auto"
    taken = {word: nearest if word == "original" else "auto" for word in strange}
    check.changes["messages"] = tuple([_with_detail(message, taken) for message in check.request.messages])
    for word, path in strange.items():
        why = f"{check.model} knows no image detail {word!r}"
        check.note(f"{path}.detail", "detail_refused", why, f"became {taken[word]!r}")


def _with_detail(message: Message, taken: dict[str, str]) -> Message:
    if type(message.content) is not tuple or message.role == "assistant":
        return message
    parts = tuple([
        replace(part, detail=taken[part.detail]) if type(part) is ImagePart and part.detail in taken else part
        for part in message.content
    ])  # fmt: skip
    return message if parts == message.content else replace(message, content=parts)


# Reasoning first: what the others may do depends on it.
_FINDERS: Final[tuple[Callable[[_Check], None], ...]] = (
    _reasoning, _tools, _sampling, _limits, _schema, _prefill, _content,
)  # fmt: skip
