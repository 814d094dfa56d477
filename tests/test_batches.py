"""data/batches.py and data/cls.py: the token cache, the order of an epoch, padding and truncation."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.batches import by_length, epoch_batches, pad, tokenise
from data.cls import classification_batch, truncate
from distilbert.files import cache_directory, fingerprint

TEXTS = ["ab", "", "wxyz", "k"]


def encode(texts: list[str]) -> list[list[int]]:
    """[CLS], a number for each letter, [SEP]."""
    return [[101, *map(ord, text), 102] for text in texts]


def must_not_encode(texts):
    raise AssertionError("encoded again")


def review_lengths(n: int = 8_000) -> np.ndarray:
    """Lengths spread as IMDb's: log-normal, cut at 512."""
    return np.exp(np.random.default_rng(7).normal(5.4, 0.7, n)).astype(int).clip(3, 512)


def padded_share(lengths: np.ndarray, epoch: list[np.ndarray]) -> float:
    return 1 - lengths.sum() / sum(lengths[indices].max() * len(indices) for indices in epoch)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


# ---- the order of an epoch

BATCHING = pytest.mark.parametrize("batching", ["length", "random"])


@given(
    st.lists(st.integers(2, 90), min_size=1, max_size=150),
    st.integers(1, 40),
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from(["length", "random"]),
)
def test_an_epoch_holds_every_example_once_and_only_one_batch_is_short(lengths, batch_size, seed, epoch, batching):
    found = epoch_batches(np.array(lengths, dtype=int), batch_size, seed, epoch, batching)
    assert sorted(i for indices in found for i in indices) == list(range(len(lengths)))
    full, rest = divmod(len(lengths), batch_size)
    assert sorted(map(len, found), reverse=True) == [batch_size] * full + [rest] * (rest > 0)


@BATCHING
def test_the_order_is_a_pure_function_of_seed_and_epoch(batching):
    lengths = review_lengths(500)
    first = epoch_batches(lengths, 16, seed=3, epoch=5, batching=batching)
    np.random.seed(1)
    torch.manual_seed(1)
    epoch_batches(lengths, 16, seed=9, epoch=9, batching=batching)
    assert same(epoch_batches(lengths.copy(), 16, seed=3, epoch=5, batching=batching), first)


@BATCHING
def test_another_epoch_or_seed_is_another_order_of_other_batches(batching):
    lengths = review_lengths()
    orders = [epoch_batches(lengths, 16, seed, epoch, batching) for seed, epoch in ((3, 5), (3, 6), (4, 5), (5, 3))]
    members = [frozenset(indices.tolist()) for order in orders for indices in order]
    assert len(set(members)) == len(members) == 4 * 500  # no batch comes twice


@pytest.mark.parametrize("batch_size", [16, 64])
def test_batches_by_length_pad_less_than_6_percent_where_random_ones_pad_over_40(batch_size):
    lengths = review_lengths()
    assert padded_share(lengths, epoch_batches(lengths, batch_size, 1, 0, "length")) < 0.06
    assert padded_share(lengths, epoch_batches(lengths, batch_size, 1, 0, "random")) > 0.40


@BATCHING
def test_a_batchs_length_says_nothing_about_the_next_ones(batching):
    lengths = review_lengths()
    pairs = []
    for epoch in range(10):
        means = [lengths[indices].mean() for indices in epoch_batches(lengths, 16, 2, epoch, batching)]
        pairs += pairwise(means)
    assert len(pairs) == 4_990
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 3 / np.sqrt(len(pairs))  # three standard errors


def test_the_short_batch_is_of_any_length_and_at_any_place():
    lengths = np.arange(10, 1_010)
    mean, place = [], []
    for epoch in range(60):
        found = epoch_batches(lengths, 32, 4, epoch)
        place += [i for i, indices in enumerate(found) if len(indices) == 1000 % 32]
        mean.append(lengths[found[place[-1]]].mean())
    assert len(set(place)) > 15 and len({round(m) for m in mean}) > 15
    assert min(mean) < 200 and max(mean) > 800


def test_random_batches_do_not_look_at_the_lengths():
    lengths = review_lengths(100)
    assert same(epoch_batches(lengths, 8, 1, 2, "random"), epoch_batches(lengths[::-1], 8, 1, 2, "random"))


