"""logits.py and predict.py: a trained model at work."""

import itertools
import re
import sys

import numpy as np
import pytest
import torch
import transformers
from conftest import SIZES, our_config, randomise

from distilbert.errors import UserError
from distilbert.logits import masked_lm_totals, predict_logits
from distilbert.model import DistilBertForMaskedLM, DistilBertForSequenceClassification, DistilBertModel
from distilbert.predict import fill_mask, infer_reviews
from distilbert.tokenizer import SPECIAL_TOKENS, Tokenizer

WORDS = ["good", "bad", "film", "the", "a", "was", "not", "!", ".", ",", "very", "##ly", "plot", "end"]
VOCABULARY = SPECIAL_TOKENS + WORDS
REVIEWS = ["Good film!", "", "The plot was not bad, not very good, a film.", "Bad", "very " * 30 + "bad end", "A, the, a, the."]
REVIEWS += ["not good", "the end was badly good!", "good " * 14]  # 14 and the two ends: one less than there are positions
POSITIONS = SIZES["max_position_embeddings"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.from_vocabulary(VOCABULARY)


@pytest.fixture
def model() -> DistilBertForSequenceClassification:
    """In training mode, with much dropout."""
    dropout = {"dropout": 0.5, "attention_dropout": 0.5, "seq_classif_dropout": 0.5}
    return randomise(DistilBertForSequenceClassification(our_config(**dropout)))


@pytest.fixture
def widths(model) -> list[int]:
    """The length of each sequence, padding included, that reaches the model's encoder."""
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.extend([inputs[0].shape[1]] * len(inputs[0])))
    return seen


def assert_same(found, expected):
    assert [verdict[:2] for verdict in found] == [verdict[:2] for verdict in expected]
    assert [verdict[2] for verdict in found] == pytest.approx([verdict[2] for verdict in expected], abs=1e-6)


# ---- infer_reviews


def test_one_review_gives_one_tuple_of_a_class_its_label_and_its_probability(model, tokenizer):
    verdict = infer_reviews("Good film!", model, tokenizer)
    assert type(verdict) is tuple
    assert [type(value) for value in verdict] == [int, str, float]
    ids = torch.tensor([tokenizer.encode("Good film!")])
    with torch.no_grad():
        probabilities = model.eval()(ids).softmax(dim=1)[0]
    assert verdict[0] == int(probabilities.argmax())
    assert verdict[1] == model.config.id2label[verdict[0]]
    assert verdict[2] == pytest.approx(float(probabilities.max()), abs=1e-6)


def test_a_list_gives_a_list_of_such_tuples_and_an_empty_list_an_empty_one(model, tokenizer):
    verdicts = infer_reviews(["Good film!"], model, tokenizer)
    assert verdicts == [infer_reviews("Good film!", model, tokenizer)]
    assert [type(value) for value in verdicts[0]] == [int, str, float]
    assert infer_reviews([], model, tokenizer) == []
    assert infer_reviews(("Good film!",), model, tokenizer) == verdicts


@pytest.mark.parametrize("batch_size", [1, 2, 4, 32])
def test_a_list_is_judged_as_each_review_by_itself_in_the_order_given(model, tokenizer, batch_size):
    expected = [infer_reviews(review, model, tokenizer) for review in REVIEWS]
    assert len({round(confidence, 4) for *_, confidence in expected}) == len(REVIEWS)  # so that the order can be told
    assert_same(infer_reviews(REVIEWS, model, tokenizer, batch_size), expected)
    assert_same(infer_reviews(REVIEWS[::-1], model, tokenizer, batch_size), expected[::-1])


def test_dropout_does_nothing_in_a_prediction(model, tokenizer):
    still = infer_reviews(REVIEWS, model.eval(), tokenizer)
    for _ in range(2):
        assert_same(infer_reviews(REVIEWS, model.train(), tokenizer), still)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_what_it_was(model, tokenizer, training):
    infer_reviews(REVIEWS, model.train(training), tokenizer)
    assert {module.training for module in model.modules()} == {training}
    model.encoder.train(not training)  # as a frozen encoder's is
    before = [module.training for module in model.modules()]
    infer_reviews(REVIEWS, model, tokenizer)
    assert [module.training for module in model.modules()] == before and len(set(before)) == 2


def test_the_models_mode_is_what_it_was_after_an_error_too(model):
    with pytest.raises(UserError, match="longer than the model's 17 positions"):
        predict_logits(model.train(), [np.arange(POSITIONS + 1)], 0)
    assert model.training


def test_transformers_tokenizer_gives_the_same_tuples_as_ours(model, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path, POSITIONS)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert not isinstance(theirs, Tokenizer)
    for max_length in (512, 6, 3):
        ours = infer_reviews(REVIEWS, model, tokenizer, max_length=max_length)
        assert_same(infer_reviews(REVIEWS, model, theirs, max_length=max_length), ours)
        assert_same([infer_reviews(REVIEWS[2], model, theirs, max_length=max_length)], [ours[2]])
    assert infer_reviews([], model, theirs) == []


