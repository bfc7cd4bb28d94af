"""The library with the extra `fast` installed: the same client, the same calls."""

from .ours import Client as Client

VENV = "allm_fast"
PROTOS = ("chat", "resp", "anth", "gem")
IMPORT = "import allm; from allm import stream; from allm.aio import stream; allm.Engine('openai:gpt-4.1-mini')"
NEUTRAL = True
NOTE = "the extra fast"