@given(st.lists(st.integers(2, 90), max_size=60), st.integers(1, 20))
def test_evaluation_takes_every_example_once_longest_first(lengths, batch_size):
    found = list(by_length(np.array(lengths, dtype=int), batch_size))
    order = [int(i) for indices in found for i in indices]
    assert order == sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    assert all(len(indices) == batch_size for indices in found[:-1])


# ---- the token cache


def test_a_token_table_holds_each_texts_ids_exactly(cache):
    table = tokenise(TEXTS, encode, "letters")
    assert len(table) == 4
    assert [table[i].tolist() for i in range(4)] == encode(TEXTS)
    assert table.lengths.tolist() == [4, 2, 6, 3]
    assert table[2].dtype == np.int32
    assert isinstance(table.ids, np.memmap)


def test_more_texts_than_are_encoded_at_a_time_keep_their_order(cache):
    texts, sizes = [str(i) for i in range(2_345)], []
    table = tokenise(texts, lambda some: sizes.append(len(some)) or encode(some), "letters")
    assert [table[i].tolist() for i in range(len(texts))] == encode(texts)
    assert sum(sizes) == 2_345 and max(sizes) <= 1_000


def test_a_second_call_does_not_encode(cache):
    first = tokenise(TEXTS, encode, "letters")
    second = tokenise(list(TEXTS), must_not_encode, "letters")
    assert second.ids.tolist() == first.ids.tolist() and second.ids.dtype == first.ids.dtype
    assert second.ends.tolist() == first.ends.tolist()
    assert [second[i].tolist() for i in range(4)] == encode(TEXTS)


@pytest.mark.parametrize("kind", ["ids", "ends"])
@pytest.mark.parametrize("left", [0, 5, -3])
def test_a_damaged_table_is_made_anew(cache, kind, left):
    texts = ["a", "bb", "ccc"]
    whole = [ids.tolist() for ids in tokenise(texts, lambda batch: [[len(text)] * len(text) for text in batch], "x")]
    (path,) = (cache / "tokens").glob(f"*.{kind}.npy")
    path.write_bytes(path.read_bytes()[:left])
    for _ in range(2):
        again = tokenise(texts, lambda batch: [[len(text)] * len(text) for text in batch], "x")
        assert [ids.tolist() for ids in again] == whole


@pytest.mark.parametrize(
    ("texts", "identity"),
    [
        (TEXTS, "letter"),
        (TEXTS[::-1], "letters"),
        (TEXTS[:-1], "letters"),
        (["a", "b", "wxyz", "k"], "letters"),
        (["abw", "", "xyz", "k"], "letters"),
        (TEXTS[1:], "lettersab"),
    ],
)
def test_another_tokenizer_or_other_texts_are_encoded_anew(cache, texts, identity):
    tokenise(TEXTS, encode, "letters")
    with pytest.raises(AssertionError, match="encoded again"):
        tokenise(texts, must_not_encode, identity)
    table = tokenise(texts, lambda some: [[5, *ids] for ids in encode(some)], identity)
    assert [table[i].tolist() for i in range(len(texts))] == [[5, *ids] for ids in encode(texts)]


def test_a_fingerprint_tells_where_one_text_ends_and_the_next_begins():
    texts = [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], ["", "abc"], ["c", "ab"], []]
    assert len({fingerprint(some) for some in texts}) == len(texts)
    assert fingerprint(["é"]) == fingerprint(["é"]) and len(fingerprint(["é"])) == 64


def test_the_cache_lies_where_the_environment_says_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DISTILBERT_CACHE", str(tmp_path / "one"))
    tokenise(TEXTS, encode, "letters")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
    assert all(path.is_relative_to(tmp_path / "one") for path in tmp_path.rglob("*.npy"))
    monkeypatch.setenv("DISTILBERT_CACHE", str(tmp_path / "two"))
    with pytest.raises(AssertionError, match="encoded again"):
        tokenise(TEXTS, must_not_encode, "letters")
    monkeypatch.delenv("DISTILBERT_CACHE")
    assert cache_directory() == Path(tmp_path / "home/.cache/distilbert")


