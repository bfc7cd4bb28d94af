"""The library with the extra `fast`, its calls streamed and folded, as they are by default."""

from . import ours

VENV = "allm_fast"
PROTOS = ("chat",)
IMPORT = ""
NEUTRAL = True
NOTE = "the extra fast, calls streamed"


class Client(ours.Client):
    STREAMING = True
