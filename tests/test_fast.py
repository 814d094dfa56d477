"""Computed in pieces, a function of a batch and its gradients are what they are in one piece."""

import copy
import itertools
import runpy

import pytest
import torch
from conftest import TINY, close, our_config, ragged_batch, randomise
from torch.utils._python_dispatch import TorchDispatchMode

import evaluate
import train_cls
from distilbert import DistilBertForSequenceClassification, Tokenizer, run
from distilbert import fast as file
from distilbert import model as ours
from distilbert.fast import piecewise
from distilbert.tokenizer import SPECIAL_TOKENS

SIZES = [1, 2, 3, 100]  # of seven examples: single ones, a rest of one, a rest of one, all at once


def products(x, y, z, seed):
    """(N, 3, 4), (N, 4, 2), z (N, 3, 2) or None; `seed` is used as a number."""
    result = torch.softmax(x, dim=2) @ y
    return result if z is None else result + z + seed / file.APART


def inputs(third: bool) -> list:
    draw = torch.Generator().manual_seed(3)
    shapes = [(7, 3, 4), (7, 4, 2), (7, 3, 2)][: 2 + third]
    tensors = [torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for shape in shapes]
    return tensors + [None] * (not third)


def in_pieces_of(monkeypatch, size: int) -> None:
    monkeypatch.setattr(file, "PIECE", 10 * size + 9)  # with ten values an example
    monkeypatch.setattr(file, "WHOLE", 0)


@pytest.mark.parametrize("size", SIZES)
def test_results_and_gradients_in_pieces_are_those_of_the_whole(monkeypatch, size):
    in_pieces_of(monkeypatch, size)
    whole, parts = inputs(False), inputs(False)
    expected, found = products(*whole, 0), piecewise(products, tuple(parts), 10, 0)
    close(found, expected)
    weights = torch.arange(expected.numel(), dtype=torch.float64).view_as(expected)
    (expected * weights).sum().backward(), (found * weights).sum().backward()
    for x, y in zip(parts[:2], whole[:2], strict=True):
        close(x.grad, y.grad)


def test_what_needs_no_gradient_gets_none(monkeypatch):
    in_pieces_of(monkeypatch, 2)
    x, y, z = inputs(True)
    piecewise(products, (x.detach(), y, z.detach()), 10, 0).sum().backward()
    assert (x.grad, z.grad) == (None, None) and y.grad.abs().sum() > 0


def test_each_piece_has_a_seed_of_its_own(monkeypatch):
    in_pieces_of(monkeypatch, 3)
    x, y, z = inputs(True)
    found, expected = piecewise(products, (x, y, z), 10, 5 * file.APART), products(x, y, z, 5 * file.APART)
    close(found[:3], expected[:3]), close(found[3:6], expected[3:6] + 1), close(found[6:], expected[6:] + 2)


