"""What goes wrong with the Hub: no answer at all, which is no OSError, and answers that are none of a Hub."""

from __future__ import annotations

from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError, HTTPError

__all__ = ["no_answer", "unreadable"]


def no_answer(error: HTTPError) -> str:
    """Return a sentence about a request that failed: an HfHubHTTPError had an answer, its other kinds had none."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HfHubHTTPError):
        return said
    return f"the Hub at {ENDPOINT} gives no answer ({said}); check the connection, or HF_ENDPOINT where it is set"


def unreadable(error: Exception) -> str:
    """Return a sentence about an answer that is none of a Hub."""
    said = " ".join(str(error).split())
    return (
        f"what {ENDPOINT} answers is not what a Hub does ({type(error).__name__}: {said}); check HF_ENDPOINT where it "
        "is set, and proxies on the way"
    )
