"""kadapter: knowledge adapters for Hugging Face encoders.

Importing the package is fast and imports no torch; a name imports what it needs when it is first asked for. With the
first one, whichever it is, the model and its heads register themselves with the Auto classes.
"""

from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "KAdapterConfig": "configuration_kadapter",
    "KnowledgeAdapterConfig": "configuration_kadapter",
    "KAdapterForDependencyParsing": "modeling_kadapter",
    "KAdapterForEntityClassification": "modeling_kadapter",
    "KAdapterForEntityPairClassification": "modeling_kadapter",
    "KAdapterForMultipleChoice": "modeling_kadapter",
    "KAdapterForQuestionAnswering": "modeling_kadapter",
    "KAdapterForSequenceClassification": "modeling_kadapter",
    "KAdapterForTokenClassification": "modeling_kadapter",
    "KAdapterModel": "modeling_kadapter",
    "KAdapterModelOutput": "modeling_kadapter",
    "best_spans": "modeling_kadapter",
    "encode_choices": "modeling_kadapter",
    "encode_entities": "modeling_kadapter",
    "encode_passages": "modeling_kadapter",
    "encode_words": "modeling_kadapter",
    "mark_entities": "modeling_kadapter",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    importlib.import_module(f"{__name__}.modeling_kadapter")  # registers with the Auto classes
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
