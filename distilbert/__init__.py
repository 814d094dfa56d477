"""DistilBERT by hand. Reading order: model.py, train_cls.py, then the table in README under "Reading it"."""

import importlib

_HOMES = {
    "DistilBertConfig": "config",
    "DistilBertModel": "model",
    "DistilBertForMaskedLM": "model",
    "DistilBertForSequenceClassification": "model",
    "Tokenizer": "tokenizer",
    "infer_reviews": "predict",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    """Imports a public name when it is first asked for, so that `--help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
