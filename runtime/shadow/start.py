"""A shadow check of a bundle's engine: reference and baseline from the bundle."""

from collections.abc import Callable

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.golden import Golden
from resnetrt.preprocess import FloatArray
from resnetrt.runtime.backends.onnxruntime import create_native
from resnetrt.runtime.session import Session
from resnetrt.runtime.shadow.baseline import Baseline, Reference, measure_baseline
from resnetrt.runtime.shadow.check import Alarm, ShadowCheck, ShadowOptions
from resnetrt.runtime.shadow.judge import baseline_chance


def start_shadow(
    bundle: Bundle,
    session: Session,
    options: ShadowOptions,
    *,
    reference: Reference | None = None,
    baseline: Baseline | None = None,
    on_alarm: Callable[[Alarm], None] | None = None,
) -> ShadowCheck:
    """Start checking `session`, which must not be in use meanwhile if the baseline is to be measured.

    `reference` is eager where the caller has it, by default the bundle's FP32 ONNX file on one core. `baseline` is
    measured on the golden images unless given. Raises `BundleError`, or `CheckFailed` for an engine that is worse than
    when it was compiled.
    """
    run = reference or onnx_reference(bundle)
    manifest = bundle.manifest
    if baseline is None:
        golden = Golden.of(bundle)
        baseline = measure_baseline(session, golden, run, manifest.output, baseline_chance(options.alpha))
    return ShadowCheck(
        session.sidecar["id"],
        run,
        baseline,
        options,
        output=manifest.output,
        preprocessing=manifest.preprocessing,
        about={"bundle": str(bundle.path), "variant_sha256": session.sidecar["variant_sha256"]},
        on_alarm=on_alarm,
    )


def onnx_reference(bundle: Bundle) -> Reference:
    """The bundle's FP32 ONNX file in ONNX Runtime on one core of the CPU."""
    native = create_native(bundle.variant_file("fp32"), "cpu", 1)
    name, output = native.get_inputs()[0].name, bundle.manifest.output

    def run(images: FloatArray) -> FloatArray:
        logits: FloatArray = np.asarray(native.run([output], {name: images})[0])
        return logits

    return run
