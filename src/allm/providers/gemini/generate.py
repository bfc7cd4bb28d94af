"""Gemini's `generateContent`: requests, and where they go.

Sources: google-genai 3.4.0 and ai.google.dev, read 2026-11, and recorded traffic.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from msgspec.structs import replace

from allm.capabilities import capabilities_of
from allm.data.content import Origin
from allm.data.requests import Request, ResponseFormat, ToolSpec
from allm.data.responses import Response
from allm.errors import ConfigurationError, UnsupportedError
from allm.ports import CallContext, Decoder, HttpHead, HttpRequest, KeyRule
from allm.providers.encoding import (
    HttpAdapter,
    address,
    body_of,
    headers_of,
    merge_options,
    own_fields,
    said_in,
)
from allm.providers.gemini.contents import contents_of

if TYPE_CHECKING:
    from allm.providers.decoding import AnswerDecoder
    from allm.providers.gemini.generate_stream import GenerateTurn

GEMINI_URL = "https://generativelanguage.googleapis.com"
GEMINI_KEY = KeyRule("gemini", ("GOOGLE_API_KEY", "GEMINI_API_KEY"), "x-goog-api-key", "")

_VERSION = re.compile(r"/v1[a-z0-9]*(/|$)")
RESOURCES = ("models/", "tunedModels/", "projects/", "publishers/")
_TOOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,127}")
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY"}

_GENERATION = frozenset({
    "temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "responseLogprobs",
    "logprobs", "presencePenalty", "frequencyPenalty", "seed", "responseMimeType", "responseSchema",
    "responseJsonSchema", "responseModalities", "mediaResolution", "speechConfig", "thinkingConfig",
    "imageConfig", "audioTranscriptionConfig", "audioTimestamp", "enableEnhancedCivicAnswers",
    "routingConfig", "modelSelectionConfig",
})  # fmt: skip
_TOP_LEVEL = frozenset({
    "contents", "systemInstruction", "tools", "safetySettings", "cachedContent", "labels", "serviceTier",
    "store", "continuationToken", "modelArmorConfig",
})  # fmt: skip
_NEUTRAL = {"maxTokens": "maxOutputTokens", "stop": "stopSequences"}

_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576}
"""Tokens of thinking by effort, for models that take no level: Google's own table for OpenAI's words
("OpenAI compatibility", ai.google.dev, read 2026-11). The last is the most that every 2.5 model takes."""


class Gemini(HttpAdapter):
    """The adapter. Immutable; one serves any number of calls on any number of threads.

    `adapter_options`: `api_version`; `project`, to be billed; `json_schema=False` for servers that know
    only the older fields `responseSchema` and `parameters`; `follow_pauses=False`.
    """

    name = "gemini"
    base_url = GEMINI_URL
    key = GEMINI_KEY

    def target(self, request: Request, ctx: CallContext) -> Origin:
        return Origin(self.name, "generate", request.model or "")

    def encode(self, request: Request, ctx: CallContext) -> HttpRequest:
        """The request to send. Raises `ValidationError` for content that the wire has no place for."""
        options = ctx.adapter_options
        streaming = bool(options.get("streaming", True))
        messages, contents, warnings = said_in(self, request, ctx, request.system, contents_of, "model")
        if [message for message in messages if message.name and message.role == "user"]:
            warnings.append("the names of users are not sent: Gemini has no place for them")
        body = self._body(replace(request, messages=messages), contents, options, warnings)
        headers = headers_of(options, streaming, {"x-goog-user-project": options.get("project")})
        url = self._url(request.model or "", ctx, streaming)
        return HttpRequest(url, body_of(body), headers, self.key, warnings=tuple(warnings))

    def decoder(self, request: Request, head: HttpHead, ctx: CallContext) -> Decoder:
        answer, turn = _readers()
        return answer(turn(self.name, request), head, ctx.limits)

    def resume(self, request: Request, response: Response, ctx: CallContext) -> Request | None:
        """The same request with the token that a paused answer (`CONTINUATION`) came with."""
        token = response.provider_data.get("continuation_token")
        if not token or ctx.adapter_options.get("follow_pauses") is False:
            return None
        return replace(request, options={**request.options, "continuationToken": token})

    def _url(self, model: str, ctx: CallContext, streaming: bool) -> str:
        url = method_url(
            self.name, ctx, self.base_url, model, "streamGenerateContent" if streaming else "generateContent"
        )
        return url if not streaming else f"{url}&alt=sse" if "?" in url else f"{url}?alt=sse"

    def _body(
        self, request: Request, contents: list[Any], options: Mapping[str, Any], warnings: list[str]
    ) -> dict[str, Any]:
        json_schema = bool(options.get("json_schema", True))
        body: dict[str, Any] = {"contents": contents}
        system = [message.text for message in request.messages if message.role == "system"]
        if request.system is not None:
            system.insert(0, request.system)
        if system:
            body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
        self._tools(request, "parametersJsonSchema" if json_schema else "parameters", body, warnings)
        config = self._generation(request)
        if request.response_format is not None and request.response_format.type != "text":
            field = "responseJsonSchema" if json_schema else "responseSchema"
            config.update(_response_format(request.response_format, field, warnings))
        if config:
            body["generationConfig"] = config
        if isinstance(request.prompt_cache, dict):  # a key has no place here: Gemini caches by itself
            cached = request.prompt_cache.get("cachedContent") or request.prompt_cache.get("cached_content")
            if cached:
                body["cachedContent"] = cached
        _merge(body, request.options)
        return body

    def _tools(self, request: Request, field: str, body: dict[str, Any], warnings: list[str]) -> None:
        if request.tools:
            declared = [self._tool(tool, field, warnings) for tool in request.tools]
            body["tools"] = [{"functionDeclarations": declared}]
        choice = _tool_choice(request)
        if choice is not None:
            body["toolConfig"] = choice

    def _generation(self, request: Request) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for name, value in (
            ("maxOutputTokens", request.max_tokens),
            ("temperature", request.temperature),
            ("topP", request.top_p),
            ("stopSequences", list(request.stop) or None),
            ("seed", request.seed),
        ):
            if value is not None:
                config[name] = value
        if request.reasoning is not None:
            config["thinkingConfig"] = self._thinking(request.reasoning, request.model or "")
        return config

    def _thinking(self, wanted: str | dict[str, Any], model: str) -> dict[str, Any]:
        """`thinkingConfig`: a level, or for models before Gemini 3 a budget; thoughts are shown unless
        the summary is `none`."""
        given = {"effort": wanted} if isinstance(wanted, str) else dict(wanted)
        effort, summary = given.pop("effort", None), given.pop("summary", None)
        budget = given.pop("budget_tokens", None)
        config = {camel(name): value for name, value in given.items()}
        by_budget = capabilities_of(self.name, model.rpartition("/")[2], "generate").thinking == "budget"
        if budget is None and (effort == "none" or (effort and by_budget)):
            budget = _BUDGETS.get(effort, _BUDGETS["high"])
        if budget is not None:
            config["thinkingBudget"] = budget
        elif effort:
            config["thinkingLevel"] = "XHIGH" if effort == "max" else str(effort).upper()
        if budget != 0 and summary != "none":
            config.setdefault("includeThoughts", True)
        return config

    def _tool(self, tool: ToolSpec, field: str, warnings: list[str]) -> dict[str, Any]:
        from allm.dialects import tool_schema

        if _TOOL_NAME.fullmatch(tool.name) is None:
            rule = "must start with a letter or _, then up to 127 letters, digits, _ . : -"
            raise UnsupportedError.of("Gemini cannot take this tool", (f"tools.{tool.name}.name", rule))
        declared: dict[str, Any] = {"name": tool.name}
        if tool.description:
            declared["description"] = tool.description
        made = tool_schema(tool.schema, "gemini", strict=bool(tool.strict))
        warnings.extend([f"tool {tool.name}: {loss}" for loss in made.losses])
        declared[field] = made.schema
        return {**declared, **own_fields(tool, self.name)}


@cache
def _readers() -> tuple[type[AnswerDecoder], type[GenerateTurn]]:
    """What reads answers, loaded with the first of them."""
    from allm.providers.decoding import AnswerDecoder
    from allm.providers.gemini.generate_stream import GenerateTurn

    return AnswerDecoder, GenerateTurn


def method_url(name: str, ctx: CallContext, base_url: str, model: str, method: str) -> str:
    """The address of a method of a model. Raises `ConfigurationError` for a base URL with a key in it."""
    base, query = address(name, ctx, base_url)
    if "key" in parse_qs(query, keep_blank_values=True):
        raise ConfigurationError("the base_url holds a key: pass api_key= instead, it goes in a header")
    if not _VERSION.search(base.partition("://")[2]):
        base = f"{base}/{ctx.adapter_options.get('api_version') or _version(model)}"
    return f"{base}/{_resource(model)}:{method}" + (f"?{query}" if query else "")


def _version(model: str) -> str:
    """`v1` is the default since google-genai 3.0 (2026-11); the `-latest` aliases are on `v1beta` only."""
    return "v1beta" if model.endswith("-latest") else "v1"


def _resource(model: str) -> str:
    """The path of a model, quoted: whatever its id is, host and method stay ours."""
    steps = model.split("/") if model.startswith(RESOURCES) else ["models", model]
    if any(step.strip(".") == "" for step in steps):
        raise ConfigurationError(f"{model!r} is not the id of a model: 'gemini-...', 'tunedModels/...'")
    return "/".join([quote(step, safe="@") for step in steps])


def _tool_choice(request: Request) -> dict[str, Any] | None:
    choice = request.tool_choice
    if isinstance(choice, dict):
        return {"functionCallingConfig": choice} if "mode" in choice else choice
    if choice is None or not request.tools:
        return None
    if choice in _MODES:
        return {"functionCallingConfig": {"mode": _MODES[choice]}}
    return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [choice]}}


def _response_format(wanted: ResponseFormat, field: str, warnings: list[str]) -> dict[str, Any]:
    config: dict[str, Any] = {"responseMimeType": "application/json"}
    if wanted.type == "json_schema":
        from allm.dialects import adapted

        made = adapted(wanted.schema, "gemini")
        warnings.extend([f"response_format: {loss}" for loss in made.losses])
        config[field] = made.schema
    return config


def _merge(body: dict[str, Any], options: Mapping[str, Any]) -> None:
    """The user's own fields, each where it belongs; they come last and win.

    Names may be in snake case where they are known; `generationConfig` and `toolConfig` are merged.
    """
    config: dict[str, Any] = {}
    top: dict[str, Any] = {}
    for key, value in options.items():
        name = camel(key)
        name = _NEUTRAL.get(name, name)
        if name in _GENERATION:
            config[name] = [value] if name == "stopSequences" and isinstance(value, str) else value
        elif name == "generationConfig" and isinstance(value, dict):
            config.update({camel(inner): item for inner, item in value.items()})
        elif name == "toolConfig" and isinstance(value, dict):
            top[name] = {**body.get(name, {}), **{camel(inner): item for inner, item in value.items()}}
        else:
            top[name if name in _TOP_LEVEL else key] = value
    if config:
        body["generationConfig"] = {**body.get("generationConfig", {}), **config}
    merge_options(body, top)


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join([word[:1].upper() + word[1:] for word in rest])
