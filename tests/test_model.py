"""The model equals transformers', and does nothing that the formulas in its docstrings do not say."""

import math

import pytest
import torch
import torch.nn.functional as F
import transformers
from conftest import ARCHITECTURES, NO_DROPOUT, SIZES, close, our_config, ragged_batch, randomise, their_config

from distilbert import fast
from distilbert import model as ours
from distilbert.checkpoint import name_map, to_theirs
from distilbert.errors import UserError
from distilbert.optim import AdamW, clip_grad_norm_

HEADS = [(ARCHITECTURES[0], "linear"), (ARCHITECTURES[1], "linear"), (ARCHITECTURES[2], "linear")]
HEADS += [(ARCHITECTURES[2], "pre_classifier")]
IN_TRANSFORMERS = [(name, "pre_classifier") for name in ARCHITECTURES]  # transformers has no linear head


def our_model(architecture: str, classifier_head: str = "linear", **changes) -> torch.nn.Module:
    """One of ours in float64, every parameter random, without dropout unless `changes` say otherwise; in eval mode."""
    config = our_config(**{**NO_DROPOUT, "classifier_head": classifier_head, **changes})
    return randomise(getattr(ours, architecture)(config)).double().eval()


def twins(architecture: str, classifier_head: str = "pre_classifier", **changes):
    """Ours, transformers' with the same parameters, and the name map between them."""
    mine = our_model(architecture, classifier_head, **changes)
    theirs = getattr(transformers, architecture)(their_config(**{**NO_DROPOUT, **changes})).double().eval()
    rows = name_map(architecture, mine.config)
    result = theirs.load_state_dict(to_theirs(rows, mine.state_dict()), strict=False)
    assert result.unexpected_keys == [] and result.missing_keys in ([], ["vocab_projector.weight"])
    return mine, theirs, rows


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def some_sum(x: torch.Tensor) -> torch.Tensor:
    """A number that depends on every value of x, each in its own way."""
    return (x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)).sum()


def mlm_labels() -> torch.Tensor:
    """Labels (4, 13) for ragged_batch: five, two, one and none."""
    labels = torch.full((4, 13), -100)
    labels[0, [1, 2, 5, 6, 12]] = torch.tensor([7, 60, 0, 7, 33])
    labels[1, [8, 3]] = torch.tensor([11, 12])
    labels[2, 0] = 59
    return labels


