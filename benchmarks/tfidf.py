"""The floor that a neural model should stand above: TF-IDF of words and word pairs, logistic regression, by scikit-learn.

    python benchmarks/tfidf.py --data aclImdb_v1.tar.gz --output results/tfidf-imdb.json

The regression's strength is chosen on validation; the official test is judged once.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from data.sources import Part, check_classes, load, prepare
from distilbert.cli import user_errors
from distilbert.files import write_json
from distilbert.metrics import classification_metrics
from distilbert.start import machine

STRENGTHS = (1.0, 4.0, 16.0, 64.0, 256.0)  # inverse of the L2 penalty


def logits_of(model: LogisticRegression, features) -> np.ndarray:
    """(n, 2): a regression of two classes gives their difference alone."""
    difference = model.decision_function(features)
    return np.stack([-difference / 2, difference / 2], axis=1)


def fit(parts: dict[str, Part]) -> tuple[dict, float, int]:
    """Metrics of the test, the strength that was best on validation, and the number of features."""
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode")
    features = {"train": vectorizer.fit_transform(parts["train"].texts)}
    features |= {name: vectorizer.transform(parts[name].texts) for name in ("validation", "test")}
    models = [
        LogisticRegression(C=strength, max_iter=1_000).fit(features["train"], parts["train"].labels) for strength in STRENGTHS
    ]
    scores = [model.score(features["validation"], parts["validation"].labels) for model in models]
    best = int(np.argmax(scores))
    metrics = classification_metrics(logits_of(models[best], features["test"]), parts["test"].labels)
    return metrics, STRENGTHS[best], len(vectorizer.vocabulary_)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="IMDb: aclImdb_v1.tar.gz, aclImdb/, or imdb to download it")
    parser.add_argument("--output", type=Path, required=True, help="where the record goes (JSON)")
    given = parser.parse_args(argv)
    parts = load(given.data)
    parts, dropped = prepare(parts)
    parts = check_classes(parts, ("train", "validation", "test"), given.data)
    started = time.perf_counter()
    metrics, strength, features = fit(parts)
    record = {
        "system": f"TF-IDF and logistic regression, C = {strength:g}",
        "arguments": {"data": Path(given.data).name},
        "machine": machine(),
        "data": {name: len(part) for name, part in parts.items()} | {"dropped_duplicates": dropped},
        "features": features,
        "metrics": {"test": metrics},
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(given.output, record)
    print(f"{record['system']}: test accuracy {metrics['accuracy']:.4f} on {metrics['n']} texts")


if __name__ == "__main__":
    with user_errors():
        main()
