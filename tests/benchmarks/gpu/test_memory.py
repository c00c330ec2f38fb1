"""The checks of the CUDA protocol, in host memory, and each seen failing."""

import pytest
from host_cuda import HostCuda

from resnetrt.benchmarks.gpu import memory as gpu_memory
from resnetrt.errors import CheckFailed


def test_copies():
    assert gpu_memory.check_copies(HostCuda(), 10_000)["size_bytes"] == 10_000


def test_graphs():
    assert gpu_memory.check_graph(HostCuda()) == {"replays": 20}


def test_torch():
    pytest.importorskip("torch")
    assert gpu_memory.check_torch(HostCuda())["torch"]


def test_wrong_bytes_are_found(monkeypatch: pytest.MonkeyPatch):
    cuda = HostCuda()
    monkeypatch.setattr(cuda, "copy_out", lambda *_: None)
    with pytest.raises(CheckFailed, match=r"copied to the device and back: .* of 1000 values differ"):
        gpu_memory.check_copies(cuda, 1000)


def test_a_graph_that_is_not_replayed_is_found(monkeypatch: pytest.MonkeyPatch):
    cuda = HostCuda()
    monkeypatch.setattr(cuda, "launch", lambda *_: None)
    with pytest.raises(CheckFailed, match="replayed 1 times"):
        gpu_memory.check_graph(cuda)
