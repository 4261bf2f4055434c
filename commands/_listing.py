"""The artifacts on the Hub, as their cards tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import HTTPError

from ._hub import no_answer, unreadable

__all__ = ["artifacts_on_hub"]

EVERY = "kadapter"  # a tag of all artifacts
BACKBONE = "base_model:adapter:"  # how the Hub tags what a card calls an adapter of a base model
OF_THE_HUB = ("base_model:", "license:", "region:", "arxiv:", "dataset:")
USUAL = {EVERY, "adapter", "transformers", "safetensors", "custom_code", "endpoints_compatible"}


def artifacts_on_hub(
    author: str | None, backbone: str | None, tags: Sequence[str], limit: int
) -> list[dict[str, Any]]:
    """Return id, backbone, own tags, downloads and date of artifacts, ordered by backbone and id.

    Raises:
        OSError: the Hub can't be reached, or answers as none does.
    """
    wanted = [EVERY, *tags, *([BACKBONE + backbone] if backbone else [])]
    try:
        models = list(HfApi().list_models(author=author, filter=wanted, limit=limit))
        told = list(map(_told, models))
    except HTTPError as error:
        raise OSError(f"the Hub can't be asked: {no_answer(error)}") from error
    except OSError as error:
        raise OSError(f"the Hub can't be asked ({error})") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OSError(f"the Hub can't be asked: {unreadable(error)}") from error
    return sorted(told, key=lambda entry: (entry["backbone"] or "", entry["id"]))


def _told(model: ModelInfo) -> dict[str, Any]:
    tags = model.tags or []
    modified = model.last_modified or model.created_at
    return {
        "id": model.id,
        "backbone": next((tag.removeprefix(BACKBONE) for tag in tags if tag.startswith(BACKBONE)), None),
        "tags": [tag for tag in tags if tag not in USUAL and not tag.startswith(OF_THE_HUB)],
        "downloads": model.downloads or 0,
        "modified": None if modified is None else modified.date().isoformat(),
        "private": bool(model.private),
    }
