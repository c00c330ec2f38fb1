"""Calls of TensorRT, which report failure by what they return, and the reason only to the logger."""

import logging
from collections.abc import Callable
from operator import not_
from typing import Any

from resnetrt.errors import EnvironmentFault
from resnetrt.runtime.backends.tensorrt_logger import Recorder, first_error, warnings_of
from resnetrt.runtime.cuda.protocol import Cuda

_log = logging.getLogger("resnetrt.runtime")


class Calls:
    """Calls for one engine; `what` begins error messages, `logger` is the one of its library."""

    def __init__(self, cuda: Cuda, what: str, logger: Recorder) -> None:
        self.what = what
        self._cuda, self._logger = cuda, logger
        self._told: set[str] = set()

    def __call__(self, target: Any, name: str, *arguments: Any, failed: Callable[[Any], bool] = not_) -> Any:
        """What TensorRT's method returns; raises `EnvironmentFault` with what it logged meanwhile if it `failed`."""
        with self._logger.recorded() as lines:
            result = getattr(target, name)(*arguments)
        if lines:
            self._pass_on(warnings_of(lines))
        if failed(result):
            self._cuda.check()  # an error that lost the device tells more than what TensorRT makes of it
            reason = first_error(lines) or "it does not say why"
            raise EnvironmentFault(f"{self.what}: TensorRT's {name} failed: {reason}")
        return result

    def tell(self, target: Any, name: str, *arguments: Any) -> None:
        """Call a method that returns nothing, and only logs what is wrong."""
        with self._logger.recorded() as lines:
            getattr(target, name)(*arguments)
        if reason := first_error(lines):
            raise EnvironmentFault(f"{self.what}: TensorRT's {name} failed: {reason}")

    def _pass_on(self, warnings: list[str]) -> None:
        """Log what TensorRT warns of, each text once for this engine."""
        for text in warnings:
            if text not in self._told:
                self._told.add(text)
                _log.warning("%s: TensorRT warns: %s", self.what, text)
