"""The library with the extra `fast` installed: the same client, the same calls."""

from .ours import Client as Client

VENV = "allm_fast"
PROTOS = ("chat", "resp", "anth", "gem")
IMPORT = "import allm; allm.stream(allm.Engine('openai:gpt-4.1-mini'), 'x', api_key='x')"
NEUTRAL = True
NOTE = "the extra fast"