@pytest.mark.parametrize(("max_length", "width"), [(512, POSITIONS), (6, 6)])
def test_a_text_too_long_is_cut_to_max_length_or_to_the_models_positions(model, tokenizer, widths, max_length, width):
    found = infer_reviews("bad film the " * 100, model, tokenizer, max_length=max_length)
    assert widths == [width]
    pieces = ["[CLS]", *(["bad", "film", "the"] * 100)[: width - 2], "[SEP]"]
    logits = predict_logits(model, [np.array([VOCABULARY.index(piece) for piece in pieces])], 0)
    assert found[2] == pytest.approx(float(torch.from_numpy(logits).softmax(dim=1).max()), abs=1e-6)


def test_of_a_long_review_512_tokens_are_read(tokenizer):
    model, seen = DistilBertForSequenceClassification(our_config(max_position_embeddings=600)), []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    infer_reviews("film " * 700, model, tokenizer)
    assert seen == [512]


def test_reviews_are_padded_to_the_longest_of_their_batch_and_no_further(model, tokenizer, widths):
    infer_reviews(["good", "bad film", "the plot was not bad", "not a good plot", "end"], model, tokenizer, batch_size=2)
    assert widths == [7, 7, 4, 4, 3]


def test_an_untrained_head_is_refused(model, tokenizer, tmp_path):
    DistilBertModel(our_config()).save_pretrained(tmp_path / "encoder")
    model.save_pretrained(tmp_path / "trained")
    fresh = DistilBertForSequenceClassification.from_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match=r"untrained: train it first with python train_cls\.py .* model\.head_is_fresh = False"):
        infer_reviews("Good film!", fresh, tokenizer)
    trained = DistilBertForSequenceClassification.from_pretrained(tmp_path / "trained")
    assert_same(infer_reviews(REVIEWS, trained, tokenizer), infer_reviews(REVIEWS, model, tokenizer))


def test_a_tokenizer_with_more_pieces_than_the_model_is_refused_and_one_with_as_many_is_not(tokenizer):
    def sized(vocab_size):
        return DistilBertForSequenceClassification(our_config(vocab_size=vocab_size))

    with pytest.raises(UserError, match="the tokenizer has 19 pieces, the model 18: not a pair"):
        infer_reviews("Good film!", sized(len(VOCABULARY) - 1), tokenizer)
    assert len(infer_reviews("Good film!", sized(len(VOCABULARY)), tokenizer)) == 3


# ---- predict_logits


