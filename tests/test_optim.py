"""The formulas of a training step: AdamW, parameter groups, clipping, schedules, the loss of several batches."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from distilbert import DistilBertConfig, DistilBertForMaskedLM, DistilBertForSequenceClassification
from distilbert.optim import (
    AdamW,
    clip_grad_norm_,
    learning_rate_factor,
    parameter_groups,
    set_learning_rate,
    share_of_step,
)
from distilbert.precision import has_compiler

SHAPES = [(517, 521), (262_144,), (7, 5, 3), ()]  # more than one slice and no multiple of it, exactly one, less, a number
SPLIT = [([0, 3], {"lr": 3e-3, "weight_decay": 0.1}), ([1, 2], {"lr": 7e-4, "weight_decay": 0.0})]
ENCODER_MATRICES = {
    "encoder.embeddings.words.weight",
    "encoder.embeddings.positions.weight",
    "encoder.blocks.0.attention.qkv.weight",
    "encoder.blocks.0.attention.output.weight",
    "encoder.blocks.0.feed_forward.expand.weight",
    "encoder.blocks.0.feed_forward.contract.weight",
}


def tiny(model_class, n_layers=1, **changes):
    """A model in float64 whose every parameter is random, without dropout."""
    off = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0)
    sizes = {"vocab_size": 31, "max_position_embeddings": 17, "dim": 12, "hidden_dim": 20, "n_heads": 3}
    model = model_class(DistilBertConfig(n_layers=n_layers, **sizes, **off, **changes)).double()
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


def settings(model, groups):
    """Each parameter's (rate, decay), by name."""
    names = {p: name for name, p in model.named_parameters()}
    return {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def ragged_batch(n=11, T=13):
    """Ids (n, T) and the mask (n, T) of n sequences, of which only the last is full."""
    random = torch.Generator().manual_seed(1)
    mask = (torch.arange(T) <= torch.arange(n)[:, None] + T - n).long()
    return torch.randint(1, 31, (n, T), generator=random) * mask, mask


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_shares_add_up(model, whole, parts):
    """The loss `whole` and its gradients are the sum of those of `parts`, (labels, loss) each, by their shares."""
    model.zero_grad()
    expected_loss = whole()
    expected_loss.backward()
    expected = gradients(model)
    model.zero_grad()
    labels_in_step = sum(labels for labels, _ in parts)
    shares = [share_of_step(loss(), labels, labels_in_step) for labels, loss in parts]
    for share in shares:
        share.backward()
    torch.testing.assert_close(sum(shares), expected_loss, rtol=0, atol=1e-12)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-12, msg=name)


# ---- AdamW


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_fifty_steps_of_adamw_equal_torchs_in_two_groups_with_changing_rates(dtype, tolerance):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    common = {"betas": (0.8, 0.97), "eps": 1e-7}
    optimizers = []
    for kind, parameters in ((AdamW, ours), (torch.optim.AdamW, theirs)):
        groups = [{"params": [parameters[i] for i in chosen], "initial_lr": rest["lr"], **rest} for chosen, rest in SPLIT]
        optimizers.append(kind(groups, **common))
    for step in range(50):
        for a, b in zip(ours, theirs, strict=True):
            b.grad = torch.randn_like(b) * 10.0 ** (step % 7 - 4)
            a.grad = b.grad.clone()
        if step % 3 == 0:
            ours[2].grad = theirs[2].grad = None  # without a gradient neither decay nor the bias correction moves on
        for optimizer in optimizers:
            set_learning_rate(optimizer, learning_rate_factor(step, 50, 10))
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizers[0].state[a][key], optimizers[1].state[b][key], rtol=tolerance, atol=tolerance)


def compiled_and_plain(dtype):
    """Optimizers of equal parameters, matrices and vectors: the first compiled. In bf16 with master weights."""
    torch.manual_seed(0)
    plain = [nn.Parameter(torch.randn(shape)) for shape in [(70, 33), (33,), (129, 70), (2, 33), ()]]
    both = [nn.Parameter(p.detach().clone()) for p in plain], plain
    optimizers = []
    for compiled, parameters in zip((True, False), both, strict=True):
        groups = [{"params": parameters[i::2], "initial_lr": 1e-2, "weight_decay": 0.1 * i} for i in range(2)]
        optimizers.append(AdamW(groups, lr=1e-2, master_weights=dtype == torch.bfloat16, compiled=compiled))
        for p in parameters:
            p.data = p.data.to(dtype)
    return optimizers, both


