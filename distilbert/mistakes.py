"""Where a classifier errs: accuracy by kind of text, and its most confident mistakes."""

import re

import numpy as np

from data.sources import Part

from .cli import printable
from .metrics import softmax, wilson_interval

NEGATION = re.compile(r"\b(not|no|never|nothing|nobody|none|hardly|without|cannot|\w+n't)\b", re.IGNORECASE)


def accuracy_by_kind(logits: np.ndarray, part: Part) -> dict[str, dict]:
    """Accuracy by length, by negation, and by star rating where names tell it: kind → n, accuracy and its 95% interval."""
    right = logits.argmax(axis=1) == part.labels
    words = np.array([len(text.split()) for text in part.texts])
    quartiles = np.searchsorted(np.quantile(words, [0.25, 0.5, 0.75]), words)
    kinds = {f"words, quarter {i + 1} ({words[quartiles == i].min()}-{words[quartiles == i].max()})": quartiles == i
             for i in range(4) if (quartiles == i).any()}  # fmt: skip
    negated = np.array([len(NEGATION.findall(text)) for text in part.texts]) >= 3
    kinds |= {"three negations or more": negated, "fewer": ~negated}
    stars = np.array([int(match[1]) if (match := re.search(r"_(\d+)\.txt$", name)) else 0 for name in part.names])
    kinds |= {f"{rating} stars of 10": stars == rating for rating in np.unique(stars[stars > 0])}
    counts = {kind: (int(right[members].sum()), int(members.sum())) for kind, members in kinds.items() if members.any()}
    return {
        kind: {"n": n, "accuracy": correct / n, "accuracy_interval": wilson_interval(correct, n)}
        for kind, (correct, n) in counts.items()
    }


def confident_mistakes(logits: np.ndarray, part: Part, count: int) -> list[dict]:
    """The mistakes of the highest confidence, by their index in the part and their name: no text."""
    wrong, confidence = np.flatnonzero(logits.argmax(axis=1) != part.labels), softmax(logits).max(axis=1)
    return [
        {"index": int(i), "name": part.names[i], "said": int(logits[i].argmax()), "confidence": float(confidence[i])}
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
    ]


def print_errors(kinds: dict[str, dict], mistakes: list[dict], part: Part) -> None:
    for kind, figures in kinds.items():
        low, high = figures["accuracy_interval"]
        print(f"  {kind:28} accuracy {figures['accuracy']:.4f} ({low:.4f} to {high:.4f}), n {figures['n']}")
    print("the most confident mistakes:")
    for mistake in mistakes:
        said, text = ("Negative", "Positive")[mistake["said"]], " ".join(part.texts[mistake["index"]].split())
        print(printable(f"  {mistake['name']}: said {said} {mistake['confidence']:.3f}: {text[:90]}"))
