"""The live check: sampled requests run again through the FP32 reference, and a sequential test of the disagreements."""

from resnetrt.runtime.shadow.baseline import Baseline, Reference
from resnetrt.runtime.shadow.check import ACTIONS, Alarm, ShadowCheck, ShadowOptions, ShadowState
from resnetrt.runtime.shadow.metrics import METRIC_NAMES, ShadowCollector
from resnetrt.runtime.shadow.start import onnx_reference, start_shadow

__all__ = [
    "ACTIONS",
    "METRIC_NAMES",
    "Alarm",
    "Baseline",
    "Reference",
    "ShadowCheck",
    "ShadowCollector",
    "ShadowOptions",
    "ShadowState",
    "onnx_reference",
    "start_shadow",
]