def take_steps(optimizers, both, steps):
    for step in range(steps):
        for a, b in zip(*both, strict=True):
            b.grad = torch.randn_like(b)
            b.grad.view(-1)[0] = 0  # of which the second moment may be, too
            a.grad = b.grad.clone()
        for optimizer in optimizers:
            set_learning_rate(optimizer, learning_rate_factor(step, steps, 2))
            optimizer.step()


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler, so --compile stays untested")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
def test_a_compiled_adamw_is_the_plain_one_but_for_rounding(dtype, tolerance):
    optimizers, both = compiled_and_plain(dtype)
    take_steps(optimizers, both, 8)
    for a, b in zip(*both, strict=True):
        masters = [optimizer.master(p) for optimizer, p in zip(optimizers, (a, b), strict=True)]
        torch.testing.assert_close(*masters, rtol=0, atol=tolerance)
        assert torch.equal(a, masters[0].to(dtype)) and torch.isfinite(a).all()
        for key in ("exp_avg", "exp_avg_sq"):
            means = [optimizer.state[p][key] for optimizer, p in zip(optimizers, (a, b), strict=True)]
            torch.testing.assert_close(*means, rtol=0, atol=tolerance)


def test_a_compiled_adamw_is_compiled_once_whatever_the_rate(monkeypatch):
    counter, compile_with = CompileCounter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: compile_with(function, backend=counter, **how))
    optimizers, both = compiled_and_plain(torch.float32)
    take_steps(optimizers, both, 6)
    assert counter.frame_count == 1
    torch.testing.assert_close(both[0], both[1], rtol=0, atol=1e-6)


def test_the_defaults_of_adamw_are_torchs():
    ours, theirs = ({**kind([torch.zeros(2)]).defaults} for kind in (AdamW, torch.optim.AdamW))
    assert {key: theirs[key] for key in ("lr", "betas", "eps", "weight_decay")} == ours


@pytest.mark.parametrize("master_weights", [True, False])
def test_a_bf16_parameter_is_its_rounded_master_which_goes_the_way_of_fp32(master_weights):
    torch.manual_seed(0)
    start = torch.randn(517, 521)  # more than a slice
    if not master_weights:
        start = start.bfloat16().float()  # the first step takes the copy, so it starts from what bf16 can hold
    model, whole = nn.ParameterList([start.clone()]), nn.Parameter(start.clone())
    half = model[0]
    optimizer, reference = AdamW([half], lr=1e-3, master_weights=master_weights), AdamW([whole], lr=1e-3)
    model.bfloat16()
    for _ in range(20):
        half.grad = torch.randn_like(half)
        whole.grad = half.grad.float()
        optimizer.step()
        reference.step()
        assert half.dtype == torch.bfloat16
        assert torch.equal(half, whole.bfloat16())
    assert optimizer.master(half).dtype == torch.float32
    assert torch.equal(optimizer.master(half), whole)
    assert torch.equal(reference.master(whole), whole)
    assert optimizer.state[half]["exp_avg_sq"].dtype == torch.float32


def test_small_steps_add_up_in_bf16_where_without_master_weights_all_are_lost():
    ours, theirs = (nn.Parameter(torch.ones(3, dtype=torch.bfloat16)) for _ in range(2))
    common = {"lr": 1e-5, "weight_decay": 0.0}
    for p, optimizer in ((ours, AdamW([ours], **common)), (theirs, torch.optim.AdamW([theirs], **common))):
        p.grad = torch.ones_like(p)
        for _ in range(300):
            optimizer.step()
    assert theirs.tolist() == [1.0] * 3
    assert ours.tolist() == [1 - 1 / 256] * 3  # 0.997, rounded to the neighbour of one


# ---- parameter groups


@pytest.mark.parametrize("model_class", [DistilBertForSequenceClassification, DistilBertForMaskedLM])
@pytest.mark.parametrize("decay_all", [False, True])
def test_every_parameter_is_in_exactly_one_group(model_class, decay_all):
    model = tiny(model_class, n_layers=3)
    groups = parameter_groups(model, 1e-4, 0.01, 1e-3, decay_all, layer_decay=0.9)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert len({(group["lr"], group["weight_decay"]) for group in groups}) == len(groups)
    assert all(group["initial_lr"] == group["lr"] for group in groups)


