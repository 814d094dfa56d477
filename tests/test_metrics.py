"""Every figure of a report against scikit-learn, published intervals, or a sum done by hand."""

import json
import math

import numpy as np
import pytest
import sklearn.metrics

from distilbert.calibration import fit_temperature
from distilbert.metrics import (
    classification_metrics,
    confusion_matrix,
    cross_entropy,
    expected_calibration_error,
    log_softmax,
    masked_lm_metrics,
    reliability,
    roc_auc,
    softmax,
    wilson_interval,
)

NAN = math.nan


def confident(*rows):
    """Logits of two classes from (probability of the predicted class, that class)."""
    return np.log([[1 - p, p] if predicted else [p, 1 - p] for p, predicted in rows])


def sklearns(logits, labels):
    """What scikit-learn makes of it, NaN where it is not defined."""
    predictions, scores = logits.argmax(axis=1), logits[:, 1] - logits[:, 0]
    common = {"zero_division": np.nan}
    both = len(set(labels.tolist())) == 2
    return {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "precision": sklearn.metrics.precision_score(labels, predictions, **common),
        "recall": sklearn.metrics.recall_score(labels, predictions, **common),
        "f1": sklearn.metrics.f1_score(labels, predictions, **common),
        "roc_auc": sklearn.metrics.roc_auc_score(labels, scores) if both else NAN,
        "loss": sklearn.metrics.log_loss(labels, softmax(logits), labels=[0, 1]),
        "brier": sklearn.metrics.brier_score_loss(labels, softmax(logits)[:, 1], labels=[0, 1], pos_label=1),
        "confusion_matrix": sklearn.metrics.confusion_matrix(labels, predictions, labels=[0, 1]).tolist(),
    }


def assert_equal_to_sklearn(logits, labels):
    ours = classification_metrics(logits, labels)
    expected = sklearns(logits, labels)
    assert ours["confusion_matrix"] == expected.pop("confusion_matrix")
    assert {key: ours[key] for key in expected} == pytest.approx(expected, rel=1e-12, abs=1e-14, nan_ok=True)


# ---- against scikit-learn


@pytest.mark.parametrize("n", [2, 3, 10, 257])
@pytest.mark.parametrize("decimals", [9, 0])  # 0: whole numbers, so that many scores are equal
def test_every_figure_is_that_of_scikit_learn(n, decimals):
    random = np.random.default_rng(n)
    for _ in range(5):
        labels = random.permutation(np.arange(n) % 2)
        logits = random.normal(size=(n, 2)) * 2 + np.stack([1 - labels, labels], axis=1)
        assert_equal_to_sklearn(logits.round(decimals), labels)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 1]])
@pytest.mark.parametrize("predictions", [[0, 0, 0], [1, 1, 1], [1, 0, 0]])
def test_degenerate_parts_give_scikit_learns_figures_and_nan_where_there_are_none(labels, predictions):
    logits = confident(*((0.8 + i / 100, k) for i, k in enumerate(predictions)))
    assert_equal_to_sklearn(logits, np.array(labels))


def test_what_is_not_defined_is_nan():
    negatives_only = classification_metrics(confident((0.9, 0), (0.8, 0)), np.array([0, 0]))
    undefined = [key for key, value in negatives_only.items() if isinstance(value, float) and math.isnan(value)]
    assert undefined == ["precision", "recall", "f1", "roc_auc"]
    nothing = classification_metrics(np.zeros((0, 2)), np.zeros(0, dtype=int))
    assert nothing.pop("n") == 0 and nothing.pop("confusion_matrix") == [[0, 0], [0, 0]]
    assert np.isnan(nothing.pop("accuracy_interval")).all() and np.isnan(list(nothing.values())).all()


def test_many_classes_have_accuracy_loss_and_matrix_but_no_precision():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(97, 5)), random.integers(0, 4, 97)  # class 4 never occurs
    metrics = classification_metrics(logits, labels)
    assert set(metrics) == {"n", "accuracy", "accuracy_interval", "loss", "ece", "brier", "confusion_matrix"}
    matrix = sklearn.metrics.confusion_matrix(labels, logits.argmax(axis=1), labels=range(5))
    assert metrics["confusion_matrix"] == matrix.tolist()
    expected = sklearn.metrics.log_loss(labels, softmax(logits), labels=range(5))
    assert metrics["loss"] == pytest.approx(expected, rel=1e-12)
    expected = sklearn.metrics.brier_score_loss(labels, softmax(logits), labels=range(5), scale_by_half=True)
    assert metrics["brier"] == pytest.approx(expected, rel=1e-12)
    assert metrics["accuracy"] == sklearn.metrics.accuracy_score(labels, logits.argmax(axis=1))


