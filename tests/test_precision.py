"""Which device and number format a run gets, and what the loss scaler does with an overflow."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from distilbert import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
)
from distilbert.errors import UserError
from distilbert.optim import AdamW
from distilbert.precision import Precision, fast_bf16

ROOT = Path(__file__).resolve().parent.parent


def machine(monkeypatch, cuda=False, mps=False, amx=False, avx512_bf16=False, capability=(8, 0), kernels=("sm_75", "sm_120")):
    """Lets torch say that this machine has just these things."""
    for owner, name, value in (
        (torch.cuda, "is_available", cuda),
        (torch.cuda, "get_device_capability", capability),
        (torch.cuda, "get_arch_list", list(kernels)),
        (torch.backends.mps, "is_available", mps),
        (torch.cpu, "_is_amx_tile_supported", amx),
        (torch.cpu, "_is_avx512_bf16_supported", avx512_bf16),
    ):
        monkeypatch.setattr(owner, name, lambda value=value: value)


def fp16_run():
    """An fp16 step on the CPU as the scripts make it, on five rows of `size`: (model, optimizer, scaler, step)."""
    precision = Precision.choose("cpu", "fp16")
    model = nn.Linear(3, 2)
    with torch.no_grad():  # numbers that fp16 holds exactly; on a row of ones they give 0.5 and -0.25
        model.weight.copy_(torch.tensor([[0.125, 0.25, 0.125], [-0.125, -0.25, 0.125]]))
        model.bias.zero_()
    optimizer, scaler = AdamW(model.parameters(), lr=0.01), precision.scaler()

    def step(size):
        with precision.autocast():
            out = model(torch.full((5, 3), size))
        scaler.scale(out.float().square().mean()).backward()
        scaler.unscale_(optimizer)
        gradient = model.weight.grad.clone()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return out, gradient

    return model, optimizer, scaler, step


def snapshot(model, optimizer):
    """All numbers of parameters and optimizer, in one list."""
    state = [value for p in model.parameters() for value in optimizer.state[p].values()]
    return [torch.as_tensor(value).tolist() for value in [*model.parameters(), *state]]


# ---- choosing


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({}, ("cpu", "fp32")),
        ({"amx": True}, ("cpu", "bf16")),
        ({"avx512_bf16": True}, ("cpu", "bf16")),
        ({"mps": True}, ("cpu", "fp32")),
        ({"cuda": True}, ("cuda", "bf16")),
        ({"cuda": True, "mps": True, "capability": (9, 0)}, ("cuda", "bf16")),
        ({"cuda": True, "amx": True, "capability": (7, 5)}, ("cuda", "fp16")),
        ({"cuda": True, "amx": True, "capability": (7, 0)}, ("cpu", "bf16")),  # too old for this build of torch
        ({"cuda": True, "capability": (10, 3), "kernels": ("sm_90a", "sm_120")}, ("cuda", "bf16")),
        ({"cuda": True, "capability": (9, 0), "kernels": ("gfx1100",)}, ("cuda", "bf16")),  # AMD's, counted in another way
    ],
)
def test_auto_takes_a_cuda_gpu_or_the_cpu_and_the_format_that_is_in_its_hardware(monkeypatch, has, expected):
    machine(monkeypatch, **has)
    chosen = Precision.choose("auto", "auto")
    assert (chosen.device, chosen.kind) == expected
    assert Precision.choose() == chosen


def test_a_cpu_gets_its_own_format_on_a_machine_with_a_gpu_too(monkeypatch):
    machine(monkeypatch, cuda=True, amx=False)
    assert Precision.choose("cpu", "auto") == Precision("cpu", "fp32")
    assert fast_bf16("cuda") and not fast_bf16("cpu") and not fast_bf16("mps")


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16"])
def test_an_explicit_format_is_taken_at_its_word(monkeypatch, kind, amx):
    machine(monkeypatch, amx=amx)
    assert Precision.choose("cpu", kind) == Precision("cpu", kind)


@pytest.mark.parametrize("device", ["cuda", "mps", "tpu"])
def test_a_device_that_is_not_there_is_a_user_error_that_names_the_flag(monkeypatch, device):
    machine(monkeypatch)
    with pytest.raises(UserError, match=f"^--device {device}: .*--device auto"):
        Precision.choose(device, "auto")


def test_torch_can_be_asked_what_this_processor_has():
    assert fast_bf16("cpu") in (True, False)


# ---- formats


def test_only_bf16_has_working_weights_in_another_format():
    formats = {kind: Precision("cpu", kind).dtype for kind in ("fp32", "bf16", "fp16")}
    assert formats == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float32}


def test_only_fp16_casts_in_the_forward_pass_and_scales_its_loss():
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    for kind, dtype in (("fp32", torch.float32), ("bf16", torch.float32), ("fp16", torch.float16)):
        precision = Precision("cpu", kind)
        with precision.autocast():
            assert layer(x).dtype == dtype
        scaler, loss = precision.scaler(), torch.tensor(3.0)
        assert scaler.is_enabled() == (kind == "fp16")
        assert scaler.scale(loss).item() == 3.0 * scaler.get_scale()
        assert (scaler.get_scale() == 1.0) == (kind != "fp16")


def test_a_batch_arrives_with_all_its_tensors_unchanged():
    batch = {"input_ids": torch.arange(6).view(2, 3), "labels": torch.tensor([1, 0])}
    moved = Precision("cpu", "fp32").to_device(batch)
    assert list(moved) == list(batch)
    assert all(torch.equal(moved[name], tensor) for name, tensor in batch.items())


def test_peak_memory_is_in_bytes():
    held = torch.ones(20_000_000)
    assert held.nbytes < Precision("cpu", "fp32").peak_memory() < 2**40


STATUS = Path("/proc/self/status")


@pytest.mark.skipif(not STATUS.exists() or "VmHWM" not in STATUS.read_text(), reason="this system does not say it")
def test_peak_memory_is_the_processs_own_however_large_the_one_that_started_it_is():
    """Linux hands the peak of the old program on to the new one: what getrusage says begins there."""
    held = torch.ones(200_000_000)
    command = [
        sys.executable,
        "-c",
        "from distilbert.precision import Precision; print(Precision('cpu', 'fp32').peak_memory())",
    ]
    between = ["sh", "-c", '"$@"; true', "sh", *command]  # a small process between the two
    said = [
        subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout for words in (command, between)
    ]
    assert 2**20 < int(said[0]) < 1.2 * int(said[1]) and held.nbytes < Precision("cpu", "fp32").peak_memory()


def test_each_kind_of_gpu_has_an_allocator_of_its_own_to_ask(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 8)
    assert [Precision(device, "fp32").peak_memory() for device in ("cuda", "mps")] == [7, 8]


# ---- torch.compile


def test_a_cpus_encoder_is_not_compiled(monkeypatch):
    monkeypatch.setattr("distilbert.precision.has_compiler", lambda: True)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    encoder = DistilBertModel(DistilBertConfig(n_layers=1, dim=8, hidden_dim=8, n_heads=2, vocab_size=9))
    Precision("cpu", "fp32").compile(encoder)
    assert encoder._compiled_call_impl is None


@pytest.mark.parametrize("model_class", [DistilBertForSequenceClassification, DistilBertForMaskedLM])
def test_a_gpus_encoder_is_one_graph_for_batches_of_all_shapes(monkeypatch, model_class):
    """On the device "meta", which takes the GPU's way through the code and computes nothing; no kernel is made for it."""
    monkeypatch.setattr("distilbert.precision.has_compiler", lambda: True)
    counter, compile_with = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_with(f, backend=counter, fullgraph=True, **how))
    sizes = {"vocab_size": 99, "max_position_embeddings": 64, "dim": 64, "hidden_dim": 128, "n_heads": 4}
    model = model_class(DistilBertConfig(n_layers=2, **sizes)).to("meta").train()
    Precision("cuda", "fp32").compile(model.encoder)
    before, counts = counter.frame_count, []  # a trial's
    for B, T in ((4, 32), (6, 48), (3, 20), (5, 64)):
        ids = torch.zeros(B, T, dtype=torch.long, device="meta")
        if model_class is DistilBertForMaskedLM:
            rest = {"labels": ids, "rows": ids[:, : T // 4], "chosen": ids[:, 0]}
        else:
            rest = {"labels": ids[:, 0]}
        model.loss(ids, torch.ones_like(ids), **rest).backward()
        counts.append(counter.frame_count)
    assert counts[0] > before and counts == counts[:1] * 4  # the first batch's serves all


# ---- overflow


def test_a_finite_fp16_step_has_the_true_gradient_and_moves_everything():
    model, _, scaler, step = fp16_run()
    before = [p.detach().clone() for p in model.parameters()]
    out, gradient = step(1.0)
    assert out.dtype == torch.float16
    assert gradient.tolist() == [[0.5] * 3, [-0.25] * 3]  # of a mean over ten squares, five rows alike: 5·2·out/10
    assert all((p != was).all() for p, was in zip(model.parameters(), before, strict=True))
    assert scaler.get_scale() == 65_536.0


def test_an_overflow_skips_the_step_leaves_the_optimizer_as_it_was_and_halves_the_scale():
    model, optimizer, scaler, step = fp16_run()
    step(1.0)
    before, scale = snapshot(model, optimizer), scaler.get_scale()
    out, gradient = step(16.0)  # times 65,536, the gradient is beyond 65,504, the largest number of fp16
    assert out.isfinite().all() and not gradient.isfinite().all()
    assert snapshot(model, optimizer) == before
    assert scaler.get_scale() == scale / 2  # by which the training loop knows that the schedule has to wait
    step(1.0)
    assert snapshot(model, optimizer) != before
    assert [optimizer.state[p]["step"] for p in model.parameters()] == [2, 2]


def test_an_overflow_in_the_very_first_step_leaves_the_optimizer_without_state():
    model, optimizer, _, step = fp16_run()
    before = snapshot(model, optimizer)
    step(16.0)
    assert snapshot(model, optimizer) == before
    assert not any(optimizer.state[p] for p in model.parameters())