def test_a_parameter_that_two_modules_share_is_listed_once_where_it_stands_first():
    model = tiny(DistilBertForMaskedLM)
    model.head.decoder = nn.Linear(12, 31, bias=False)
    model.head.decoder.weight = model.encoder.embeddings.words.weight
    groups = parameter_groups(model, 1e-4, 0.01, 1e-3)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert settings(model, groups)["encoder.embeddings.words.weight"] == (1e-4, 0.01)


@pytest.mark.parametrize(
    ("model", "matrices"),
    [
        (tiny(DistilBertForSequenceClassification, classifier_head="linear"), {"head.output.weight"}),
        (
            tiny(DistilBertForSequenceClassification, classifier_head="pre_classifier"),
            {"head.pre_classifier.weight", "head.output.weight"},
        ),
        (tiny(DistilBertForMaskedLM), {"head.transform.weight"}),
    ],
)
def test_decay_takes_the_matrices_of_linear_and_embedding_only(model, matrices):
    decays = {name: decay for name, (_, decay) in settings(model, parameter_groups(model, 1e-4, 0.03)).items()}
    assert {name for name, decay in decays.items() if decay} == ENCODER_MATRICES | matrices
    assert set(decays.values()) == {0.0, 0.03}


def test_decay_all_decays_everything():
    model = tiny(DistilBertForMaskedLM)
    assert set(settings(model, parameter_groups(model, 1e-4, 0.03, decay_all=True)).values()) == {(1e-4, 0.03)}


def test_the_head_has_its_own_rate_and_the_encoders_without_one():
    model = tiny(DistilBertForSequenceClassification, classifier_head="pre_classifier")
    for given, expected in ((5e-5, 5e-5), (0.0, 0.0), (None, 1e-5)):
        rates = {name: rate for name, (rate, _) in settings(model, parameter_groups(model, 1e-5, 0.01, given)).items()}
        assert {rate for name, rate in rates.items() if name.startswith("head.")} == {expected}
        assert {rate for name, rate in rates.items() if not name.startswith("head.")} == {1e-5}


def test_layer_decay_halves_the_rate_from_block_to_block_down_to_the_embeddings():
    model = tiny(DistilBertForSequenceClassification, n_layers=3)
    found = settings(model, parameter_groups(model, 0.8, 0.01, 0.7, layer_decay=0.5))
    rates = {}
    for name, (rate, _) in found.items():
        rates.setdefault(".".join(name.split(".")[: 3 if "blocks" in name else 2]), set()).add(rate)
    assert rates == {
        "encoder.embeddings": {0.1},
        "encoder.blocks.0": {0.2},
        "encoder.blocks.1": {0.4},
        "encoder.blocks.2": {0.8},
        "head.output": {0.7},
    }


# ---- clipping


@pytest.mark.parametrize("max_norm", [1.0, 1e6])
def test_clipping_equals_torchs_in_norm_and_gradients(max_norm):
    torch.manual_seed(0)
    shapes = (5, 7), (11,), (517, 521), (13,)  # the third is more than a slice
    ours = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):  # the last has no gradient
        b.grad = torch.randn_like(b) * 9
        a.grad = b.grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    torch.testing.assert_close(clip_grad_norm_(iter(ours), max_norm), expected, rtol=1e-14, atol=0)
    assert (expected > max_norm) == (max_norm == 1.0)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-14, atol=0)


def test_bf16_gradients_are_clipped_by_the_exact_factor():
    """By 0.997, where bf16 has only 1 - 1/256: 1 + 1/128 would become 1."""
    p = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    p.grad = torch.full_like(p, 1 + 1 / 128)
    clip_grad_norm_([p], 0.997 * 2 * (1 + 1 / 128))
    assert p.grad.tolist() == [1 + 1 / 128] * 4


def test_the_norm_is_that_before_clipping_and_three_four_five_is_cut_to_one():
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    p.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert clip_grad_norm_([p], 1.0).item() == 5.0
    torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.8], dtype=torch.float64), rtol=1e-6, atol=0)


def test_max_norm_zero_only_measures():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([30.0, 40.0])
    assert clip_grad_norm_([p], 0.0).item() == 50.0
    assert p.grad.tolist() == [30.0, 40.0]


