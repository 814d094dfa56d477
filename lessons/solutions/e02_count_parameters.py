"""Solution of lesson 2, exercise 2."""


def count_parameters(V: int, T: int, D: int, F: int, L: int) -> int:
    norm = 2 * D  # scale and shift
    embeddings = V * D + T * D + norm
    attention = 4 * (D * D + D)  # queries, keys, values, output
    feed_forward = D * F + F + F * D + D
    return embeddings + L * (attention + norm + feed_forward + norm)
