"""ONNX Runtime as if it had its GPU providers, computed by the real one on the CPU, with the rules of CUDA graphs."""

import threading
from collections.abc import Callable
from typing import Any

import onnxruntime as ort
import pytest

from resnetrt.runtime.backends import onnxruntime as backend
from resnetrt.runtime.backends.onnxruntime import PROVIDERS

Asked = list[dict[str, dict[str, str]]]


class RuleBroken(BaseException):
    """What a GPU does silently; no handler of errors may live with it."""


class BindingDouble:
    """An `IOBinding` that knows which memory it has."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.real = session.io_binding()
        self.values: dict[str, ort.OrtValue] = {}

    def bind_ortvalue_input(self, name: str, value: ort.OrtValue) -> None:
        self.real.bind_ortvalue_input(name, value)
        self.values[name] = value

    def bind_ortvalue_output(self, name: str, value: ort.OrtValue) -> None:
        self.real.bind_ortvalue_output(name, value)
        self.values[name] = value

    @property
    def addresses(self) -> dict[str, int]:
        return {name: value.data_ptr() for name, value in self.values.items()}


class GpuSessionDouble:
    """An `InferenceSession` on GPU providers. `graphs` has, by number, the memory that each was captured for.

    Each thread has graphs of its own, in `by_thread`; `graphs` are those of the thread that made the session. The CUDA
    provider keeps them in its `PerThreadContext` (cuda_execution_provider.cc), and captures in each thread anew.
    `fails` is raised by every run, `capture_fails` by the one that captures.
    """

    def __init__(self, real: ort.InferenceSession, providers: dict[str, dict[str, str]]) -> None:
        self.real, self.providers = real, providers
        self.enabled = any(options.get("enable_cuda_graph") == "1" for options in providers.values())
        self.graphs: dict[int, dict[str, int]] = {}
        self.by_thread = {threading.get_ident(): self.graphs}
        self.runs = 0
        self.fails: Exception | None = None
        self.capture_fails: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get_providers(self) -> list[str]:
        return list(self.providers)

    def io_binding(self) -> BindingDouble:
        return BindingDouble(self.real)

    def run(self, names: Any, feed: Any) -> Any:
        if self.enabled:
            raise RuleBroken("with CUDA graphs a run needs fixed memory")
        if self.fails is not None:
            raise self.fails
        return self.real.run(names, feed)

    def run_with_iobinding(self, binding: BindingDouble, options: ort.RunOptions) -> None:
        self.runs += 1
        if self.fails is not None:
            raise self.fails
        number = int(options.get_run_config_entry("gpu_graph_id")) if self.enabled else -1
        if number >= 0:
            graphs = self.by_thread.setdefault(threading.get_ident(), {})
            if number not in graphs and self.capture_fails is not None:
                raise self.capture_fails
            captured = graphs.setdefault(number, binding.addresses)
            if captured != binding.addresses:
                raise RuleBroken(f"graph {number} reads and writes the memory that it was captured for")
        self.real.run_with_iobinding(binding.real)


def install(monkeypatch: pytest.MonkeyPatch, refuse_graphs: bool = False) -> Asked:
    """What each session on a GPU is asked for, from now on.

    With `refuse_graphs` none has CUDA graphs, as for a model with nodes on the CPU.
    """
    real: Callable[..., Any] = ort.InferenceSession
    seen: Asked = []

    def session(path: Any, options: Any, providers: list[Any], **more: Any) -> Any:
        made = real(path, options, providers=["CPUExecutionProvider"], **more)
        if not isinstance(providers[0], tuple) or providers[0][0] == "CPUExecutionProvider":
            return made
        seen.append(dict(providers))
        double = GpuSessionDouble(made, dict(providers))
        if double.enabled and refuse_graphs:
            raise RuntimeError(
                "This session cannot use the graph capture feature as requested by the user as all compute graph nodes "
                "have not been partitioned to the CUDAExecutionProvider"
            )
        return double

    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(PROVIDERS["trt-ep"]))
    monkeypatch.setattr(backend, "MEMORY", "cpu")
    return seen
