"""The one reader of environment variables; all are optional and named `RESNETRT_...`."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from resnetrt.errors import UsageError

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}


@dataclass(frozen=True)
class Settings:
    """`threads`: CPU threads per engine (`RESNETRT_THREADS`, default all cores of this process).

    `debug`: show tracebacks (`RESNETRT_DEBUG`). `progress`: show progress of long work on stderr (`RESNETRT_PROGRESS`).
    `cuda`: the package for GPU memory, cuda-bindings or pycuda (`RESNETRT_CUDA`, default the first that is installed).
    `device`: the GPU that engines run on and are built for, by number, UUID or MIG instance (`RESNETRT_DEVICE`, default
    the first).
    """

    threads: int
    debug: bool = False
    progress: bool = True
    cuda: str | None = None
    device: str | None = None


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from `environment` (default `os.environ`). Raises `UsageError` naming the variable that is wrong."""
    env = os.environ if environment is None else environment
    return Settings(
        threads=_positive(env, "RESNETRT_THREADS", len(os.sched_getaffinity(0))),
        debug=_boolean(env, "RESNETRT_DEBUG", False),
        progress=_boolean(env, "RESNETRT_PROGRESS", True),
        cuda=env.get("RESNETRT_CUDA", "").strip() or None,
        device=env.get("RESNETRT_DEVICE", "").strip() or None,
    )


@contextmanager
def changed_environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """In the block, variables have these values, here and in processes that it starts; None is unset."""
    before = {name: os.environ.get(name) for name in changes}
    _put(changes)
    try:
        yield
    finally:
        _put(before)


def _put(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _positive(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name}: expected a positive integer, found {text!r}")
    return int(text)


def _boolean(env: Mapping[str, str], name: str, default: bool) -> bool:
    if name not in env:
        return default
    text = env[name].strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise UsageError(f"{name}: expected one of 1, 0, true, false, yes, no, on, off, found {text!r}")
