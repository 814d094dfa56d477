"""Solution of lesson 5, exercise 2: the expected surprise of somebody who knows the rules and applies Bayes.

Only the word's own place and its twin's say anything about it. For each pair of ids seen there, the best possible
probability of a word is its share among all the words that could stand behind the pair.
"""

import math


def floor(words: int, specials: int, probability: float) -> float:
    mask, V = 0, words + specials

    def chance(shown: int, true: int, chosen: float) -> float:
        """To see `shown` in the place of the word `true`, which is chosen with probability `chosen`."""
        fate = 0.8 * (shown == mask) + 0.1 * (shown == true) + 0.1 / V
        return chosen * fate + (1 - chosen) * (shown == true)

    surprise = 0.0
    for own in range(V):
        for twin in range(V):
            joint = [chance(own, word, 1.0) * chance(twin, word, probability) / words for word in range(specials, V)]
            surprise -= sum(p * math.log(p / sum(joint)) for p in joint if p)
    return math.exp(surprise)
