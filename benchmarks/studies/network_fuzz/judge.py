"""One network through export, calibration, quantization, every local backend, verify and audit, judged independently.

Nothing here trusts the product's own comparisons: the reference is the eager module in float64, built again, run on
clones of images that the product never saw, in a batch and one by one. An INT8 engine has to be near the outputs of its
own ONNX file, run node by node in ONNX Runtime, and these have to be near the reference.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from resnetrt.benchmarks.studies.network_fuzz.build import build_network, images_of, normalized, preprocessing_of
from resnetrt.benchmarks.studies.network_fuzz.spec import NetworkSpec
from resnetrt.benchmarks.studies.network_fuzz.verdict import NetworkVerdict, Stopped
from resnetrt.bundle import Bundle
from resnetrt.preprocess import UInt8Array
from resnetrt.runtime.session import Session

Array = npt.NDArray[np.float64]
GOLDEN, CALIBRATION, FRESH = (1, 16), (2, 32), (3, 12)  # purpose and number of images
BACKENDS = ("onnxruntime", "openvino")
# Relative errors |out - ref| / |ref| that are accepted.
FLOAT_ERROR = 1e-4  # 80 dB
FLOAT_NOISE = 10.0  # times the distance of eager float32 from float64
# Distance of an FP32 engine from its own file, if the file is right: OpenVINO sums an InstanceNormalization's variance
# less exactly, with an error of 1.4e-4 if the mean is far larger than the deviation.
FLOAT_KERNEL_ERROR = 3e-4
FP16_ERROR = 0.02
INT8_ERROR = 0.5  # 6 dB, for a file that passed 12 dB on other images; see `typical_error`
# Distance of an INT8 engine from its own file: this much, or this share of the file's error. Of 118 small networks, all
# right ones were within 6e-4 and all wrong ones above 0.05; the embedded ResNet-20 is at 3e-3 in both backends.
KERNEL_ERROR, KERNEL_SHARE = 0.01, 0.5
# Or at most this many times the file's distance from eager: ONNX Runtime's integer softmax moved ten layers' roundings.
KERNEL_WORSE = 1.25
BATCH_ERROR = 1e-4  # distance of eager from itself, one by one or in a second run
_MODULE = "resnetrt_fuzzed_network"


def judge(
    spec: NetworkSpec, folder: Path, report: Callable[[str], None] = lambda _: None, focus: str | None = None
) -> NetworkVerdict:
    """Take the network through all stages, in the empty `folder`.

    `report` is called with every stage before it begins, so that a crash can be attributed. With `focus`, only the
    stages that this one needs are run. Raises `Unbuildable` for a spec that is no network.
    """
    trial = _Trial(spec, folder, report, focus)
    with suppress(Stopped):
        trial.run()
    return trial.verdict


def relative_error(reference: Array, output: npt.ArrayLike) -> float:
    """|out - ref| / |ref| over all images, or a quarter of the worst image's error if that is larger.

    One bad image among many must not be lost in the mean. Infinite for a wrong shape and for values that aren't finite.
    """
    out = np.asarray(output, np.float64)
    if out.shape != reference.shape or not np.isfinite(out).all():
        return float("inf")
    errors, scale = np.linalg.norm(out - reference, axis=1), float(np.sqrt(np.square(reference).sum(1).mean()))
    return float(max(np.sqrt(np.square(errors).mean()), errors.max() / 4) / max(scale, 1e-30))


def typical_error(reference: Array, output: npt.ArrayLike) -> float:
    """`relative_error` of the best three quarters of the images: a file is judged by most of the images.

    An image beyond everything that calibration saw is clipped, as it must be; and a mask, or two normalisations in a
    row, can turn a rounding into a different answer.
    """
    out = np.asarray(output, np.float64)
    if out.shape != reference.shape or not np.isfinite(out).all():
        return float("inf")
    kept = np.argsort(np.linalg.norm(out - reference, axis=1))[: -(len(out) // 4) or None]
    return relative_error(reference[kept], out[kept])


class _Trial:
    def __init__(self, spec: NetworkSpec, folder: Path, report: Callable[[str], None], focus: str | None) -> None:
        self.spec, self.folder, self.report, self.focus = spec, folder, report, focus
        self.verdict = NetworkVerdict()
        self.frames = images_of(spec, FRESH[1], FRESH[0])
        self.reference, self.noise, self.is_function = _eager(spec, self.frames)
        self.right: dict[str, bool] = {}

    def run(self) -> None:
        bundle = self._export()
        if not self.is_function:
            self.verdict.add(
                "wrong", "export", "eager gives other logits in a batch than alone, or when asked again; exported"
            )
            return
        if self._wants("cast fp16") and self.spec.seed % 4 == 0:
            with suppress(Stopped):
                self._cast(bundle)
        quantized = True
        try:
            self._calibrate(bundle)
        except Stopped:
            quantized = False
        for input_type in ("float32", "uint8") if self.spec.frames else ("float32",):
            self._variants(bundle, input_type, quantized)
        self._judge_the_judges(bundle)

    @contextmanager
    def _step(self, stage: str, refused: str = "refused") -> Iterator[None]:
        self.report(stage)
        with self.verdict.step(stage, refused):
            yield

    def _wants(self, stage: str) -> bool:
        """Whether `stage` is the one in focus, or a stage that this one needs."""
        return self.focus is None or self.focus.removeprefix("run ").endswith(stage.removeprefix("compile "))

    def _export(self) -> Bundle:
        from resnetrt.benchmarks.verify.prepare import prepare_export
        from resnetrt.export.fp32.export import export_bundle

        golden, data = self.folder / "golden.npz", self.folder / "calibration.npz"
        np.savez(golden, x=images_of(self.spec, GOLDEN[1], GOLDEN[0]))
        np.savez(data, x=images_of(self.spec, CALIBRATION[1], CALIBRATION[0]))
        with _factory(self.spec) as model, self._step("export"):
            request = prepare_export(model, golden_data=str(golden), golden_count=GOLDEN[1])
            return export_bundle(request, self.folder / "fuzzed.bundle")[0]

    def _calibrate(self, bundle: Bundle) -> None:
        from resnetrt.calibration.observe.collect import calibrate_bundle

        with self._step("calibrate"):
            record = calibrate_bundle(bundle, str(self.folder / "calibration.npz"), CALIBRATION[1])
        if record.equalization:
            self._equalized(bundle, record.equalization)

    def _equalized(self, bundle: Bundle, factors: Any) -> None:
        """Equalization must not change the network: the rewritten FP32 file is run and compared."""
        import onnx_ir as ir

        from resnetrt.calibration.observe.equalize import equalize

        with self._step("equalize"):
            path = bundle.variant_file("fp32")
            model = ir.load(str(path))
            equalize(model.graph, factors)
            ir.save(model, self.folder / "equalized.onnx")
        images = normalized(self.spec, self.frames).float().numpy()
        before, after = _run_file(path, images).astype(np.float64), _run_file(self.folder / "equalized.onnx", images)
        self._number("equalized from fp32", error := relative_error(before, after))
        if error > max(FLOAT_ERROR, FLOAT_NOISE * self.noise):
            self.verdict.add("wrong", "equalize", f"the equalized FP32 network is {error:.1e} from the FP32 network")

    def _cast(self, bundle: Bundle) -> None:
        from resnetrt.export.cast.cast import add_cast_variant

        with self._step("cast fp16"):
            name = add_cast_variant(bundle, "fp16")[0]
        self._file(bundle, name, FP16_ERROR)

    def _variants(self, bundle: Bundle, input_type: str, quantized: bool) -> None:
        from resnetrt.calibration.quantize.quantize import QuantizeOptions, add_uint8_variant, quantize_variant

        suffix = ".uint8" if input_type == "uint8" else ""
        if suffix:
            with suppress(Stopped), self._step("quantize fp32 uint8"):
                add_uint8_variant(bundle)
        made = {"fp32"}
        for dialect in ("cpu", "onnxruntime", "tensorrt") if quantized else ():
            with suppress(Stopped):
                with self._step(f"quantize {dialect}{suffix}"):
                    options = QuantizeOptions(input=input_type)
                    variant, _ = quantize_variant(bundle, dialect, options)
                made.add("int8")
                self._file(bundle, variant, INT8_ERROR)
        for backend in BACKENDS:
            for precision in ("fp32", "int8"):
                if precision in made and self._wants(f"compile {backend} {precision}{suffix}"):
                    with suppress(Stopped):
                        self._engine(bundle, backend, precision, input_type)

    def _file(self, bundle: Bundle, variant: str, limit: float) -> None:
        """Compare a variant, run node by node, with eager."""
        output = _run_file(bundle.variant_file(variant), self._inputs(variant))
        error = typical_error(self.reference, output)
        self._number(variant, error)
        if error > limit:
            self.verdict.add("wrong", f"file {variant}", f"{error:.2g} from eager (relative), kept")

    def _engine(self, bundle: Bundle, backend: str, precision: str, input_type: str) -> None:
        from resnetrt.export.engines.compile import choose_variant, compile_variant
        from resnetrt.runtime import load

        name = f"{backend} {precision}{'.uint8' if input_type == 'uint8' else ''}"
        variant = choose_variant_or_none(lambda: choose_variant(bundle, backend, precision, input_type))
        if variant is None:  # its quantization was refused, which is noted already
            return
        with self._step(f"compile {name}"):
            engine = compile_variant(bundle, variant, backend)
        with self._step(f"load {name}"):
            session = load(bundle, engine)
        with session, self._step(f"run {name}"):
            outputs = {"batch": _infer(session, self.frames, FRESH[1]), "alone": _infer(session, self.frames, 1)}
            outputs["three"] = _infer(session, self.frames, 3)
        path, inputs = bundle.variant_file(variant), self._inputs(variant)
        own = np.asarray(_run_file(path, inputs), np.float64)
        files = [own]
        if (backend, precision) == ("openvino", "int8"):
            files.append(np.asarray(_run_file(_unrounded(path), inputs), np.float64))
        self.right[engine] = True
        for how, output in outputs.items():
            error = relative_error(self.reference, output)
            drift = min(relative_error(file, output) for file in files)
            self._number(f"{engine} {how}", error)
            self._number(f"{engine} {how} from its file", drift)
            if text := _complaint(precision, error, drift, relative_error(self.reference, own), self.noise):
                self.right[engine] = False
                self.verdict.add("wrong", f"run {name}", f"{how}: {text}")

    def _judge_the_judges(self, bundle: Bundle) -> None:
        """Verify, bisect and audit must agree with the findings here."""
        from resnetrt.benchmarks.verify.parity import verify_bundle

        if not self.right:
            return
        if self._wants("verify"):
            with suppress(Stopped), _factory(self.spec), self._step("verify", "accused"):
                reference, verdicts = verify_bundle(bundle)
                for claim in verdicts:
                    if claim.problems and self.right.get(claim.engine):
                        self.verdict.add("accused", "verify", f"{_kind(claim.engine)} is right: {claim.problems[0]}")
                if reference.why:
                    self.verdict.add("accused", "verify", f"no eager reference: {reference.why}")
        for engine, right in self.right.items():
            if self._wants(f"audit {_kind(engine)}"):
                with suppress(Stopped):
                    self._audit(bundle, engine)
            if right and self.spec.seed % 3 == 0 and "fp32" in engine and self._wants(f"bisect {_kind(engine)}"):
                with suppress(Stopped):
                    self._bisect(bundle, engine)

    def _audit(self, bundle: Bundle, engine: str) -> None:
        from resnetrt.export.audit import audit_engine

        stage = f"audit {_kind(engine)}"
        with self._step(stage):
            shares = audit_engine(bundle, engine).share_by_precision
        unknown, own = shares.get("unknown", 0.0), shares.get(engine.split("-")[1], 0.0)
        if unknown > 0:
            self.verdict.add("accused", stage, f"unknown {unknown:.0%} of the work")
        elif own < 0.5:
            self.verdict.add("hollow", stage, f"kept, and {own:.0%} of its work is what its name says")

    def _bisect(self, bundle: Bundle, engine: str) -> None:
        from resnetrt.benchmarks.verify.bisect import bisect

        stage = f"bisect {_kind(engine)}"
        with _factory(self.spec), self._step(stage, "accused"):
            first = bisect(bundle, engine).to_json()["first"]
        if first is not None:
            self.verdict.add("accused", stage, f"the engine is right; accused is {first['block']}")

    def _inputs(self, variant: str) -> npt.NDArray[Any]:
        return self.frames if variant.endswith(".uint8") else normalized(self.spec, self.frames).float().numpy()

    def _number(self, name: str, value: float) -> None:
        self.verdict.numbers[name] = float(f"{min(value, 1e30):.3g}")


def _complaint(precision: str, error: float, drift: float, own: float, noise: float) -> str:
    """What is wrong with an engine that is `error` from eager and `drift` from its file, which is `own` from eager."""
    if precision == "fp32":
        limit = max(FLOAT_ERROR, FLOAT_NOISE * noise)
        wrong = error > limit and (own > limit or drift > FLOAT_KERNEL_ERROR)
        return f"{error:.1e} from eager, float32 eager {noise:.1e}, its file {own:.1e}" if wrong else ""
    if drift > max(KERNEL_ERROR, KERNEL_SHARE * own) and error > KERNEL_WORSE * own:
        return f"{drift:.1e} from its own file, that {own:.1e} from eager, the engine {error:.1e}"
    return ""  # the file's distance from eager was judged when it was made


def choose_variant_or_none(choose: Callable[[], str]) -> str | None:
    """The variant, or None where there is none to compile."""
    from resnetrt.errors import UsageError

    try:
        return choose()
    except UsageError:
        return None


@torch.no_grad()
def _eager(spec: NetworkSpec, frames: UInt8Array) -> tuple[Array, float, bool]:
    """Logits in float64, the distance of float32 from them, and whether the network is a function of one image."""
    images = normalized(spec, frames)
    network = build_network(spec)
    batch = network(images.float().clone()).double().numpy()
    again = network(images.float().clone()).double().numpy()
    alone = np.concatenate([network(images[i : i + 1].float().clone()).double().numpy() for i in range(len(images))])
    is_function = max(relative_error(batch, alone), relative_error(batch, again)) <= BATCH_ERROR
    reference = build_network(spec).double()(images.clone()).numpy()
    noise = relative_error(reference, batch)
    return (reference, noise, is_function) if is_function else (batch, 0.0, False)


def _infer(session: Session, frames: UInt8Array, batch: int) -> Array:
    """Logits of the frames in batches."""
    parts = [next(iter(session.infer_frames(frames[i : i + batch]).values())) for i in range(0, len(frames), batch)]
    return np.concatenate(parts).astype(np.float64)


def _unrounded(path: Path) -> bytes:
    """The file without the rounding between a convolution and the addition that is its only reader.

    OpenVINO leaves this rounding out if it runs both in one layer; then its outputs are exactly those of this file.
    """
    model = onnx.load(str(path))
    makers = {output: node for node in model.graph.node for output in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)

    def maker(name: str, *operators: str) -> onnx.NodeProto | None:
        node = makers.get(name)
        return node if node is not None and node.op_type in operators else None

    for add in model.graph.node:
        for place, name in enumerate(add.input) if add.op_type == "Add" else ():
            dequantize = maker(name, "DequantizeLinear")
            quantize = dequantize and maker(dequantize.input[0], "QuantizeLinear")
            if quantize and maker(quantize.input[0], "Conv", "Relu", "Clip") and readers[name] == 1:
                add.input[place] = quantize.input[0]
    return bytes(model.SerializeToString())


def _run_file(file: Path | bytes, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The first output of an ONNX file, run node by node: nothing is fused or left out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    output: npt.NDArray[Any] = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    return output


def _kind(engine: str) -> str:
    """`openvino int8` of `openvino-int8-cpu`, with `.uint8` for one that takes frames."""
    return " ".join(engine.split("-")[:2]) + (".uint8" if engine.endswith("uint8") else "")


@contextmanager
def _factory(spec: NetworkSpec) -> Iterator[str]:
    """The network as a user's `package.module:factory`."""
    import sys

    def network() -> torch.nn.Module:
        return build_network(spec)

    network.preprocessing = preprocessing_of(spec)  # type: ignore[attr-defined]
    module = ModuleType(_MODULE)
    module.network = network  # type: ignore[attr-defined]
    sys.modules[_MODULE] = module
    try:
        yield f"{_MODULE}:network"
    finally:
        del sys.modules[_MODULE]
