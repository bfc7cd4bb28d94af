"""Who a thread is prepared for, and what the dialects take."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from allm.data.content import AudioPart, FilePart, ImagePart, Origin, Part
from allm.data.requests import ModelRef
from allm.errors import ValidationError

SIGNATURE: Final = "thoughtSignature"
UNSIGNED_CALL: Final = {SIGNATURE: "skip_thought_signature_validator"}
"""What Gemini documents for a call that carries no signature of its own."""

MEDIA: Final = (ImagePart, FilePart, AudioPart)


class Rules(Struct, frozen=True, kw_only=True):
    """What a dialect takes. Ids that do not fit are made anew: `id_prefix` and a hash, `id_length` long.

    `hangs_on_reasoning`: provider data that is refused once the turn's reasoning is left out; with
    `items_hang` so are the items of server tools. `system_first`: system messages are sent before all
    others, wherever they stand. `own_media`: what the target itself drew stays in its turn.
    """

    call_id: re.Pattern[str]
    id_prefix: str = "call_"
    id_length: int = 29
    assistant_media: tuple[type[Part], ...] = ()
    result_media: tuple[type[Part], ...] = (ImagePart, FilePart)
    signed_reasoning: bool = False
    hangs_on_reasoning: tuple[str, ...] = ()
    items_hang: bool = False
    system_first: bool = False
    own_media: bool = False


_ANY_ID: Final = re.compile(r"(?s).+")
_SHORT_ID: Final = re.compile(r"[!-~]{1,64}")
_NEUTRAL: Final = Rules(call_id=_ANY_ID, assistant_media=MEDIA, result_media=MEDIA)
_RULES: Final = {
    "chat": Rules(call_id=_SHORT_ID, result_media=()),
    "responses": Rules(call_id=_SHORT_ID, hangs_on_reasoning=("item_id",), items_hang=True, own_media=True),
    "messages": Rules(call_id=re.compile(r"[a-zA-Z0-9_-]{1,64}"), signed_reasoning=True, system_first=True),
    "generate": Rules(call_id=_ANY_ID, assistant_media=(ImagePart, FilePart), result_media=MEDIA),
}
_MISTRAL: Final = replace(_RULES["chat"], call_id=re.compile(r"[a-zA-Z0-9]{9}"), id_prefix="", id_length=9)
_OLD_GEMINI: Final = replace(_RULES["generate"], result_media=())
_ENDPOINTS: Final = {"openai": "responses", "anthropic": "messages", "gemini": "generate"}


class Target(Struct, frozen=True):
    """Who the thread is for. An empty `model` stands for every model of the provider."""

    provider: str
    endpoint: str
    model: str = ""

    @classmethod
    def of(cls, target: Target | Origin | ModelRef | str) -> Target:
        """From `"provider:model"` and the like; the endpoint is the provider's usual one where none is said.

        Raises `ConfigurationError` for a string that names no provider.
        """
        if isinstance(target, Target):
            return target
        if isinstance(target, Origin):
            endpoint = target.endpoint or _ENDPOINTS.get(target.provider, "chat")
            return cls(target.provider, endpoint, target.model)
        if not isinstance(target, ModelRef | str):
            raise ValidationError.of("no such target", ("target", f"invalid_type {type(target).__name__}"))
        ref = ModelRef.parse(target)
        return cls(ref.provider, _ENDPOINTS.get(ref.provider, "chat"), ref.id)

    @property
    def origin(self) -> Origin:
        """The origin of what the target answers."""
        return Origin(self.provider, self.endpoint, self.model)

    def owns(self, origin: Origin | None) -> bool:
        """Whether what came from `origin` may go back to this target."""
        if origin is None or origin.provider != self.provider:
            return False
        if origin.endpoint and origin.endpoint != self.endpoint:
            return False
        return not (origin.model and self.model) or same_model(origin.model, self.model)

    @property
    def _rules(self) -> Rules:
        if self.endpoint == "chat" and self.provider == "mistral":
            return _MISTRAL
        if self.endpoint == "generate" and not self._wants_signatures:
            return _OLD_GEMINI
        return _RULES.get(self.endpoint, _NEUTRAL)

    @property
    def _wants_signatures(self) -> bool:
        return self.endpoint == "generate" and _UNSIGNED_MODELS.match(self.model) is None


_UNSIGNED_MODELS: Final = re.compile(r"(models/)?(gemini-[12](?!\d)|gemma)")
_VERSION: Final = re.compile(r"[-@](\d{8}|\d{4}-\d{2}-\d{2}|latest)$")


def same_model(one: str, other: str) -> bool:
    """Whether two ids name the same model: a date or `latest` at the end of one makes no difference."""
    if one == other:
        return True
    dated = [found for found in map(_VERSION.search, (one, other)) if found is not None]
    if len(dated) == 2 and "latest" not in (dated[0][1], dated[1][1]):
        return False
    return _VERSION.sub("", one) == _VERSION.sub("", other)
