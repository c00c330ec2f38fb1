"""Inference in this process for cameras and servers: a queue, micro-batches of several streams, bounded latency."""

from resnetrt.runtime.stream.batcher import Batcher
from resnetrt.runtime.stream.faults import Closed, DeadlineExceeded, Dropped, EngineFailed, Overloaded
from resnetrt.runtime.stream.histogram import LatencyHistogram
from resnetrt.runtime.stream.options import BatchOptions
from resnetrt.runtime.stream.stream import Stream

__all__ = [
    "BatchOptions",
    "Batcher",
    "Closed",
    "DeadlineExceeded",
    "Dropped",
    "EngineFailed",
    "LatencyHistogram",
    "Overloaded",
    "Stream",
]
