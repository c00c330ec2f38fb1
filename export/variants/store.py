"""How a variant enters a bundle: valid ONNX and, on the golden images, what the eager model says; or not at all.

Its own outputs on these images are stored beside it: what any backend must make of the file.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from resnetrt.bundle import Bundle, BundleEditor, sha256_of
from resnetrt.errors import CheckFailed
from resnetrt.export.variants.lint import check_onnx
from resnetrt.export.variants.outline import outline_file
from resnetrt.export.variants.parity import golden_outputs
from resnetrt.export.variants.read_outline import read_outline
from resnetrt.golden import Golden, outputs_file, outputs_to_bytes
from resnetrt.manifest import Manifest, VariantRecord
from resnetrt.parity import Parity, compare, require
from resnetrt.preprocess import FloatArray

Run = Callable[[Bundle, Path], FloatArray]
Explain = Callable[[Bundle, Path], AbstractContextManager[None]]
_NO_MORE: Mapping[str, Run] = {}


def unexplained(_bundle: Bundle, _path: Path) -> AbstractContextManager[None]:
    """Failures stay as they are."""
    return nullcontext()


def store_variant(
    bundle: Bundle,
    name: str,
    blob: bytes,
    precision: str,
    evidence: dict[str, Any],
    *,
    input_type: str = "float32",
    dialect: str | None = None,
    run: Run = golden_outputs,
    also: Mapping[str, Run] = _NO_MORE,
    explain: Explain = unexplained,
) -> Parity:
    """Store the ONNX file `blob` as variant `name`, with `evidence`, its outputs as `run` finds them, and their parity.

    What the runs of `also` find is held to eager too; their parity is evidence under their names. Casts of an older
    file of it are dropped, as their engines and its own are. All this is required within `explain`, which may add to
    the message of a failure. Raises `CheckFailed` for invalid ONNX and outside the tolerance of `precision`; then
    nothing is written.
    """
    with bundle.edit() as editor:
        path = editor.new_path(f"{name}.onnx")
        path.write_bytes(blob)
        check_onnx(path)
        outputs = run(bundle, path)
        with explain(bundle, path):
            golden = Golden.of(bundle)
            parity = _require_parity(golden, name, precision, outputs)
            others = {key: _require_parity(golden, name, precision, each(bundle, path)) for key, each in also.items()}
        parities = {"parity": parity.to_json()} | {key: other.to_json() for key, other in others.items()}
        record = VariantRecord(path.name, precision, input=input_type, dialect=dialect, evidence=evidence | parities)
        enter_variant(editor, name, record, outputs)
        sha256 = sha256_of(path)
        drop_variants(
            editor,
            lambda made: (
                made.evidence.get("source") == name and made.evidence.get("source_sha256") not in (None, sha256)
            ),
        )
    return parity


def _require_parity(golden: Golden, name: str, precision: str, outputs: FloatArray) -> Parity:
    """Parity of `outputs` with eager. Raises `CheckFailed` naming the variant outside its precision's tolerance."""
    variant = f"variant {name}"
    try:
        parity = compare(golden.logits, outputs, golden.noise)
    except CheckFailed as error:
        raise CheckFailed(f"{variant}: {error}") from error
    require(parity, "onnxruntime", precision, variant)
    return parity


def enter_variant(editor: BundleEditor, name: str, record: VariantRecord, outputs: FloatArray) -> None:
    """Enter a variant whose file is written and was found right, with its `outputs` on the golden images."""
    editor.write(outputs_file(name), outputs_to_bytes(outputs))
    editor.add_variant(name, record)
    outline = outline_file(record.file)
    try:
        content = read_outline(editor.written(record.file))
    except CheckFailed:  # nothing to audit: said where an audit is asked for
        if outline in editor.manifest.files:
            editor.remove(outline)
    else:
        editor.write_json(outline, content.to_json())


def dependents(manifest: Manifest, stale: Callable[[VariantRecord], bool]) -> tuple[list[str], list[str]]:
    """The names of the variants that are `stale` and of the casts made from them; the engines of all these."""
    variants = manifest.variants
    gone = {name for name, record in variants.items() if stale(record)}
    gone |= {name for name, record in variants.items() if record.evidence.get("source") in gone}
    return sorted(gone), sorted(name for name, made in manifest.engines.items() if made.variant in gone)


def drop_variants(editor: BundleEditor, stale: Callable[[VariantRecord], bool]) -> None:
    """Drop the `dependents` of what is `stale`."""
    variants = editor.manifest.variants
    gone, engines = dependents(editor.manifest, stale)
    for engine in engines:
        editor.drop_engine(engine)
    for name in gone:
        file = variants.pop(name).file
        if outputs_file(name) in editor.manifest.files:
            editor.remove(outputs_file(name))
        if all(record.file != file for record in variants.values()):
            editor.remove(file)
            if outline_file(file) in editor.manifest.files:
                editor.remove(outline_file(file))
