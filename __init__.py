"""kadapter: knowledge adapters for Hugging Face encoders and language models.

Importing the package is fast and imports no torch; a name imports what it needs when it is first asked for. With the
first one, whichever it is, models and heads register themselves with the Auto classes, and pipelines by their tasks.
"""

from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "DependencyParsingPipeline": "pipelines_kadapter",
    "EntityClassificationPipeline": "pipelines_kadapter",
    "EntityEmbeddings": "embeddings_kadapter",
    "EntityPairClassificationPipeline": "pipelines_kadapter",
    "EntityLinker": "graphs.linking",
    "KAdapterConfig": "configuration_kadapter",
    "KnowledgeAdapterConfig": "configuration_kadapter",
    "KAdapterForCausalLM": "language_modeling_kadapter",
    "KAdapterForDependencyParsing": "heads_kadapter",
    "KAdapterForEntityClassification": "heads_kadapter",
    "KAdapterForEntityPairClassification": "heads_kadapter",
    "KAdapterForMaskedLM": "language_modeling_kadapter",
    "KAdapterForMultipleChoice": "heads_kadapter",
    "KAdapterForPairMatching": "heads_kadapter",
    "KAdapterForQuestionAnswering": "heads_kadapter",
    "KAdapterForSequenceClassification": "heads_kadapter",
    "KAdapterForTokenClassification": "heads_kadapter",
    "KAdapterModel": "modeling_kadapter",
    "KAdapterModelOutput": "modeling_kadapter",
    "KAdapterModelWithHeads": "several_heads_kadapter",
    "KnowledgeMap": "map_kadapter",
    "KnowledgeMapConfig": "map_kadapter",
    "KnowledgeSource": "processing_kadapter",
    "PreNormAdapter": "prenorm_kadapter",
    "PreNormAdapterConfig": "prenorm_kadapter",
    "TopLayersAdapter": "top_layers_kadapter",
    "TopLayersAdapterConfig": "top_layers_kadapter",
    "best_spans": "processing_kadapter",
    "encode_choices": "processing_kadapter",
    "encode_entities": "processing_kadapter",
    "encode_knowledge": "processing_kadapter",
    "encode_passages": "processing_kadapter",
    "encode_words": "processing_kadapter",
    "insert_entities": "processing_kadapter",
    "mark_entities": "processing_kadapter",
    "plug": "map_kadapter",
    "spacy_entities": "graphs.linking",
    "unplug": "map_kadapter",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    import importlib

    # which register themselves with transformers
    for module in ("language_modeling_kadapter", "pipelines_kadapter", "several_heads_kadapter"):
        importlib.import_module(f"{__name__}.{module}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
