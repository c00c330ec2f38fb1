"""The live check: sampled requests run again through the FP32 reference, and a sequential test of the disagreements."""

from resnetrt.runtime.shadow.baseline import Baseline, NoiseLimit, Reference, relative_noise
from resnetrt.runtime.shadow.check import ACTIONS, Alarm, Comparison, ShadowCheck, ShadowOptions, ShadowState
from resnetrt.runtime.shadow.judge import Judge, Sample, baseline_chance
from resnetrt.runtime.shadow.metrics import METRIC_NAMES, ShadowCollector
from resnetrt.runtime.shadow.start import onnx_reference, start_shadow

__all__ = [
    "ACTIONS",
    "METRIC_NAMES",
    "Alarm",
    "Baseline",
    "Comparison",
    "Judge",
    "NoiseLimit",
    "Reference",
    "Sample",
    "ShadowCheck",
    "ShadowCollector",
    "ShadowOptions",
    "ShadowState",
    "baseline_chance",
    "onnx_reference",
    "relative_noise",
    "start_shadow",
]
