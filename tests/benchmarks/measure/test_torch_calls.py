"""Torch on a device: precision, copies and calls without transfers; here the device is the CPU."""

import numpy as np
import pytest

from resnetrt.benchmarks.measure import torch_calls
from resnetrt.runtime.cuda import Device, device

torch = pytest.importorskip("torch")
IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten()).eval()


def test_fp32_is_eager_itself(module):
    with torch.inference_mode():
        expected = module(torch.from_numpy(IMAGES)).numpy()
    logits = torch_calls.TorchOnDevice(module, "cpu", "fp32")(IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


def test_fp16_is_fp16_and_the_module_stays_as_it_is(module):
    exact = torch_calls.TorchOnDevice(module, "cpu", "fp32")(IMAGES)
    logits = torch_calls.TorchOnDevice(module, "cpu", "fp16")(IMAGES)
    assert logits.dtype == np.float32
    assert 1e-6 < np.abs(logits - exact).max() < 1e-2
    assert next(module.parameters()).dtype == torch.float32


def test_a_call_without_transfers_runs_the_module(module):
    calls = []
    on_device = torch_calls.TorchOnDevice(module, "cpu", "fp16")
    on_device._module.register_forward_hook(lambda _module, given, _out: calls.append(given[0].dtype))
    call = on_device.stay(IMAGES)
    assert calls == []
    call()
    assert calls == [torch.float16]


def test_an_fp32_engine_is_not_compared_with_tf32(module, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch_calls.TorchOnDevice(module, "cpu", "fp32")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_build_for_cpus_sees_no_gpu():
    if torch.version.cuda is not None:
        pytest.skip("a build for CUDA")
    assert torch_calls.torch_gpu() is None


@pytest.mark.parametrize(("wanted", "expected"), [("", "cuda:0"), ("1", "cuda:1"), ("GPU-14", "cuda:2"), ("3", None)])
def test_torch_takes_the_gpu_that_is_chosen(monkeypatch, wanted, expected):
    here = [Device(0, (8, 6), uuid="0a"), Device(1, (8, 6), uuid="0b"), Device(2, (8, 9), uuid="14"), Device(3, (9, 0))]
    monkeypatch.setattr(device, "find_devices", lambda: (here, ""))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv("RESNETRT_DEVICE", wanted)
    assert torch_calls.torch_gpu() == expected


def test_a_call_waits_for_its_own_gpu(module, monkeypatch):
    on_cpu, waited = torch_calls.TorchOnDevice(module, "cpu", "fp32"), []
    call = on_cpu.stay(IMAGES)
    on_cpu._device = "cuda:1"
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *which: waited.append(which))
    call()
    assert waited == [("cuda:1",)]
