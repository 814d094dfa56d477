"""Masking, windows and packing: what is hidden, what is lost (nothing), and what is a function of what."""

import numpy as np
import pytest
import torch
from scipy.stats import binom

from data.batches import TokenTable
from data.mlm import IGNORED, corpus_parts, mask_tokens, masked_batch, packed, windows
from data.sources import Part, prepare
from distilbert.errors import UserError

VOCABULARY, PAD, UNK, CLS, SEP, MASK = 977, 0, 1, 2, 3, 4
SPECIAL = [PAD, UNK, CLS, SEP, MASK]


def review(length: int, seed: int = 0) -> np.ndarray:
    inner = np.random.default_rng(seed).integers(5, VOCABULARY, length)
    return np.concatenate([[CLS], inner, [SEP]]).astype(np.int32)


def mask(ids: np.ndarray, *seed: int, **options) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(ids, seed or (0, 0, 0), VOCABULARY, MASK, SPECIAL, **options)


def table(*lengths: int) -> TokenTable:
    texts = [review(length, seed) for seed, length in enumerate(lengths)]
    return TokenTable(np.concatenate(texts), np.cumsum([len(text) for text in texts]))


def likely(count: int, n: int, p: float) -> bool:
    """Whether `count` of n lies where it does in all but one of a million samples."""
    low, high = binom.interval(1 - 1e-6, n, p)
    return low <= count <= high


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_the_given_share_is_chosen_and_of_it_80_10_10_are_masked_replaced_and_kept(probability):
    ids = review(200_000)
    masked, labels = mask(ids, probability=probability)
    chosen = labels != IGNORED
    assert likely(chosen.sum(), 200_000, probability)
    n = int(chosen.sum())
    as_mask, kept = (masked == MASK) & chosen, (masked == ids) & chosen
    assert likely(as_mask.sum(), n, 0.8)
    assert likely(kept.sum(), n, 0.1 + 0.1 / VOCABULARY)  # a random id may be the true one
    assert likely(n - as_mask.sum() - kept.sum(), n, 0.1 * (1 - 2 / VOCABULARY))


def test_labels_are_the_true_ids_where_chosen_and_nothing_else_changes():
    ids = review(5_000)
    masked, labels = mask(ids)
    chosen = labels != IGNORED
    assert np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(masked[~chosen], ids[~chosen])


def test_special_tokens_and_padding_are_never_chosen():
    ids = np.tile(np.array(SPECIAL, dtype=np.int32), 4_000)
    masked, labels = mask(ids, probability=0.9)
    assert np.array_equal(masked, ids)
    assert (labels == IGNORED).all()


def test_random_replacements_come_from_the_whole_vocabulary_not_from_the_text():
    ids = np.full(400_000, 500, dtype=np.int32)
    masked, _ = mask(ids, probability=0.9)
    replaced = np.unique(masked[(masked != 500) & (masked != MASK)])
    assert replaced.min() == 0
    assert replaced.max() == VOCABULARY - 1
    assert len(replaced) == VOCABULARY - 2  # every id but the true one, and [MASK], which is not told apart


def test_masks_differ_between_epochs_and_seeds_and_examples_and_repeat_in_reruns():
    ids = review(500)
    first = mask(ids, 1, 2, 3)
    assert all(np.array_equal(a, b) for a, b in zip(first, mask(ids, 1, 2, 3), strict=True))
    for other in ((1, 3, 3), (2, 2, 3), (1, 2, 4)):
        assert not np.array_equal(first[1], mask(ids, *other)[1])


