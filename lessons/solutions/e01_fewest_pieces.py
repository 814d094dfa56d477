"""Solution of lesson 1, exercise 2: dynamic programming over the beginnings of the word."""


def fewest_pieces(word: str, vocabulary: set[str]) -> list[str]:
    best: list[list[str] | None] = [[]]  # best[n]: the shortest cut of the first n letters, None if there is none
    for end in range(1, len(word) + 1):
        cuts = []
        for start in range(end):
            piece = ("##" if start else "") + word[start:end]
            if best[start] is not None and piece in vocabulary:
                cuts.append([*best[start], piece])
        best.append(min(cuts, key=len, default=None))
    return best[-1] or ["[UNK]"]
