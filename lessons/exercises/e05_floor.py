"""Lesson 5, exercise 2: how well anybody can guess in the language of twins."""


def floor(words: int, specials: int, probability: float) -> float:
    """The perplexity, on graded places, of a guesser who knows all the rules of the language and of the masking.

    Each word of a sentence is drawn evenly from `words` and said twice; both places are masked by `mask_tokens`,
    independently, with this `probability`. The vocabulary is specials (the mask among them) and words; a random id may be any
    of them. The guesser does not see which places were chosen, only that the one to guess was.
    """
    raise NotImplementedError("your turn")


# ---- red until then: pytest lessons/exercises/e05_floor.py


def test_the_language_of_the_lesson():
    assert abs(floor(words=16, specials=5, probability=0.15) - 1.498) < 2e-3


def test_other_languages_and_other_masks():
    assert abs(floor(words=2, specials=5, probability=0.3) - 1.215) < 2e-3
    assert abs(floor(words=16, specials=5, probability=0.5) - 3.633) < 2e-3
    assert abs(floor(words=16, specials=5, probability=1e-9) - 1.0) < 2e-3, "a twin that is never hidden tells all"
