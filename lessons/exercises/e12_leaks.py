"""Lesson 12, exercise 2: copies that are not quite copies."""

import time


def drop_leaks(train: list[str], held_out: list[str]) -> list[str]:
    """The training texts, in order, whose letters and digits are not those of a held-out text.

    Case, spaces, line breaks, punctuation and accents do not make two texts different: "Très bon!" leaks "TRES BON".
    (unicodedata.normalize("NFKD", text) parts accents from their letters; str.isalnum says no to accents, punctuation, spaces;
    str.casefold, unlike lower, makes ss of ß.)
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e12_leaks.py


def test_near_copies_go_and_others_stay():
    held_out = ["A gem.", "Très bon!", "Ten out of 10", "Хорошо", "Straße"]
    train = ["a  gem!", "A gem, nearly.", "TRES\nBON", "Ten out of 11", "ten-out-of-10...", "", "I slept.", "Плохо", "хорошо!"]
    assert drop_leaks(train, held_out) == ["A gem, nearly.", "Ten out of 11", "", "I slept.", "Плохо"]
    assert drop_leaks(["_A_ gem", "A “gem” —", "STRASSE"], held_out) == [], "there is punctuation beyond the keyboard's"


def test_repeats_within_training_are_no_leak():
    assert drop_leaks(["Good.", "good"], ["Bad."]) == ["Good.", "good"]


def test_it_is_quick_enough_for_imdb():
    texts = [f"review number {i}" for i in range(40_000)]
    started = time.process_time()
    assert len(drop_leaks(texts, [text.upper() + "!" for text in texts[:20_000]])) == 20_000
    assert time.process_time() - started < 3, "does it look at every held-out text for each training text?"