def test_the_norm_of_bf16_gradients_is_summed_in_fp32():
    p = nn.Parameter(torch.zeros(4_096, dtype=torch.bfloat16))
    p.grad = torch.ones_like(p)
    p.grad[0] = 8.0  # 4095 + 64 has no place in bf16
    assert clip_grad_norm_([p], 0.0).item() == pytest.approx(4_159**0.5, rel=1e-6)


# ---- schedules


@pytest.mark.parametrize(
    ("kind", "warmup", "least", "expected"),
    [
        ("linear", 4, 0.0, [0, 1 / 4, 2 / 4, 3 / 4, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("linear", 4, 0.4, [0, 1 / 4, 2 / 4, 3 / 4, 1, 5 / 6, 4 / 6, 3 / 6, 0.4, 0.4]),
        ("linear", 0, 0.0, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ("linear", 10, 0.5, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        ("constant_with_warmup", 4, 0.0, [0, 1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1, 1]),
        ("constant_with_warmup", 0, 0.0, [1] * 10),
    ],
)
def test_the_rate_rises_in_a_line_then_falls_or_stays_and_the_floor_holds_once_warm(kind, warmup, least, expected):
    factors = [learning_rate_factor(step, 10, warmup, kind, least) for step in range(10)]
    assert factors == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (37, 0), (37, 1), (37, 5), (37, 37)])
def test_every_step_of_the_schedules_is_that_of_transformers(total, warmup):
    def rates(scheduler_of):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        scheduler = scheduler_of(optimizer)
        for _ in range(total):
            yield scheduler.get_last_lr()[0]
            optimizer.step()
            scheduler.step()

    ours = {
        kind: [learning_rate_factor(i, total, warmup, kind) for i in range(total)]
        for kind in ("linear", "constant_with_warmup")
    }
    assert ours["linear"] == list(rates(lambda o: get_linear_schedule_with_warmup(o, warmup, total)))
    assert ours["constant_with_warmup"] == list(rates(lambda o: get_constant_schedule_with_warmup(o, warmup)))


def test_an_unknown_schedule_is_an_error_that_names_the_known_ones():
    with pytest.raises(ValueError, match="'cosine', expected 'linear' or 'constant_with_warmup'"):
        learning_rate_factor(5, 10, 2, "cosine")


def test_the_factor_multiplies_each_groups_own_peak_however_often_it_is_set():
    groups = [{"params": [torch.zeros(1)], "lr": rate, "initial_lr": rate} for rate in (0.5, 0.125)]
    optimizer = AdamW(groups)
    for factor in (0.0, 0.5, 0.25):
        set_learning_rate(optimizer, factor)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.03125]


# ---- the loss of several batches


def test_batches_weighted_by_their_examples_give_the_loss_and_gradient_of_the_whole_batch():
    model = tiny(DistilBertForSequenceClassification, n_layers=2, classifier_head="pre_classifier")
    (ids, mask), labels = ragged_batch(), torch.arange(11) % 3 % 2

    def loss(first, last):
        return lambda: model.loss(ids[first:last], mask[first:last], labels[first:last])

    assert_shares_add_up(model, loss(0, 11), [(5, loss(0, 5)), (4, loss(5, 9)), (2, loss(9, 11))])


def test_batches_weighted_by_their_labels_give_the_masked_lm_loss_and_gradient_even_if_one_has_none():
    model = tiny(DistilBertForMaskedLM, n_layers=2)
    ids, mask = ragged_batch()
    labels = torch.where((torch.arange(13) % 3 == torch.arange(11)[:, None] % 3) & (mask == 1), ids, -100)
    labels[5:7] = -100

    def loss(first, last):
        return lambda: model.loss(ids[first:last], mask[first:last], labels[first:last])

    cuts = [(0, 5), (5, 7), (7, 11)]
    counts = [int((labels[first:last] != -100).sum()) for first, last in cuts]
    assert counts[1] == 0 and counts[0] != counts[2]
    assert_shares_add_up(model, loss(0, 11), [(count, loss(*cut)) for count, cut in zip(counts, cuts, strict=True)])


def test_a_step_without_any_label_has_the_loss_zero():
    assert share_of_step(torch.tensor(3.0), 0, 0) == 0.0
