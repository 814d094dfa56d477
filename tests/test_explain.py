"""distilbert/explain.py: attention, the decision by layer and integrated gradients, all held against the model itself."""

import pytest
import torch
from conftest import close, our_config, randomise

from distilbert.explain import attention_and_decisions, attention_weights, integrated_gradients, log_odds
from distilbert.model import Attention, DistilBertForSequenceClassification

TWO = {"id2label": {0: "Negative", 1: "Positive"}}
PAD = 3  # not the row of zeros that a fresh model has at 0
DROPOUT = {"dropout": 0.5, "attention_dropout": 0.5, "seq_classif_dropout": 0.5}


@pytest.fixture(params=["linear", "pre_classifier"])
def model(request) -> DistilBertForSequenceClassification:
    """In float64, in training mode, with much dropout: whoever looks inside must switch it off."""
    model = randomise(DistilBertForSequenceClassification(our_config(classifier_head=request.param, **TWO, **DROPOUT)))
    return model.double().train()


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(5, 61, (1, 11), generator=torch.Generator().manual_seed(0))


def decide(model, ids) -> torch.Tensor:
    with torch.no_grad():
        return log_odds(model.eval()(ids))


# ---- attention


def output_from(attention: Attention, weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What a block's attention gives out, by the plain formula."""
    v = attention.split_heads(attention.qkv(x).chunk(3, dim=2)[2])
    return attention.output((weights @ v).transpose(1, 2).flatten(2))


def test_the_recomputed_weights_reproduce_the_output_of_attention():
    attention = randomise(Attention(our_config())).double().eval()
    x = torch.randn(4, 9, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = attention_weights(attention, x)
    assert weights.shape == (4, 2, 9, 9)
    close(weights.sum(dim=3), torch.ones(4, 2, 9, dtype=torch.float64), 1e-12)
    close(output_from(attention, weights, x), attention(x, None, x), 1e-12)


def test_each_layers_weights_reproduce_what_its_block_made_of_its_input(model, ids):
    weights, _ = attention_and_decisions(model, ids)
    assert weights.shape == (3, 2, 11, 11)
    seen = []
    for block in model.encoder.blocks:
        block.attention.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs[0], output)))
    decide(model, ids)  # the model's own way, in which the last block computes the row of [CLS] alone
    assert [len(output[0]) for *_, output in seen] == [11, 11, 1]
    with torch.no_grad():
        for layer, (attention, x, output) in enumerate(seen):
            close(output_from(attention, weights[layer][None], x)[:, : output.shape[1]], output, 1e-12)


# ---- the decision by layer


def test_the_last_decision_is_the_models_own(model, ids):
    _, decisions = attention_and_decisions(model, ids)
    close(decisions[-1:], decide(model, ids), 1e-12)


def test_each_decision_is_that_of_a_model_which_ends_after_so_many_blocks(model, ids):
    _, decisions = attention_and_decisions(model, ids)
    assert len(decisions) == 4 and len({round(float(decision), 6) for decision in decisions}) == 4
    for blocks in (1, 2, 3):
        short = DistilBertForSequenceClassification(model.config.replace(n_layers=blocks)).double()
        short.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in short.state_dict()})
        close(decisions[blocks : blocks + 1], decide(short, ids), 1e-12)
    with torch.no_grad():
        model.eval()
        close(decisions[:1], log_odds(model.head(model.encoder.embeddings(ids)[:, 0])), 1e-12)


def test_the_decision_of_the_embeddings_is_the_same_for_every_review(model, ids):
    others = torch.cat([ids[:, :1], ids[:, 1:].flip(1)], dim=1)
    first, second = (attention_and_decisions(model, each)[1] for each in (ids, others))
    assert first[0] == second[0] and not torch.isclose(first[1:], second[1:]).any()


# ---- integrated gradients


def blank(ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([ids[:, :1], torch.full_like(ids[:, 1:-1], PAD), ids[:, -1:]], dim=1)


def test_contributions_add_up_to_the_decision_less_the_baselines(model, ids):
    """Completeness (Sundararajan et al. 2017, proposition 1): exact in the limit, and the limit is near."""
    expected = float(decide(model, ids) - decide(model, blank(ids)))
    errors = {steps: abs(integrated_gradients(model, ids, PAD, steps)[0].sum().item() - expected) for steps in (32, 512)}
    assert abs(expected) > 0.1
    assert errors[32] < 1e-3 and errors[512] < 1e-6 and errors[512] < errors[32] / 100  # as the square of the step


def test_all_is_computed_where_the_model_is(model, ids):
    with torch.device("meta"):  # where new tensors now go that are not told where
        contributions, *_ = integrated_gradients(model, ids, PAD)
    assert contributions.device == ids.device


def test_the_two_ends_are_the_decisions_on_pad_and_on_the_text(model, ids):
    _, baseline, decision = integrated_gradients(model, ids, PAD)
    assert baseline == pytest.approx(float(decide(model, blank(ids))), abs=1e-12)
    assert decision == pytest.approx(float(decide(model, ids)), abs=1e-12)


def test_each_contribution_is_the_integral_of_that_pieces_slope(model, ids):
    """The same integral with a difference of two decisions in place of each gradient, so no derivative is trusted."""
    words, steps, h = model.encoder.embeddings.words, 32, 1e-5
    with torch.no_grad():
        text, baseline = words(ids), words(blank(ids))
    expected = torch.zeros(11, dtype=torch.float64)
    for alpha in (torch.arange(steps) + 0.5) / steps:
        middle = baseline + alpha * (text - baseline)
        changes = h * torch.eye(11, dtype=torch.float64)[:, :, None] * (text - baseline)  # of one piece in each row
        points = torch.cat([middle + changes, middle - changes])
        hook = words.register_forward_hook(lambda *_, points=points: points)
        above, below = decide(model, ids.expand(22, -1)).chunk(2)
        hook.remove()
        expected += (above - below) / (2 * h * steps)
    contributions = integrated_gradients(model, ids, PAD, steps)[0]
    close(contributions, expected, 1e-6)
    assert len({round(float(value), 4) for value in contributions}) == 10  # all differ, but [CLS] and [SEP]


def test_cls_and_sep_contribute_exactly_nothing_and_neither_does_pad(model, ids):
    ids[0, 4] = PAD
    contributions = integrated_gradients(model, ids, PAD)[0]
    assert (contributions == 0).nonzero().flatten().tolist() == [0, 4, 10]


# ---- what is left behind


@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_on_the_model(model, ids, training):
    model.train(training)
    expected = [parameter.clone() for parameter in model.parameters()]
    attention_and_decisions(model, ids)
    integrated_gradients(model, ids, PAD)
    assert {module.training for module in model.modules()} == {training}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(map(torch.equal, model.parameters(), expected))


def test_nothing_is_left_on_the_model_after_an_error_either(model):
    too_long = torch.full((1, 18), 7)
    for look in (lambda: attention_and_decisions(model, too_long), lambda: integrated_gradients(model, too_long, PAD)):
        with pytest.raises(ValueError, match="longer than the model's 17 positions"):
            look()
    assert model.training and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
