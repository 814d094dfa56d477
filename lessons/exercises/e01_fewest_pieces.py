"""Lesson 1, exercise 2: the best cut instead of the first one."""

import itertools
import random


def fewest_pieces(word: str, vocabulary: set[str]) -> list[str]:
    """The cut of a lower-case word into the fewest pieces; ["[UNK]"] only if there is no cut at all.

    Pieces behind the first stand in the vocabulary with ## before them. Of several shortest cuts, any.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e01_fewest_pieces.py


def test_no_dead_end_where_a_cut_exists():
    vocabulary = {"un", "una", "##able", "##ab", "##le"}
    assert fewest_pieces("unable", vocabulary) == ["un", "##able"]
    assert fewest_pieces("una", vocabulary) == ["una"]
    assert fewest_pieces("able", vocabulary) == ["[UNK]"]


def test_no_cut_is_shorter_and_every_piece_is_known():
    chance = random.Random(0)
    parts = ["".join(chance.choices("ab", k=chance.randint(1, 4))) for _ in range(14)]
    vocabulary = {*parts[:7], *("##" + part for part in parts[7:])}
    for _ in range(300):
        word = "".join(chance.choices("ab", k=chance.randint(1, 9)))
        found, best = fewest_pieces(word, vocabulary), shortest_by_trying_all(word, vocabulary)
        if best is None:
            assert found == ["[UNK]"], word
        else:
            assert set(found) <= vocabulary and len(found) == best, word
            assert "".join(piece.removeprefix("##") for piece in found) == word
            assert all(piece.startswith("##") == (place > 0) for place, piece in enumerate(found))


def shortest_by_trying_all(word: str, vocabulary: set[str]) -> int | None:
    """The length of the shortest cut, found among all of them: right, and far too slow for a real word."""
    for cuts in range(len(word)):
        for places in itertools.combinations(range(1, len(word)), cuts):
            ends = [0, *places, len(word)]
            pieces = [("##" if start else "") + word[start:end] for start, end in itertools.pairwise(ends)]
            if set(pieces) <= vocabulary:
                return len(pieces)
    return None
