"""A thread made fit for a target: one conversation goes from provider to provider and back.

`prepare` is pure. What a provider gave for itself (signed thinking, server-tool items, signatures, item
ids) stays with the provider, endpoint and model it came from and is left out for all others; the stored
thread keeps everything. Call ids, results and media are put as the target takes them. The report says
what was done.

What the dialects refuse, read in November 2026: OpenAI takes call ids of up to 64 characters and Mistral of
exactly nine letters and digits; Anthropic takes ids of letters, digits, `_` and `-`, and thinking only
after the very conversation it was made in; Gemini 3 and later want a signature on the first call of a
model turn, and name a word to send for a call that another model made.
"""

from __future__ import annotations

from allm.preparing.fingerprints import fingerprint, head_of
from allm.preparing.pairing import is_paired
from allm.preparing.reports import Change, Report
from allm.preparing.targets import SIGNATURE, UNSIGNED_CALL, Target, same_model
from allm.preparing.threads import Ready, prepare, readied

__all__ = [
    "SIGNATURE",
    "UNSIGNED_CALL",
    "Change",
    "Ready",
    "Report",
    "Target",
    "fingerprint",
    "head_of",
    "is_paired",
    "prepare",
    "readied",
    "same_model",
]
