"""The library, its calls streamed and folded, as they are by default."""

from . import ours

VENV = "allm"
PROTOS = ("chat",)
IMPORT = ""
NEUTRAL = True
NOTE = "the default transport, calls streamed"


class Client(ours.Client):
    STREAMING = True