def test_the_matrix_has_a_row_for_what_is_and_a_column_for_what_was_said():
    matrix = confusion_matrix(np.array([1, 1, 1, 0, 2]), np.array([0, 0, 1, 2, 2]), 3)
    assert matrix.tolist() == [[0, 2, 0], [0, 1, 0], [1, 0, 1]]


def test_counts_are_integers_and_everything_can_be_written_as_json():
    logits = np.random.default_rng(0).normal(size=(7, 2)).astype(np.float32)
    metrics = classification_metrics(logits, np.array([0, 1, 1, 0, 1, 1, 0]))
    assert json.loads(json.dumps(metrics)) == metrics
    assert type(metrics["n"]) is int


# ---- ROC-AUC


def test_roc_auc_is_the_share_of_pairs_in_order_with_ties_counting_half():
    random = np.random.default_rng(0)
    for n in range(1, 60):
        scores, labels = random.integers(-3, 4, n), random.integers(0, 2, n)
        pairs = [(p > n) + (p == n) / 2 for p in scores[labels == 1] for n in scores[labels == 0]]
        expected = sum(pairs) / len(pairs) if pairs else NAN
        assert roc_auc(scores, labels) == pytest.approx(expected, rel=1e-12, nan_ok=True)


# ---- intervals


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_wilsons_as_published(right, n, low, high):
    assert wilson_interval(right, n) == pytest.approx([low, high], abs=5e-5)
    assert wilson_interval(n - right, n) == pytest.approx([1 - high, 1 - low], abs=5e-5)


def test_the_interval_lies_in_zero_to_one_around_the_proportion_and_never_collapses():
    for n in (*range(1, 40), 25_000):
        for right in {0, 1, n // 3, n - 1, n}:
            low, high = wilson_interval(right, n)
            assert 0 <= low <= right / n + 1e-15 and right / n - 1e-15 <= high <= 1
            assert low < high


def test_an_edge_of_the_interval_is_where_the_proportion_lies_1_96_deviations_off():
    for p in wilson_interval(173, 200):
        assert abs(173 / 200 - p) / math.sqrt(p * (1 - p) / 200) == pytest.approx(1.959963984540054, rel=1e-9)


def test_the_interval_of_nothing_is_nan():
    assert all(map(math.isnan, wilson_interval(0, 0)))


# ---- calibration


def test_the_calibration_error_of_four_texts_is_that_done_by_hand():
    probabilities = softmax(confident((0.95, 1), (0.95, 0), (0.65, 1), (0.55, 0)))
    labels = np.array([1, 1, 1, 1])  # right, wrong, right, wrong; in three bins
    by_hand = 2 / 4 * abs(0.5 - 0.95) + 1 / 4 * abs(1 - 0.65) + 1 / 4 * abs(0 - 0.55)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(by_hand, rel=1e-12)


def test_there_are_fifteen_bins_unless_told_otherwise():
    probabilities, labels = np.array([[0.37, 0.63], [0.31, 0.69]]), np.array([1, 0])  # ten would put both into one
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.37 + 0.69) / 2)
    assert [len(counts) for counts in reliability(probabilities, labels)] == [15] * 3


def test_in_one_bin_too_much_and_too_little_confidence_cancel_and_in_two_they_do_not():
    probabilities, labels = np.array([[0.25, 0.75], [0.375, 0.625]]), np.array([1, 0])
    assert expected_calibration_error(probabilities, labels, bins=1) == abs(1 / 2 - (0.75 + 0.625) / 2)
    assert expected_calibration_error(probabilities, labels, bins=16) == (0.25 + 0.625) / 2


def test_a_bin_holds_its_upper_edge_and_not_its_lower():
    probabilities, labels = np.array([[0.25, 0.75], [0.3125, 0.6875]]), np.array([1, 0])
    assert expected_calibration_error(probabilities, labels, bins=4) == abs(1 / 2 - (0.75 + 0.6875) / 2)  # (0.5, 0.75]
    probabilities = np.array([[0.25, 0.75], [0.125, 0.875]])
    assert expected_calibration_error(probabilities, labels, bins=4) == (0.25 + 0.875) / 2