def sequences(n: int = 11) -> list[np.ndarray]:
    random = np.random.default_rng(3)
    return [random.integers(5, SIZES["vocab_size"], random.integers(1, POSITIONS + 1)) for _ in range(n)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_logits_are_fp32_one_row_a_sequence_in_the_order_given(model, dtype):
    model.to(dtype).eval()
    found = predict_logits(model, sequences(), pad_id=0, batch_size=1)
    assert found.shape == (11, 5) and found.dtype == np.float32
    with torch.no_grad():
        alone = [model(torch.tensor(ids)[None])[0].float().numpy() for ids in sequences()]
    np.testing.assert_allclose(found, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pad_id", [0, 7])
def test_logits_do_not_depend_on_what_a_sequence_is_padded_with_or_batched_with(model, pad_id):
    model.double()
    alone = predict_logits(model, sequences(), 0, batch_size=1)
    np.testing.assert_allclose(predict_logits(model, sequences(), pad_id, batch_size=4), alone, rtol=1e-6, atol=0)


def test_no_sequences_give_no_logits(model):
    assert predict_logits(model, [], 0).shape == (0, 5)


# ---- masked language models


@pytest.fixture
def masked_lm() -> DistilBertForMaskedLM:
    """In training mode, with much dropout."""
    return randomise(DistilBertForMaskedLM(our_config(vocab_size=len(VOCABULARY), dropout=0.5, attention_dropout=0.5)))


def masked_pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Sequences with labels at some places: at every third, and of the first at none."""
    ids = [sequence % len(VOCABULARY) for sequence in sequences()]
    labels = [np.where(np.arange(len(some)) % 3 == (0 if i else -1), some[::-1], -100) for i, some in enumerate(ids)]
    return list(zip(ids, labels, strict=True))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_masked_lm_totals_are_sums_over_the_labels_whatever_the_batch(masked_lm, batch_size):
    loss_sum, right, count = masked_lm_totals(masked_lm, masked_pairs(), 0, batch_size)
    assert masked_lm.training
    masked_lm.double().eval()
    expected_loss = expected_right = expected_count = 0
    with torch.no_grad():
        for ids, labels in masked_pairs():
            places = np.flatnonzero(labels != -100)
            logits, targets = masked_lm(torch.tensor(ids)[None])[0, places], torch.tensor(labels[places])
            expected_loss -= logits.log_softmax(dim=1)[range(len(places)), targets].sum().item()
            expected_right += int((logits.argmax(dim=1) == targets).sum())
            expected_count += len(places)
    assert (right, count) == (expected_right, expected_count)
    assert loss_sum == pytest.approx(expected_loss, rel=1e-6)


def test_fill_mask_gives_the_likeliest_pieces_of_each_mask_in_order(masked_lm, tokenizer):
    guesses = fill_mask("the [MASK] was [MASK] bad", masked_lm.train(), tokenizer, top=3)
    ids = torch.tensor([[VOCABULARY.index(piece) for piece in ["[CLS]", "the", "[MASK]", "was", "[MASK]", "bad", "[SEP]"]]])
    with torch.no_grad():
        probabilities = masked_lm.eval()(ids)[0].softmax(dim=1)
    assert len(guesses) == 2
    for place, found in zip((2, 4), guesses, strict=True):
        best = probabilities[place].argsort(descending=True)[:3]
        assert [piece for piece, _ in found] == [VOCABULARY[i] for i in best]
        assert [p for _, p in found] == pytest.approx(probabilities[place][best].tolist(), abs=1e-6)
    assert [[type(value) for value in pair] for pair in fill_mask("a [MASK]", masked_lm, tokenizer)[0]] == [[str, float]] * 5


def test_fill_mask_refuses_an_untrained_head_and_a_text_without_a_mask(masked_lm, tokenizer):
    with pytest.raises(UserError, match=r"no \[MASK\] in 'a film'"):
        fill_mask("a film", masked_lm, tokenizer)
    masked_lm.head_is_fresh = True
    with pytest.raises(UserError, match=r"untrained: train it first with python train_mlm\.py .* model\.head_is_fresh = False"):
        fill_mask("a [MASK]", masked_lm, tokenizer)


def test_a_mask_beyond_the_models_positions_is_said_to_be_there(masked_lm, tokenizer):
    for before in ("", "[MASK] "):  # which alone would be answered
        text = before + "film " * 100 + "[MASK]"
        with pytest.raises(UserError, match=re.escape(f"a [MASK] of {text[:60]!r} lies beyond the {POSITIONS} tokens")):
            fill_mask(text, masked_lm, tokenizer)


def test_half_a_character_is_refused_in_a_list_too(model, tokenizer):
    with pytest.raises(UserError, match="not UTF-8"):
        infer_reviews(["good", "half \ud83d"], model, tokenizer)


def test_fill_mask_sends_its_ids_to_where_the_model_is(masked_lm, tokenizer, monkeypatch):
    sent = []
    monkeypatch.setattr(masked_lm, "forward", lambda ids: sent.append(ids.device.type) or torch.zeros(1, 3, 61))
    fill_mask("[MASK]", masked_lm.to("meta"), tokenizer)
    assert sent == ["meta"]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_of_nothing_are_refused(model, tokenizer, batch_size):
    with pytest.raises(UserError, match=f"batch_size is {batch_size}"):
        infer_reviews(REVIEWS, model, tokenizer, batch_size=batch_size)


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_a_text_is_not_cut_to_less_than_its_two_ends(model, tokenizer, max_length):
    with pytest.raises(UserError, match=f"max_length is {max_length}, expected 2"):
        infer_reviews("Good film!", model, tokenizer, max_length=max_length)


def test_fill_mask_leaves_the_models_mode_as_it_was(masked_lm, tokenizer):
    fill_mask("a [MASK]", masked_lm.train(), tokenizer)
    assert masked_lm.training


def test_fill_mask_refuses_a_tokenizer_with_more_pieces_than_the_model(tokenizer):
    small = DistilBertForMaskedLM(our_config(vocab_size=len(VOCABULARY) - 2))
    with pytest.raises(UserError, match="not a pair"):
        fill_mask("the plot [MASK] end", small, tokenizer)


@pytest.mark.parametrize("terminal", [False, True])
def test_judging_that_takes_long_says_how_far_it_is(model, monkeypatch, capsys, terminal):
    """Ten texts of ten tokens, two a batch, 25 seconds a look at the clock: a line after three batches, and none after five."""
    clock, bars = itertools.count(0, 25), []
    monkeypatch.setattr("distilbert.logits.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr("distilbert.logits.tqdm", lambda **options: bars.append(Bar(**options)) or bars[-1])
    predict_logits(model, [np.full(10, 5)] * 10, 0, batch_size=2)
    said = capsys.readouterr().err
    (bar,) = bars
    assert (bar.total, bar.n, bar.disabled) == (100, 100 if terminal else 0, not terminal)
    assert said == ("" if terminal else "judging: 60%, 0.8 min left\n")


class Bar:
    """What is asked of tqdm's bar. A disabled one does not count."""

    def __init__(self, total, disable, **_):
        self.total, self.disabled, self.n = total, disable, 0

    def update(self, more):
        self.n += 0 if self.disabled else more

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_of_several_processes_one_says_how_far_judging_is(model, monkeypatch, capsys):
    clock = itertools.count(0, 100)
    monkeypatch.setattr("distilbert.logits.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    for rank in (0, 1):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        predict_logits(model, [np.full(10, 5)] * 4, 0, batch_size=2)
        assert ("judging: 50%" in capsys.readouterr().err) == (rank == 0)