@pytest.mark.parametrize("grad", [True, False])
def test_no_piece_is_larger_than_it_may_be_unless_one_example_is(monkeypatch, grad):
    monkeypatch.setattr(file, "WHOLE", 0)
    seen = []

    def see(x, seed):
        seen.append(len(x))
        return x * 2

    x = torch.ones(7, 5, requires_grad=True)
    with torch.set_grad_enabled(grad):
        for values, expected in ((file.PIECE // 3, [3, 3, 1]), (file.PIECE * 2, [1] * 7), (1, [7])):
            seen.clear()
            close(piecewise(see, (x,), values, 0), 2 * x)
            assert seen == expected


@pytest.mark.parametrize(("room", "grad", "expected"), [(0, True, [1] * 7), (1, True, [7]), (1, False, [1] * 7)])
def test_a_batch_is_whole_up_to_so_many_bytes_where_backward_would_compute_it_again(monkeypatch, room, grad, expected):
    """Of float64 here, eight bytes a value."""
    monkeypatch.setattr(file, "PIECE", 100)
    monkeypatch.setattr(file, "WHOLE", 7 * 100 * 8 - 1 + room)
    seen = []
    with torch.set_grad_enabled(grad):
        piecewise(lambda x, seed: seen.append(len(x)) or x, (torch.ones(7, 5, dtype=torch.float64),), 100, 0)
    assert seen == expected


def attention(monkeypatch, size: int, p: float, x, mask):
    monkeypatch.setattr(file, "PIECE", 2 * 13 * 13 * size)
    monkeypatch.setattr(file, "WHOLE", 0)
    module = randomise(ours.Attention(our_config(attention_dropout=p))).double().train()
    torch.manual_seed(5)
    return module, module(x, mask, x)


@pytest.mark.parametrize(("size", "expected"), [(1, [1, 1, 1, 1]), (3, [3, 1]), (4, [4])])
def test_attention_takes_as_many_sequences_at_a_time_as_their_weights_fit_a_piece(monkeypatch, size, expected):
    seen, attend = [], ours.Attention.attend
    monkeypatch.setattr(ours.Attention, "attend", lambda module, *args: seen.append(len(args[0])) or attend(module, *args))
    attention(monkeypatch, size, 0.0, torch.ones(4, 13, 12, dtype=torch.float64), None)
    assert seen == expected


def test_in_pieces_gradients_with_dropout_are_the_derivatives_of_that_forward(monkeypatch):
    """By central differences, each from the same seed."""
    x = torch.randn(4, 13, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mask = (ragged_batch()[1][:, None, None] == 0).double() * ours.FAR_BELOW
    module, y = attention(monkeypatch, 1, 0.4, x, mask)
    y.sum().backward()
    found = {name: p.grad for name, p in module.named_parameters()}
    step = 1e-6
    for name, p in module.named_parameters():
        direction = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(4))
        sums = []
        for sign in (1, -1):
            with torch.no_grad():
                p += sign * step * direction
                torch.manual_seed(5)
                sums.append(module(x, mask, x).sum())
                p -= sign * step * direction
        close((found[name] * direction).sum(), (sums[0] - sums[1]) / (2 * step), 1e-7)


def test_in_pieces_the_same_attention_drops_other_weights_for_each_sequence(monkeypatch):
    x = torch.randn(1, 13, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).expand(4, -1, -1)
    _, y = attention(monkeypatch, 1, 0.4, x, None)
    assert all((y[i] - y[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))


def test_backward_computes_in_the_format_that_autocast_gave_forward(monkeypatch):
    in_pieces_of(monkeypatch, 2)
    formats = []

    def see(x, seed):
        y = x @ x.transpose(1, 2)
        formats.append(y.dtype)
        return y

    with torch.autocast("cpu", torch.float16):
        y = piecewise(see, (torch.ones(4, 3, 2, requires_grad=True),), 10, 0)
    y.sum().backward()
    assert formats == [torch.float16] * 4


def test_seeds_are_drawn_so_far_apart_that_no_two_dropouts_share_their_dice():
    torch.manual_seed(0)
    seeds = sorted(file.draw_seed() for _ in range(200))
    assert min(later - seed for seed, later in itertools.pairwise(seeds)) > file.APART


def test_the_dice_of_neighbouring_sequences_do_not_overlap(monkeypatch):
    drawn, random_words = [], file.random_words
    rows = 16
    monkeypatch.setattr(file, "ROW", file.ROW[:rows])  # of which a sequence takes several, as long ones do of the whole
    monkeypatch.setattr(
        file, "random_words", lambda n, seed: drawn.append((seed, seed + n // rows + 1)) or random_words(n, seed)
    )
    attention(monkeypatch, 1, 0.4, torch.ones(4, 13, 12, dtype=torch.float64), None)
    drawn.sort()
    assert len(drawn) == 4 and all(end <= start for (_, end), (start, _) in itertools.pairwise(drawn))


@pytest.mark.parametrize("amx", [True, False])
def test_attention_is_left_to_torch_on_a_gpu_and_where_amx_judges_in_bf16(monkeypatch, amx):
    monkeypatch.setattr(file, "AMX", amx)
    cpu, gpu = torch.ones(1, dtype=torch.bfloat16), torch.ones(1, device="meta")
    assert file.has_fused_attention(gpu, 0.1) and not file.has_fused_attention(cpu, 0.0)
    with torch.inference_mode():
        assert file.has_fused_attention(cpu, 0.0) == amx
        assert not file.has_fused_attention(cpu, 0.1) and not file.has_fused_attention(cpu.float(), 0.0)


@pytest.mark.parametrize("real", [[5, 5, 5], [5, 3, 4], [0, 5, 5]])
def test_a_mask_is_added_and_the_scores_gradient_is_that_of_the_sum(real):
    mask = (torch.arange(5) >= torch.tensor(real)[:, None])[:, None, None] * ours.FAR_BELOW
    x, weight = torch.randn(2, 3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    results = []
    for add in (file.add_mask, torch.Tensor.add_):
        x = x.detach().requires_grad_()
        scores = x * 2
        before = scores.grad_fn
        add(scores, mask)
        assert (scores.grad_fn is before) == (add is file.add_mask)
        (torch.softmax(scores, dim=3) * weight).sum().backward()
        results.append((scores.detach(), x.grad))
    assert all(map(torch.equal, *results))


needs_amx = pytest.mark.skipif(not file.AMX, reason="this machine has no AMX, so that neither fused kernel is taken")


@pytest.mark.parametrize("amx", [False, pytest.param(True, marks=needs_amx)])
@pytest.mark.parametrize("some_rows", [True, False])
def test_judging_in_bf16_attention_differs_from_the_exact_one_by_rounding_alone(monkeypatch, amx, some_rows):
    monkeypatch.setattr(file, "AMX", amx)
    module = randomise(ours.Attention(our_config(attention_dropout=0.4))).bfloat16().eval()
    x = torch.randn(4, 13, 12, generator=torch.Generator().manual_seed(2)).bfloat16()
    mask = (ragged_batch()[1][:, None, None] == 0).bfloat16() * ours.FAR_BELOW
    rows = x[:, :2] if some_rows else x
    with torch.inference_mode():
        found = module(x, mask, rows)
    exact, rows = copy.deepcopy(module).double(), rows.double() if some_rows else None
    x = x.double()
    close(found.double(), exact(x, mask.double(), x if rows is None else rows), 0.05)


class Kernels(TorchDispatchMode):
    """The names of the kernels that are called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


@needs_amx
@pytest.mark.parametrize("shape", [(7, 12), (3, 5, 12), (0, 12), (0, 5, 12), (12, 7)])
def test_judging_in_bf16_and_only_then_a_layer_adds_its_bias_within_the_product(shape):
    layer = randomise(file.Linear(12, 8)).bfloat16()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    x = x.t() if x.shape[-1] != 12 else x  # not contiguous
    exact = torch.nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    with Kernels() as learning:
        layer(x)
    with torch.inference_mode(), Kernels() as judging:
        found = layer(x)
    assert "_linear_pointwise" in judging.seen and "_linear_pointwise" not in learning.seen
    assert found.dtype == torch.bfloat16 and found.shape == exact.shape
    close(found.double(), exact, 2**-7)


def test_under_autocast_a_layer_of_fp32_takes_what_a_layer_before_it_made_in_bf16():
    layers = torch.nn.Sequential(file.Linear(12, 8), file.Linear(8, 3))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = layers(torch.ones(2, 12))
    close(found.double(), layers.double()(torch.ones(2, 12).double()), 0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_moment_of_zero_has_a_root_that_no_epsilon_shows(dtype):
    x = torch.tensor([0.0, 1e-30, 2.0], dtype=dtype)
    found = file.above_zero(x)
    assert found[0] > 0 and torch.equal(found[1:], x[1:]) and file.above_zero(torch.tensor(torch.nan)).isnan()
    epsilon = torch.tensor(1e-8 * 0.001**0.5, dtype=dtype)  # in the first step, when its correction makes it smallest
    assert found[0].sqrt() + epsilon == epsilon


def test_slices_cover_each_value_once_and_are_views():
    x, y = torch.zeros(7, 100), torch.arange(700).view(7, 100)
    for a, b in file.slices(x, y, size=256):
        assert len(a) == len(b) <= 256
        a += b + 1
    assert torch.equal(x, y + 1.0)


def test_on_a_gpu_a_slice_is_the_whole_tensor():
    (only,) = file.slices(torch.empty(1_000_000, device="meta"))
    assert only[0].numel() == 1_000_000


@pytest.mark.parametrize("accepts", [True, False])
def test_memory_is_kept_only_where_large_tensors_may_come_from_it(monkeypatch, accepts):
    asked = []

    class Library:
        def mallopt(self, parameter, value):
            asked.append((parameter, value))
            return accepts or parameter != -3

    monkeypatch.setattr(file.sys, "platform", "linux")
    monkeypatch.setattr(file.ctypes, "CDLL", lambda _: Library())
    file.tune_process()
    kept = [(-3, 1 << 28), (-1, 1 << 30), (-2, 1 << 26)]  # mapped afresh from 256 MB on; at most 1 GB is left unused
    assert asked == (kept if accepts else kept[:1])


@pytest.mark.parametrize(("before", "after"), [(None, "64"), ("7", "7")])
def test_few_kernels_are_kept_unless_the_user_says_otherwise(monkeypatch, before, after):
    monkeypatch.setattr(file.sys, "platform", "darwin")
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, before) if before else monkeypatch.delenv(name, raising=False)
    file.tune_process()
    assert file.os.environ[name] == after


def test_where_there_is_no_glibc_memory_is_left_alone(monkeypatch):
    monkeypatch.setattr(file.sys, "platform", "darwin")
    monkeypatch.setattr(file.ctypes, "CDLL", None)
    file.tune_process()


def test_attention_is_not_left_to_cudnn_which_plans_for_each_new_shape(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.backends.cuda, "enable_cudnn_sdp", asked.append)
    file.tune_process()
    assert asked == [False]


def test_the_first_square_root_of_a_process_is_taken_by_one_thread_alone():
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.overloadpacket is torch.ops.aten.sqrt:
                seen.append((args[0].dtype, args[0].numel()))
            return function(*args, **kwargs or {})

    with Watch():
        runpy.run_path(file.__file__)
    assert seen == [(torch.float32, 1), (torch.float64, 1)]


def test_the_scripts_tune_their_process(tmp_path, monkeypatch):
    def tuned():
        raise InterruptedError

    for module in (run, evaluate):
        monkeypatch.setattr(module, "tune_process", tuned)
    with pytest.raises(InterruptedError):
        train_cls.main([*TINY, "--output_dir", str(tmp_path / "run")])
    model = DistilBertForSequenceClassification(our_config(id2label={0: "Negative", 1: "Positive"}))
    Tokenizer.from_vocabulary([*SPECIAL_TOKENS, "a"]).save_pretrained(tmp_path / "judge", 512)
    model.save_pretrained(tmp_path / "judge")
    with pytest.raises(InterruptedError):
        evaluate.main(["--model", str(tmp_path / "judge"), "--text", "a"])


def test_a_norm_that_judges_in_bf16_is_rounded_once():
    norm, x = file.LayerNorm(24, eps=1e-12).bfloat16(), torch.randn(40, 24).bfloat16()
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    exact = torch.nn.functional.layer_norm(x.double(), (24,), norm.weight.double(), norm.bias.double(), 1e-12)
    twice = norm(x)
    with torch.no_grad():
        assert torch.equal(norm(x), exact.bfloat16())
    assert not torch.equal(twice, exact.bfloat16())


def test_in_bf16_a_norms_gradients_count_every_token():
    x, upstream = torch.randn(4_096, 24), torch.randn(4_096, 24) + 0.2  # torch's kernel loses a fifth of the bias's here
    exact, norm = torch.nn.LayerNorm(24, eps=1e-12).double(), file.LayerNorm(24, eps=1e-12).bfloat16()
    with torch.no_grad():
        for p in exact.parameters():
            p.add_(torch.randn_like(p))
        norm.load_state_dict(exact.state_dict())
    x = x.bfloat16().requires_grad_()
    whole = x.detach().double().requires_grad_()
    norm(x).backward(upstream.bfloat16())
    exact(whole).backward(upstream.double())
    close(norm(x).double(), exact(whole), 0.05)
    for found, expected in zip((x, *norm.parameters()), (whole, *exact.parameters()), strict=True):
        assert (found.grad - expected.grad).norm() < 0.01 * expected.grad.norm()
