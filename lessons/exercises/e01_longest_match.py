"""Lesson 1, exercise 1: WordPiece's own cut, longest pieces first."""

import random

from distilbert.tokenizer import SPECIAL_TOKENS, Tokenizer


def longest_match(word: str, vocabulary: set[str]) -> list[str]:
    """The pieces of one lower-case word, the longest first; ["[UNK]"] if somewhere nothing fits.

    Pieces behind the first stand in the vocabulary with ## before them. The limit of 100 letters may be left out. Do it
    without `Tokenizer`, which the test compares with.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e01_longest_match.py


def test_the_words_of_the_lesson():
    vocabulary = {"un", "una", "watch", "##watch", "##able", "##ably", "##ab", "##ly"}
    assert longest_match("unwatchably", vocabulary) == ["un", "##watch", "##ably"]
    assert longest_match("watch", vocabulary) == ["watch"]
    assert longest_match("unable", vocabulary) == ["[UNK]"]
    assert longest_match("unwatched", vocabulary) == ["[UNK]"]  # the whole word, not its last piece only


def test_it_cuts_as_the_library_does():
    chance = random.Random(0)
    parts = ["".join(chance.choices("abc", k=chance.randint(1, 4))) for _ in range(40)]
    vocabulary = sorted({*parts[:20], *("##" + part for part in parts[20:])})
    library = Tokenizer.from_vocabulary([*SPECIAL_TOKENS, *vocabulary])
    for _ in range(500):
        word = "".join(chance.choices("abc", k=chance.randint(1, 9)))
        assert longest_match(word, set(vocabulary)) == library.backend.encode(word).tokens[1:-1], word
