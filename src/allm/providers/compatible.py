"""Servers that speak OpenAI's Chat Completions, as a table: address, key, and what they want differently.

A server that is not listed works by its address: `adapter("compatible")` with `base_url=`. Many of them
speak Responses too: `adapter_options={"endpoint": "responses"}` asks for it.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from allm.errors import UnknownProviderError
from allm.ports import KeyRule
from allm.providers.openai import OpenAI
from allm.providers.openai.chat import Quirks


class Row(Struct, frozen=True):
    """One server. `keyless`: a key is sent where there is one, and asked of nobody. `encrypted`: what its
    Responses endpoint gives models that nothing is known of, see `OpenAIResponses`."""

    name: str
    base_url: str
    variables: tuple[str, ...]
    quirks: Quirks = Quirks()
    keyless: bool = False
    header: str = "authorization"
    prefix: str = "Bearer "
    encrypted: bool = False

    @property
    def key(self) -> KeyRule:
        return KeyRule(self.name, self.variables, self.header, self.prefix, not self.keyless)


ROWS: Final = (
    Row(
        "groq",
        "https://api.groq.com/openai/v1",
        ("GROQ_API_KEY",),
        Quirks(max_tokens="max_completion_tokens"),
    ),
    Row(
        "mistral",
        "https://api.mistral.ai/v1",
        ("MISTRAL_API_KEY",),
        Quirks(stream_usage=False, seed="random_seed", replay="thinking"),
    ),
    Row(
        "deepseek",
        "https://api.deepseek.com/v1",
        ("DEEPSEEK_API_KEY",),
        Quirks(strict_tools=False, replay="reasoning_content"),
    ),
    Row(
        "openrouter",
        "https://openrouter.ai/api/v1",
        ("OPENROUTER_API_KEY",),
        Quirks(reasoning="object", replay="reasoning_details", file_urls=True),
        encrypted=True,
    ),
    Row("xai", "https://api.x.ai/v1", ("XAI_API_KEY",), encrypted=True),
    Row("together", "https://api.together.xyz/v1", ("TOGETHER_API_KEY", "TOGETHER_AI_API_KEY")),
    Row(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        ("FIREWORKS_API_KEY",),
        Quirks(replay="reasoning_content"),
    ),
    Row(
        "cerebras",
        "https://api.cerebras.ai/v1",
        ("CEREBRAS_API_KEY",),
        Quirks(max_tokens="max_completion_tokens"),
    ),
    Row("perplexity", "https://api.perplexity.ai", ("PERPLEXITY_API_KEY", "PPLX_API_KEY")),
    # Each customer has an address of their own, `https://NAME.openai.azure.com/openai/v1`.
    Row(
        "azure",
        "",
        ("AZURE_OPENAI_API_KEY",),
        Quirks(max_tokens="max_completion_tokens", cache_key=True),
        header="api-key",
        prefix="",
    ),
    Row("ollama", "http://localhost:11434/v1", ("OLLAMA_API_KEY",), keyless=True),
    Row("lmstudio", "http://localhost:1234/v1", ("LMSTUDIO_API_KEY",), keyless=True),
    Row("vllm", "http://localhost:8000/v1", ("VLLM_API_KEY",), Quirks(replay="same"), keyless=True),
    Row(
        "llamacpp",
        "http://localhost:8080/v1",
        ("LLAMA_API_KEY",),
        Quirks(replay="reasoning_content"),
        keyless=True,
    ),
    Row("compatible", "", ("COMPATIBLE_API_KEY",), Quirks(replay="same"), keyless=True),
)
TABLE: Final = {row.name: row for row in ROWS}


def adapter(name: str) -> OpenAI:
    """The adapter of a row; raises `UnknownProviderError` for a name that has none."""
    row = TABLE.get(name)
    if row is None:
        raise UnknownProviderError(f"no compatible server {name!r}; known: {', '.join(TABLE)}")
    return OpenAI(row.name, row.base_url, row.key, default="chat", quirks=row.quirks, encrypted=row.encrypted)