def test_whole_word_masking_hides_all_pieces_of_a_word_in_the_same_way():
    continues = [i % 2 == 1 for i in range(VOCABULARY)]  # odd ids are ##pieces
    ids = np.tile(np.array([10, 11, 13, 20, 30, 31], dtype=np.int32), 20_000)
    hidden = VOCABULARY + 1  # no random id equals it
    masked, labels = mask_tokens(ids, (0, 0, 0), VOCABULARY, hidden, SPECIAL, continues=continues)
    chosen = (labels != IGNORED).reshape(-1, 6)
    assert (chosen[:, 0] == chosen[:, 1]).all() and (chosen[:, 1] == chosen[:, 2]).all()
    assert (chosen[:, 4] == chosen[:, 5]).all()
    assert (chosen[:, 0] != chosen[:, 3]).any()
    assert likely(int(chosen[:, [0, 3, 4]].sum()), chosen.size // 2, 0.15)
    as_mask = (masked == hidden).reshape(-1, 6)
    assert (as_mask[:, 0] == as_mask[:, 1]).all() and (as_mask[:, 0] == as_mask[:, 2]).all()
    assert likely(int(as_mask[:, [0, 3, 4]].sum()), int(chosen[:, [0, 3, 4]].sum()), 0.8)


def test_windows_lose_and_repeat_no_token_and_never_mix_reviews():
    texts = table(3, 11, 30, 8, 77, 0)
    sequences = windows(texts, max_length=10)
    assert all(len(sequence) <= 10 and sequence[0] == CLS and sequence[-1] == SEP for sequence in sequences)
    inner = [np.concatenate([sequence[1:-1] for sequence in group]) for group in groups(sequences, [1, 2, 4, 1, 10, 1])]
    for number, found in enumerate(inner):
        assert np.array_equal(found, texts[number][1:-1])


def groups(sequences: list, counts: list[int]) -> list[list]:
    ends = np.cumsum(counts)
    assert ends[-1] == len(sequences)
    return [sequences[end - count : end] for end, count in zip(ends, counts, strict=True)]


def test_windows_of_one_review_are_of_nearly_equal_length():
    lengths = [len(sequence) for sequence in windows(table(1_000), max_length=130)]
    assert max(lengths) - min(lengths) <= 1


def test_packing_loses_and_repeats_no_token():
    texts = table(3, 11, 30, 8)
    sequences = packed(texts, max_length=16)
    assert np.array_equal(np.concatenate(sequences), texts.ids)
    assert [len(sequence) for sequence in sequences] == [16, 16, 16, 12]


def test_pieces_at_the_head_of_a_packed_window_share_no_fate_with_its_last_word():
    ids = np.array([7, 9, 8, 10], dtype=np.int32)  # ## ## word word
    continues = [i in (7, 9) for i in range(VOCABULARY)]
    fates = np.array([mask(ids, 0, 0, i, probability=0.5, continues=continues)[1] != IGNORED for i in range(2_000)])
    assert (fates[:, 0] == fates[:, 1]).all()
    assert likely(int((fates[:, 0] == fates[:, 3]).sum()), 2_000, 0.5)
    only = np.array([7, 9], dtype=np.int32)
    assert len(mask(only, continues=continues)[0]) == 2


def test_a_batch_is_padded_with_labels_that_do_not_count():
    batch = masked_batch([mask(review(9), 0, 0, 0), mask(review(4, 1), 0, 0, 1)], PAD)
    assert batch["input_ids"].shape == batch["labels"].shape == (2, 11)
    assert batch["attention_mask"].sum(dim=1).tolist() == [11, 6]
    assert (batch["labels"][1, 6:] == IGNORED).all()
    assert (batch["input_ids"][1, 6:] == PAD).all()
    assert batch["labels"].dtype == torch.int64


def part(*texts: str) -> Part:
    return Part(list(texts), np.zeros(len(texts), dtype=np.int64), [f"line {i}" for i in range(len(texts))])


def test_the_corpus_never_holds_a_text_of_validation_or_test():
    parts = {"train": part("a", "b", "v"), "unlabelled": part("c", "t", "d"), "validation": part("v"), "test": part("t", "x")}
    corpus, dropped = prepare(corpus_parts(parts, "all", "toy"))
    assert dropped == 2
    assert corpus["train"].texts == ["c", "d", "a", "b"]
    assert set(corpus["validation"].texts + corpus["test"].texts) == {"v", "t", "x"}


def test_the_corpus_can_be_the_unlabelled_texts_alone():
    parts = {"train": part("a", "b"), "unlabelled": part("c", "d", "e"), "validation": part("v"), "test": part("t")}
    assert corpus_parts(parts, "unsup", "toy")["train"].texts == ["c", "d", "e"]


def test_a_source_without_held_out_parts_gives_a_tenth_to_each():
    texts = [str(i) for i in range(50)]
    corpus = corpus_parts({"unlabelled": part(*texts)}, "all", "toy")
    assert [len(corpus[name]) for name in ("train", "validation", "test")] == [40, 5, 5]
    assert sorted(text for name in corpus for text in corpus[name].texts) == sorted(texts)


def test_a_corpus_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="--corpus unsup, expected at least three; --corpus all takes"):
        corpus_parts({"train": part("a", "b", "c")}, "unsup", "toy")
