"""A shadow check of a bundle's engine: reference, copy and baselines from the bundle."""

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from resnetrt.bundle import Bundle
from resnetrt.golden import Golden
from resnetrt.preprocess import FloatArray
from resnetrt.runtime.backends.onnxruntime import create_native
from resnetrt.runtime.load import load
from resnetrt.runtime.session import Array, Session
from resnetrt.runtime.shadow.baseline import Baseline, Reference, answer_alone, measure_baseline, measure_copy
from resnetrt.runtime.shadow.check import Alarm, Comparison, ShadowCheck, ShadowOptions
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
    """Start checking `session`, which must not be in use meanwhile as the baselines are measured.

    `reference` is eager where the caller has it, by default the bundle's FP32 ONNX file on one core. `baseline`, what
    the engine does beside it, is measured on the golden images unless given. With `options.copy` a second copy of the
    engine is loaded, on one core. Raises `BundleError`, or `CheckFailed` for an engine that is worse than when it was
    compiled.
    """
    manifest, golden, engine = bundle.manifest, Golden.of(bundle), session.record.id
    run = reference or onnx_reference(bundle)
    chance = baseline_chance(options.alpha_each)
    if baseline is None:
        baseline = measure_baseline(session, golden, run, manifest.output, chance)

    def reference_of(image: Array) -> Array:
        frames = image.dtype == np.uint8
        return run(manifest.preprocessing.normalize(image) if frames else image.astype(np.float32, copy=False))

    with ExitStack() as undo:
        comparisons = [Comparison("the reference", reference_of, baseline)]
        if options.copy:
            copy = undo.enter_context(load(bundle, engine, threads=1))
            usual = measure_copy(session, copy, golden, manifest.output, chance)
            comparisons.append(
                Comparison("its own copy", lambda image: answer_alone(copy, image, manifest.output), usual, copy.close)
            )
        about = {"bundle": str(bundle.path), "variant_sha256": session.record.variant_sha256}
        check = ShadowCheck(engine, comparisons, options, output=manifest.output, about=about, on_alarm=on_alarm)
        undo.pop_all()
    return check


def onnx_reference(bundle: Bundle) -> Reference:
    """The bundle's FP32 ONNX file in ONNX Runtime on one core of the CPU."""
    native = create_native(bundle.variant_file("fp32"), "cpu", 1)
    name, output = native.get_inputs()[0].name, bundle.manifest.output

    def run(images: FloatArray) -> FloatArray:
        logits: FloatArray = np.asarray(native.run([output], {name: images})[0])
        return logits

    return run