def files(cache) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_an_interruption_while_encoding_leaves_nothing(cache):
    def interrupted(texts):
        if "1500" in texts:
            raise KeyboardInterrupt
        return encode(texts)

    texts = [str(i) for i in range(2_000)]
    with pytest.raises(KeyboardInterrupt):
        tokenise(texts, interrupted, "letters")
    assert files(cache) == []
    assert tokenise(texts, encode, "letters")[1_500].tolist() == encode(["1500"])[0]


@pytest.mark.parametrize("interrupted", [1, 2])  # the file of the ids, that of where each text ends
def test_an_interrupted_write_leaves_no_usable_half(cache, monkeypatch, interrupted):
    renames, replace = [], os.replace

    def stopped(temporary, path):
        renames.append(path)
        if len(renames) == interrupted:
            raise KeyboardInterrupt
        replace(temporary, path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            tokenise(TEXTS, encode, "letters")
    assert len(files(cache)) == interrupted - 1  # whole files only, and no temporary one
    table = tokenise(TEXTS, encode, "letters")
    assert [table[i].tolist() for i in range(4)] == encode(TEXTS)
    assert len(files(cache)) == 2


# ---- padding


def test_padding_goes_behind_the_text_and_the_mask_says_where():
    ids, mask = pad([np.array([7, 8], dtype=np.int32), np.array([9, 4, 6]), np.array([3])], pad_id=5)
    assert ids.tolist() == [[7, 8, 5], [9, 4, 6], [3, 5, 5]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert ids.dtype == mask.dtype == torch.int64


def test_a_classification_batch_is_what_a_classifiers_loss_takes():
    batch = classification_batch([np.array([7, 8]), np.array([9, 4, 5])], np.array([1, 0]), pad_id=5)
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[7, 8, 5], [9, 4, 5]],
        "attention_mask": [[1, 1, 0], [1, 1, 1]],  # an id that happens to be the padding's is still text
        "labels": [1, 0],
    }
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


# ---- truncation

CLS, SEP = 101, 102
LONG = np.array([CLS, *range(8), SEP])


@pytest.mark.parametrize(
    ("max_length", "truncation", "expected"),
    [
        (7, "head", [CLS, 0, 1, 2, 3, 4, SEP]),
        (7, "tail", [CLS, 3, 4, 5, 6, 7, SEP]),
        (7, "head-tail", [CLS, 0, 4, 5, 6, 7, SEP]),  # 5 · 128/510 = 1.25
        (9, "head", [CLS, 0, 1, 2, 3, 4, 5, 6, SEP]),
        (9, "tail", [CLS, 1, 2, 3, 4, 5, 6, 7, SEP]),
        (9, "head-tail", [CLS, 0, 2, 3, 4, 5, 6, 7, SEP]),
        (3, "head", [CLS, 0, SEP]),
        (3, "tail", [CLS, 7, SEP]),
        (3, "head-tail", [CLS, 7, SEP]),
    ],
)
def test_truncation_by_hand(max_length, truncation, expected):
    assert truncate(LONG, max_length, truncation).tolist() == expected


def test_head_is_what_happens_when_nothing_is_said():
    assert truncate(LONG, 5).tolist() == [CLS, 0, 1, 2, SEP]


def test_head_tail_at_512_keeps_128_from_the_beginning_and_382_from_the_end():
    cut = truncate(np.array([CLS, *range(2_000), SEP]), 512, "head-tail")
    assert cut.tolist() == [CLS, *range(128), *range(2_000 - 382, 2_000), SEP]


@given(st.integers(0, 700), st.integers(3, 600), st.sampled_from(["head", "tail", "head-tail"]))
def test_a_text_is_cut_to_exactly_max_length_with_its_ends_and_its_order_kept(n, max_length, truncation):
    whole = np.array([CLS, *range(1_000, 1_000 + n), SEP])
    cut = truncate(whole, max_length, truncation)
    assert len(cut) == min(len(whole), max_length)
    assert (cut[0], cut[-1]) == (CLS, SEP)
    assert (np.diff(cut[1:-1]) > 0).all() and set(cut) <= set(whole)
    if len(whole) <= max_length:
        assert cut.tolist() == whole.tolist()