def test_full_confidence_that_is_right_has_no_calibration_error_and_none_at_all_has_nan():
    assert expected_calibration_error(np.eye(2), np.array([0, 1])) == 0.0
    assert expected_calibration_error(np.eye(2), np.array([1, 0])) == 1.0
    assert math.isnan(expected_calibration_error(np.zeros((0, 2)), np.zeros(0, dtype=int)))


def test_each_bin_of_confidence_counts_its_texts_its_right_ones_and_its_confidence():
    probabilities = np.array([[0.25, 0.75], [0.375, 0.625], [0.25, 0.75], [0.0, 1.0]])
    counts, right, confidence = reliability(probabilities, np.array([1, 1, 0, 0]), bins=4)  # 0.75 closes the third bin
    assert (counts.tolist(), right.tolist(), confidence.tolist()) == ([0, 0, 3, 1], [0, 0, 2, 0], [0, 0, 2.125, 1.0])


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 11.0])
def test_the_temperature_that_the_logits_were_multiplied_with_is_found_again(temperature):
    logits, labels = [], []
    for positives in (1, 2, 3, 5, 6, 8, 9):  # of ten texts with these very odds: calibrated, by construction
        logits += [[0.0, math.log(positives / (10 - positives))]] * 10
        labels += [1] * positives + [0] * (10 - positives)
    logits, labels = np.array(logits) + np.linspace(-5, 5, len(labels))[:, None], np.array(labels)
    found = fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=1e-6)
    assert cross_entropy(logits * temperature / found, labels) == pytest.approx(cross_entropy(logits, labels), rel=1e-12)


# ---- softmax and cross-entropy


@pytest.mark.parametrize("margin", [1.0, 5.0, 50.0])
def test_where_all_is_judged_right_no_temperature_is_too_small(margin):
    """At a margin of 50 the loss is zero long before the end of the search."""
    assert fit_temperature(np.array([[0.0, margin], [margin, 0.0]]), np.array([1, 0])) == pytest.approx(0.05)


def test_logits_of_any_size_have_finite_losses_and_probabilities_that_add_up_to_one():
    logits = np.array([[0.0, 1e4], [1e4, 1e4], [-1e4, 3.0]], dtype=np.float32)
    np.testing.assert_allclose(softmax(logits), [[0, 1], [0.5, 0.5], [0, 1]], atol=1e-15)
    assert cross_entropy(logits, np.array([0, 0, 1])) == pytest.approx((1e4 + math.log(2)) / 3, rel=1e-12)


def test_fp32_logits_are_summed_in_float64():
    logits = np.random.default_rng(0).normal(size=(1_000, 3)).astype(np.float32)
    assert log_softmax(logits).dtype == np.float64
    np.testing.assert_allclose(np.exp(log_softmax(logits)).sum(axis=1), 1, rtol=1e-14)


def test_the_loss_is_a_mean_over_texts_in_nats():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]))
    assert cross_entropy(logits, np.array([1, 0])) == pytest.approx((math.log(4) + math.log(8)) / 2, rel=1e-12)


# ---- masked language modelling


def test_masked_lm_metrics_are_the_mean_loss_its_exponential_and_the_share_guessed():
    metrics = masked_lm_metrics(10.0, 3, 4)
    assert metrics == {"n": 4, "loss": 2.5, "perplexity": pytest.approx(math.exp(2.5), rel=1e-15), "masked_accuracy": 0.75}


def test_a_perplexity_beyond_all_numbers_is_infinite_and_no_error():
    assert masked_lm_metrics(701.0, 0, 1)["perplexity"] == math.inf
    assert masked_lm_metrics(699.0, 0, 1)["perplexity"] == pytest.approx(math.exp(699), rel=1e-15)


def test_the_loss_and_accuracy_of_no_tokens_are_nan():
    metrics = masked_lm_metrics(0.0, 0, 0)
    assert math.isnan(metrics["loss"]) and math.isnan(metrics["masked_accuracy"])


@pytest.mark.parametrize(("loss", "n"), [(0.0, 0), (math.nan, 7)])
def test_the_perplexity_of_an_undefined_loss_is_nan(loss, n):
    assert math.isnan(masked_lm_metrics(loss, 0, n)["perplexity"])
