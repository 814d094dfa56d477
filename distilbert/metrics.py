"""From logits and labels to the figures of a report: in numpy, from counts and sums, never from means of means."""

import math

import numpy as np

Z95 = 1.959963984540054  # the standard normal's 97.5% quantile


def classification_metrics(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Every figure of a two- or many-class evaluation, from logits (N, C) and labels (N,).

    precision, recall, f1 and roc_auc take class 1 as the positive one and appear with two classes only.
    A figure that the data can't define (no positive predicted, one class absent) is NaN.
    """
    probabilities = softmax(logits)
    matrix = confusion_matrix(logits.argmax(axis=1), labels, logits.shape[1])
    n, right = int(matrix.sum()), int(np.trace(matrix))
    metrics = {
        "n": n,
        "accuracy": ratio(right, n),
        "accuracy_interval": wilson_interval(right, n),
        "loss": cross_entropy(logits, labels),
        "ece": expected_calibration_error(probabilities, labels),
        "brier": brier_score(probabilities, labels),
        "confusion_matrix": matrix.tolist(),
    }
    if logits.shape[1] == 2:
        metrics |= binary_metrics(matrix) | {"roc_auc": roc_auc(logits[:, 1] - logits[:, 0], labels)}
    return metrics


def masked_lm_metrics(loss_sum: float, right: int, n: int) -> dict:
    """Of n masked tokens in all: mean loss in nats, perplexity = exp(loss), and the share guessed right.

    From sums and counts, because the exponential of a mean of batch means is another number.
    """
    loss = ratio(loss_sum, n)
    perplexity = math.inf if loss > 700 else math.exp(loss)  # exp overflows a little above 709
    return {"n": n, "loss": loss, "perplexity": perplexity, "masked_accuracy": ratio(right, n)}


def confusion_matrix(predictions: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(C, C) counts; row = what it is, column = what was said, as in scikit-learn."""
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def binary_metrics(matrix: np.ndarray) -> dict:
    """precision = TP/(TP+FP), recall = TP/(TP+FN), f1 = their harmonic mean = 2TP/(2TP+FP+FN)."""
    (_, false_positive), (false_negative, true_positive) = matrix.tolist()
    return {
        "precision": ratio(true_positive, true_positive + false_positive),
        "recall": ratio(true_positive, true_positive + false_negative),
        "f1": ratio(2 * true_positive, 2 * true_positive + false_positive + false_negative),
    }


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def wilson_interval(right: int, n: int) -> list[float]:
    """The 95% interval of a proportion (Wilson 1927): all p that a test at 5% does not reject, given `right` of n.

    Unlike p ± 1.96·√(p(1-p)/n) it stays within 0 and 1 and does not collapse when everything is right.
    """
    if n == 0:
        return [math.nan, math.nan]
    p, z2 = right / n, Z95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n**2))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def roc_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The chance that a random positive scores above a random negative, ties counting half (Hanley & McNeil 1982).

    The Mann-Whitney statistic: the rank sum of the positives minus its smallest possible value, divided by all pairs.
    """
    positives = int((labels == 1).sum())
    negatives = len(labels) - positives
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(size) - (size - 1) / 2)[group]  # equal scores share their mean rank
    return ratio(float(ranks[labels == 1].sum()) - positives * (positives + 1) / 2, positives * negatives)


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean |accuracy - confidence| over equal-width bins of confidence, weighted by count (Guo et al. 2017, eq. 3)."""
    _, right, confidence = reliability(probabilities, labels, bins)
    return ratio(float(np.abs(right - confidence).sum()), len(labels))


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> tuple[np.ndarray, ...]:
    """For each equal-width bin of confidence: how many texts, how many judged right, the sum of their confidences."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    index = np.searchsorted(np.arange(1, bins) / bins, confidence)  # a bin holds its upper edge
    return tuple(np.bincount(index, weights, bins) for weights in (None, right, confidence))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of ½·Σ(p - y)² over the classes, y one-hot: half of Brier's (1950); of two classes (p(class 1) - label)²."""
    distance = probabilities - np.eye(probabilities.shape[1])[labels]
    return ratio(float((distance**2).sum()) / 2, len(labels))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of -log p(label), in nats."""
    return ratio(float(-log_softmax(logits)[np.arange(len(labels)), labels].sum()), len(labels))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits))