def loss_of(model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A loss for any of our three models."""
    if isinstance(model, ours.DistilBertModel):
        return some_sum(model(ids, mask))
    labels = mlm_labels() if isinstance(model, ours.DistilBertForMaskedLM) else torch.tensor([4, 0, 1, 3])
    return model.loss(ids, mask, labels)


# ---- equal to transformers


@pytest.mark.parametrize("masked", [True, False])
def test_the_embeddings_and_each_block_equal_transformers(masked):
    mine, theirs, _ = twins("DistilBertModel")
    ids, mask = ragged_batch()
    mask = mask if masked else None
    seen = []
    for module in (mine.embeddings, *mine.blocks):
        module.register_forward_hook(lambda module, inputs, output: seen.append(output))
    last = mine(ids, mask)
    expected = theirs(ids, attention_mask=mask, output_hidden_states=True)
    assert len(seen) == len(expected.hidden_states) == SIZES["n_layers"] + 1
    for found, state in zip(seen, expected.hidden_states, strict=True):
        close(found, state)
    close(last, expected.last_hidden_state)


@pytest.mark.parametrize("values_at_once", [fast.PIECE, 2 * 2 * 13 * 13, 1])  # all four sequences, two, one
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_logits_loss_and_every_gradient_equal_transformers(monkeypatch, architecture, masked, training, values_at_once):
    monkeypatch.setattr(fast, "PIECE", values_at_once)
    monkeypatch.setattr(fast, "WHOLE", 0)
    mine, theirs, rows = (twin.train(training) if hasattr(twin, "train") else twin for twin in twins(architecture))
    ids, mask = ragged_batch()
    mask = mask if masked else None
    labels = mlm_labels() if architecture == "DistilBertForMaskedLM" else torch.tensor([4, 0, 1, 3])
    expected = theirs(ids, attention_mask=mask, labels=labels)
    close(mine(ids, mask), expected.logits)
    loss = mine.loss(ids, mask, labels)
    close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    found, wanted = to_theirs(rows, gradients(mine)), gradients(theirs)
    assert found.keys() == wanted.keys()
    for name in wanted:
        close(found[name], wanted[name])


def test_the_encoders_gradients_equal_transformers():
    mine, theirs, rows = twins("DistilBertModel")
    ids, mask = ragged_batch()
    some_sum(mine(ids, mask)).backward()
    some_sum(theirs(ids, attention_mask=mask).last_hidden_state).backward()
    found, wanted = to_theirs(rows, gradients(mine)), gradients(theirs)
    assert found.keys() == wanted.keys()
    for name in wanted:
        close(found[name], wanted[name])


def test_the_linear_head_is_one_linear_on_the_encoders_first_token():
    mine = our_model("DistilBertForSequenceClassification", "linear")
    theirs = transformers.DistilBertModel(their_config(**NO_DROPOUT)).double().eval()
    theirs.load_state_dict(to_theirs(name_map("DistilBertModel", mine.config), mine.encoder.state_dict()))
    ids, mask = ragged_batch()
    cls = theirs(ids, attention_mask=mask).last_hidden_state[:, 0]
    close(mine(ids, mask), F.linear(cls, mine.head.output.weight, mine.head.output.bias))


@pytest.mark.parametrize(("architecture", "classifier_head"), IN_TRANSFORMERS)
def test_dropout_stands_where_transformers_has_it(monkeypatch, architecture, classifier_head):
    """Both get the same dice, which see only the last dimension and p; then all three rates must be in the right places."""

    def same_for_both(x, p=0.5, training=True, inplace=False):
        dice = torch.rand(x.shape[-1], generator=torch.Generator().manual_seed(round(100 * p)), dtype=x.dtype)
        return x * (0.5 + dice) if training else x

    monkeypatch.setattr(F, "dropout", same_for_both)
    monkeypatch.setattr(ours.Dropout, "forward", lambda self, x, seed=None: same_for_both(x, self.p, self.training))
    rates = {"dropout": 0.21, "attention_dropout": 0.34, "seq_classif_dropout": 0.43}
    mine, theirs, _ = twins(architecture, classifier_head, **rates)
    ids, mask = ragged_batch()
    quiet = mine(ids, mask)
    mine.train(), theirs.train()
    found = mine(ids, mask)
    assert (found - quiet).abs().max() > 0.01
    close(found, theirs(ids, attention_mask=mask)[0])


def test_the_linear_heads_dropout_stands_before_its_linear(monkeypatch):
    model = our_model("DistilBertForSequenceClassification", "linear", seq_classif_dropout=0.3).train()
    monkeypatch.setattr(ours.Dropout, "forward", lambda self, x, seed=None: x * 3 if self.p == 0.3 else x)
    cls = torch.randn(4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    close(model.head(cls), F.linear(3 * cls, model.head.output.weight, model.head.output.bias))


# ---- dropout


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_each_of_the_four_lanes_of_a_word_is_dropped_at_the_rate_p(p):
    torch.manual_seed(1)
    dropped = (ours.Dropout(p)(torch.ones(100_000, 4)) == 0).double()
    five_sigma = 5 * math.sqrt(p * (1 - p) / 100_000)
    for lane in range(4):
        assert dropped[:, lane].mean().item() == pytest.approx(p, abs=five_sigma)
    both = [(dropped[:, i] * dropped[:, j]).mean().item() for i in range(4) for j in range(i)]
    assert both == pytest.approx([p * p] * 6, abs=five_sigma)  # lanes are independent


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_of_all_65536_lanes_dropout_drops_exactly_a_share_of_p(monkeypatch, p):
    monkeypatch.setattr(fast, "random_words", lambda *_: torch.arange(-32_768, 32_768, dtype=torch.int16).view(torch.int64))
    assert (ours.Dropout(p)(torch.ones(65_536)) == 0).sum() == round(p * 65_536)


def test_off_the_cpu_dropout_is_torchs_own(monkeypatch):
    monkeypatch.setattr(F, "dropout", lambda x, p, training: (x, p, training))
    x = torch.ones(3, device="meta")
    assert ours.Dropout(0.3)(x) == (x, 0.3, True) and ours.Dropout(0.3).eval()(x) == (x, 0.3, False)


def test_random_words_are_a_row_of_hashes_times_the_hash_of_the_seed_and_on():
    """In whole numbers below 2**64; >> repeats the sign, as torch's does."""

    def signed(x: int) -> int:
        return x % 2**64 - 2**64 * (x % 2**64 >> 63)

    def hashed(x: int) -> int:
        x = signed(x * 0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = signed((x ^ (x >> shift)) * factor)
        return x

    def by_hand(place: int, seed: int) -> int:
        row, column = divmod(place, 32_768)
        x = signed(hashed(column + 1) * (hashed(seed + row) | 1))
        return signed(x + (x >> 32))

    for seed in (0, 1, 2**62 - 1):
        assert fast.random_words(50, seed).tolist() == [by_hand(i, seed) for i in range(50)]
        assert fast.random_words(65_540, seed)[-50:].tolist() == [by_hand(i, seed) for i in range(65_490, 65_540)]


def test_every_bit_of_the_random_words_is_a_fair_coin_and_neighbours_in_place_row_and_piece_are_strangers():
    words = torch.stack([fast.random_words(65_536, seed) for seed in (7, 7 + fast.APART)]).view(2, 2, -1)  # piece, row, place
    bits = torch.stack([(words >> i) & 1 for i in range(64)]).double() * 2 - 1  # (64, 2, 2, 32_768), each 1 or -1
    five_sigma = 5 / math.sqrt(32_768)
    assert bits.mean(dim=3).abs().max() < five_sigma
    neighbours = {
        "place": bits[..., 1:] * bits[..., :-1],
        "row": bits[:, :, 1] * bits[:, :, 0],
        "piece": bits[:, 1] * bits[:, 0],
        "bit": bits[1:] * bits[:-1],
        "half": bits[32:] * bits[:32],
    }
    for name, products in neighbours.items():
        assert products.mean(dim=-1).abs().max() < five_sigma, name


def test_no_two_of_300_dropouts_share_more_of_what_they_drop_than_chance():
    """Each lane by itself: all have the same row of words, times factors of their own, and small multiples would show."""
    masks = torch.stack([fast.keep_mask(torch.empty(65_536), 6_554, seed * fast.APART) == 0 for seed in range(300)])
    assert masks[:, :1_024].any(dim=0).all()  # no place is spared
    for lane in range(4):
        dropped = masks[:, lane::4].double()  # (300, 16_384)
        p = dropped.mean().item()
        assert p == pytest.approx(0.1, abs=5 * math.sqrt(0.09 / dropped.numel()))
        correlation = (dropped - p) @ (dropped - p).T / (16_384 * p * (1 - p))
        assert correlation.fill_diagonal_(0).abs().max() < 6 / math.sqrt(16_384)


@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_what_dropout_keeps_is_scaled_so_that_the_mean_stays(p):
    torch.manual_seed(1)
    x = torch.randn(7, 31, 3, dtype=torch.float64)  # 651 values: not a multiple of four
    y = ours.Dropout(p)(x)
    rounded = round(p * 65_536) / 65_536
    kept = y != 0
    assert y.shape == x.shape and 0 < kept.sum() < x.numel()
    close(y[kept], x[kept] / (1 - rounded), 1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_each_number_format_dropout_gives_zero_or_the_scaled_value_by_the_same_mask(dtype):
    x = torch.randn(3, 501, generator=torch.Generator().manual_seed(1)).to(dtype)
    kept = ours.Dropout(0.3)(torch.ones(3, 501, dtype=torch.float64), seed=5) != 0
    expected = torch.where(kept, x * torch.tensor(1 / (1 - round(0.3 * 65_536) / 65_536)).to(dtype), 0.0)
    found = ours.Dropout(0.3)(x, seed=5)
    assert found.dtype == dtype and torch.equal(found, expected)


def test_the_dropout_mask_depends_on_the_seed_only():
    def mask(seed, x):
        torch.manual_seed(seed)
        return ours.Dropout(0.4)(x) != 0

    x, threads = torch.rand(300, 211) + 1, torch.get_num_threads()
    expected = mask(3, x)
    torch.rand(5)  # whatever was drawn in between
    assert torch.equal(mask(3, -7 * x), expected)
    assert torch.equal(mask(3, x.double()), expected)
    assert torch.equal(mask(3, x.view(211, 300)).view(300, 211), expected)
    try:
        torch.set_num_threads(threads + 1)
        assert torch.equal(mask(3, x), expected)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(mask(4, x), expected)


def test_two_calls_of_dropout_differ():
    torch.manual_seed(0)
    dropout, x = ours.Dropout(0.4), torch.ones(50, 3)
    assert not torch.equal(dropout(x), dropout(x))


def test_dropout_passes_gradients_where_it_passes_values():
    x = torch.ones(50, 3, dtype=torch.float64, requires_grad=True)
    y = ours.Dropout(0.4)(x)
    y.sum().backward()
    close(x.grad, y.detach())


def test_dropout_is_off_in_eval_mode_and_at_rate_zero():
    x, state = torch.randn(5, 3), torch.get_rng_state()
    assert ours.Dropout(0.4).eval()(x) is x
    assert ours.Dropout(0.0)(x) is x
    assert torch.equal(torch.get_rng_state(), state)  # and costs no dice


@pytest.mark.parametrize(("architecture", "classifier_head"), HEADS)
def test_a_training_pass_is_a_function_of_the_seed(architecture, classifier_head):
    model = our_model(architecture, classifier_head, dropout=0.2, attention_dropout=0.3, seq_classif_dropout=0.1).train()

    def forward(seed):
        torch.manual_seed(seed)
        return model(*ragged_batch())

    assert torch.equal(forward(1), forward(1))
    assert not torch.equal(forward(1), forward(2))


# ---- attention


def attention_and_inputs(p: float):
    """An attention with every parameter random, x, its additive mask, and two rows of each sequence."""
    attention = randomise(ours.Attention(our_config(attention_dropout=p))).double()
    x = torch.randn(4, 13, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    mask = (ragged_batch()[1][:, None, None] == 0).double() * ours.FAR_BELOW
    return attention, x, mask, ours.take_rows(x, torch.tensor([[0, 5], [8, 1], [3, 3], [0, 12]]))


def on_a_gpu(monkeypatch) -> None:
    """Attention takes the way of devices with a kernel for it; torch has that kernel for CPUs too, without dropout."""
    monkeypatch.setattr(ours, "has_fused_attention", lambda x, dropout: True)
    monkeypatch.setattr(ours, "piecewise", None)


@pytest.mark.parametrize("some_rows", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_as_written_equals_the_fused_kernel(monkeypatch, masked, some_rows):
    results = []
    for fused in (False, True):
        attention, x, mask, rows = attention_and_inputs(0.0)
        if fused:
            on_a_gpu(monkeypatch)
        y = attention.train()(x, mask if masked else None, rows if some_rows else x)
        some_sum(y).backward()
        results.append([y, x.grad, *gradients(attention).values()])
    for found, expected in zip(*results, strict=True):
        close(found, expected, 1e-12)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_the_fused_kernel_takes_what_autocast_and_half_precision_weights_give_it(monkeypatch, kind):
    """A GPU's refuses a mask of another format than the queries'; autocast makes it the same."""
    kernel, formats = F.scaled_dot_product_attention, set()
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args: formats.add(args[3].dtype) or kernel(*args))
    expected = loss_of(our_model(ARCHITECTURES[2]).float(), *ragged_batch())
    on_a_gpu(monkeypatch)
    model = our_model(ARCHITECTURES[2]).to(torch.float32 if kind == torch.float16 else kind)
    with torch.autocast("cpu", torch.float16, enabled=kind == torch.float16):
        found = loss_of(model, *ragged_batch())
    found.backward()
    assert formats == {model.encoder.embeddings.words.weight.dtype}
    close(found, expected, 0.05)
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_the_fused_kernel_gets_the_rate_of_dropout_in_training_only(monkeypatch):
    on_a_gpu(monkeypatch)
    rates = []
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, mask, p: rates.append(p) or q)
    attention, x, mask, _ = attention_and_inputs(0.4)
    attention.train()(x, mask, x), attention.eval()(x, mask, x)
    assert rates == [0.4, 0.0]


def test_attention_drops_weights_after_the_softmax():
    attention, x, mask, _ = attention_and_inputs(0.4)
    q, k, v = (attention.split_heads(part) for part in attention.qkv(x).chunk(3, dim=2))
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(6) + mask, dim=3)
    torch.manual_seed(5)
    seed = ours.draw_seed()
    expected = attention.output((attention.dropout(weights, seed) @ v).transpose(1, 2).reshape(4, 13, 12))
    torch.manual_seed(5)
    close(attention(x, mask, x), expected)


# ---- rows


@pytest.mark.parametrize("n_layers", [3, 1])
@pytest.mark.parametrize("rows", [[[0], [0], [0], [0]], [[12, 0, 7], [8, 8, 1], [3, 0, 2], [0, 5, 12]]])
def test_the_last_block_on_some_rows_equals_the_whole_block_there(rows, n_layers):
    model, rows = our_model("DistilBertModel", n_layers=n_layers), torch.tensor(rows)
    ids, mask = ragged_batch()
    results = []
    for take in (lambda: model(ids, mask, rows), lambda: ours.take_rows(model(ids, mask), rows)):
        model.zero_grad()
        y = take()
        some_sum(y).backward()
        results.append([y, *gradients(model).values()])
    for found, expected in zip(*results, strict=True):
        close(found, expected)


def test_take_rows_takes_the_named_positions_of_each_sequence():
    x = torch.arange(2 * 5 * 3).view(2, 5, 3)
    taken = ours.take_rows(x, torch.tensor([[4, 0], [1, 1]]))
    assert torch.equal(taken, torch.stack([x[0, [4, 0]], x[1, [1, 1]]]))


# ---- losses


def test_the_sparse_mlm_loss_equals_the_dense_one_in_value_and_gradient():
    model, labels = our_model("DistilBertForMaskedLM"), mlm_labels()
    ids, mask = ragged_batch()
    dense = F.cross_entropy(model(ids, mask).flatten(0, 1), labels.flatten())
    dense.backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    sparse = model.loss(ids, mask, labels)
    sparse.backward()
    close(sparse, dense)
    for name, gradient in gradients(model).items():
        close(gradient, expected[name])


def test_the_vocabulary_products_are_made_for_labelled_tokens_only():
    model, seen = our_model("DistilBertForMaskedLM"), []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    model.loss(*ragged_batch(), mlm_labels())
    assert seen == [(8, SIZES["vocab_size"])]


def test_labelled_logits_are_those_of_the_labelled_positions_and_come_with_their_labels():
    model, labels = our_model("DistilBertForMaskedLM"), mlm_labels()
    logits, targets = model.labelled_logits(*ragged_batch(), labels)
    close(logits, model(*ragged_batch())[labels != -100])
    assert torch.equal(targets, labels[labels != -100])


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_without_a_label_has_loss_zero_and_zero_gradients(training):
    model = our_model("DistilBertForMaskedLM", dropout=0.1, attention_dropout=0.1).train(training)
    loss = model.loss(*ragged_batch(), torch.full((4, 13), -100))
    assert loss.item() == 0
    loss.backward()
    for gradient in gradients(model).values():
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_labelled_rows_puts_labelled_positions_first_and_chooses_none_of_those_that_fill_up():
    labels = torch.tensor([[-100, 7, -100, 9], [-100, -100, 3, -100], [-100, -100, -100, -100]])
    rows, chosen = ours.labelled_rows(labels).values()
    assert rows.is_contiguous()  # a GPU copies nothing else from pinned memory
    assert rows.shape == (3, 2) and rows[0].tolist() == [1, 3] and rows[1, 0] == 2
    assert chosen.tolist() == [0, 1, 2]
    assert labels.gather(1, rows).flatten()[chosen].tolist() == [7, 9, 3]


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ARCHITECTURES[1:])
def test_a_training_step_never_waits_for_the_device(architecture, weights):
    """On torch's meta device tensors have no values, so that whatever would fetch one from a GPU raises an error here."""
    model = our_model(architecture, dropout=0.1, attention_dropout=0.1).train().float().to("meta")
    optimizer = AdamW(model.parameters(), master_weights=weights != torch.float32)
    model.to(weights)
    batch = dict(zip(("input_ids", "attention_mask"), ragged_batch(), strict=True))
    if architecture == "DistilBertForMaskedLM":
        batch |= {"labels": mlm_labels()} | ours.labelled_rows(mlm_labels())
    else:
        batch["labels"] = torch.tensor([0, 1, 1, 0])
    model.loss(**{name: tensor.to("meta") for name, tensor in batch.items()}).backward()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def test_the_loss_of_a_half_precision_model_is_that_of_its_logits_in_fp32():
    (ids, mask), labels = ragged_batch(), torch.tensor([4, 0, 1, 3])
    classifier, masked_lm = our_model(ARCHITECTURES[2]).bfloat16(), our_model(ARCHITECTURES[1]).bfloat16()
    close(classifier.loss(ids, mask, labels), F.cross_entropy(classifier(ids, mask).float(), labels), 1e-6)
    logits, targets = masked_lm.labelled_logits(ids, mask, mlm_labels())
    close(masked_lm.loss(ids, mask, mlm_labels()), F.cross_entropy(logits.float(), targets), 1e-6)


def test_logits_become_fp32_unless_they_are_more():
    logits = torch.tensor([[3.0, 1.0, -2.0]], dtype=torch.bfloat16)
    assert ours.at_least_fp32(logits).dtype == torch.float32
    assert ours.at_least_fp32(logits.double()).dtype == torch.float64


# ---- every parameter, padding, lengths


@pytest.mark.parametrize(("architecture", "classifier_head"), HEADS)
def test_every_parameter_receives_a_gradient(architecture, classifier_head):
    model = our_model(architecture, classifier_head, dropout=0.1, attention_dropout=0.1, seq_classif_dropout=0.1).train()
    torch.manual_seed(0)
    loss_of(model, *ragged_batch()).backward()
    for name, gradient in gradients(model).items():
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().max() > 1e-9, name


@pytest.mark.parametrize(("architecture", "classifier_head"), HEADS)
def test_padding_changes_nothing(architecture, classifier_head):
    model = our_model(architecture, classifier_head)
    ids, mask = ragged_batch()
    padded = model(ids, mask)
    otherwise_padded = model(torch.where(mask == 1, ids, 0), mask)
    for i, length in enumerate(mask.sum(dim=1).tolist()):
        real = i if architecture == "DistilBertForSequenceClassification" else (i, slice(length))
        close(otherwise_padded[real], padded[real])
        close(model(ids[i : i + 1, :length])[0], padded[real])


def test_padding_reaches_no_gradient_in_training():
    model = our_model("DistilBertForSequenceClassification", attention_dropout=1e-9).train()  # the written-out attention
    ids, mask = ragged_batch()
    ids[mask == 0] = 60
    ids[mask == 1] %= 60
    loss_of(model, ids, mask).backward()
    assert torch.equal(model.encoder.embeddings.words.weight.grad[60], torch.zeros(12, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_a_mask_may_be_of_any_number_format(dtype):
    model = our_model("DistilBertModel")
    ids, mask = ragged_batch()
    assert torch.equal(model(ids, mask.to(dtype)), model(ids, mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_row_that_is_all_padding_gives_no_nan(architecture, training, dtype):
    model = our_model(architecture, dropout=0.1, attention_dropout=0.1).to(dtype).train(training)
    ids, mask = ragged_batch()
    mask[1] = 0
    loss = loss_of(model, ids, mask)
    loss.backward()
    assert model(ids, mask).isfinite().all() and loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_sequence_longer_than_the_positions_is_refused_and_one_as_long_is_not(architecture):
    model = our_model(architecture)
    assert len(model(torch.ones(2, 17, dtype=torch.long))) == 2
    with pytest.raises(UserError, match=r"18 tokens .* 17 positions: cut it to 17"):
        model(torch.ones(2, 18, dtype=torch.long))


def test_the_decoder_of_the_mlm_head_is_the_word_embeddings_themselves():
    model = our_model("DistilBertForMaskedLM")
    ids, mask = ragged_batch()
    before = model(ids, mask)
    with torch.no_grad():
        model.encoder.embeddings.words.weight[3] += 1.0  # a word that is not in the input, whose ids begin with 5
    changed = (model(ids, mask) != before).any(dim=0).any(dim=0)
    assert changed.nonzero().flatten().tolist() == [3]


def test_the_configurations_rates_go_to_their_places():
    config = our_config(dropout=0.11, attention_dropout=0.22, seq_classif_dropout=0.33)
    rates = {
        name.removeprefix("encoder."): module.p
        for name, module in ours.DistilBertForSequenceClassification(config).named_modules()
        if isinstance(module, ours.Dropout)
    }
    expected = {"embeddings.dropout": 0.11, "head.dropout": 0.33}
    for i in range(3):
        expected |= {f"blocks.{i}.attention.dropout": 0.22, f"blocks.{i}.feed_forward.dropout": 0.11}
    assert rates == expected


# ---- fresh weights and sizes


@pytest.mark.parametrize(("architecture", "classifier_head"), HEADS)
@pytest.mark.parametrize("std", [0.02, 0.3])
def test_fresh_weights_are_normal_norms_one_biases_and_padding_zero(architecture, classifier_head, std):
    torch.manual_seed(0)
    sizes = {"dim": 60, "hidden_dim": 70, "vocab_size": 300, "pad_token_id": 4}
    config = our_config(**sizes, classifier_head=classifier_head, initializer_range=std)
    model = getattr(ours, architecture)(config)
    norms = {name for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[0] in norms and name.endswith("weight"):
            assert torch.equal(parameter, torch.ones(60)), name
        elif name.endswith("bias"):
            assert torch.equal(parameter, torch.zeros_like(parameter)), name
        else:
            if name.endswith("words.weight"):
                assert torch.equal(parameter[4], torch.zeros(60))
                parameter = torch.cat([parameter[:4], parameter[5:]])
            n = parameter.numel()
            assert parameter.mean().item() == pytest.approx(0, abs=5 * std / math.sqrt(n)), name
            assert parameter.std().item() == pytest.approx(std, abs=5 * std / math.sqrt(2 * n)), name
            kurtosis = (parameter / std).pow(4).mean().item()  # 3 for a normal, 1.8 for a uniform distribution
            assert kurtosis == pytest.approx(3, abs=5 * math.sqrt(96 / n)), name


@pytest.mark.parametrize(
    ("architecture", "classifier_head", "count"),
    [
        ("DistilBertModel", "linear", 66_362_880),
        ("DistilBertForMaskedLM", "linear", 66_985_530),
        ("DistilBertForSequenceClassification", "linear", 66_364_418),
        ("DistilBertForSequenceClassification", "pre_classifier", 66_955_010),
    ],
)
def test_the_default_sizes_have_distilberts_number_of_parameters(architecture, classifier_head, count):
    with torch.device("meta"):
        model = getattr(ours, architecture)(ours.DistilBertConfig(classifier_head=classifier_head))
    assert sum(parameter.numel() for parameter in model.parameters()) == count
