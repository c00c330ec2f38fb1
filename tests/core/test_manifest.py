import json
from typing import Any

import pytest

from resnetrt.errors import BundleError
from resnetrt.manifest import (
    SCHEMA_VERSION,
    EngineEntry,
    FileRecord,
    Manifest,
    VariantRecord,
    _self_hash,
    canonical_json,
    parse_json_object,
)

WHERE = "demo/manifest.json"


def resealed(blob: bytes, **changes: Any) -> bytes:
    """The manifest with fields changed by someone who knows how to compute its hash."""
    record = json.loads(blob) | changes
    del record["manifest_sha256"]
    return canonical_json(record | {"manifest_sha256": _self_hash(record)})


def test_round_trip(manifest: Manifest):
    manifest.engines["onnxruntime-fp32-cpu"] = EngineEntry("engines/a.bin", "engines/a.json", "fp32")
    manifest.variants["int8.cpu"] = VariantRecord("int8.cpu.onnx", "int8", "uint8", "cpu", {"method": "mse"})
    manifest.files["fp32.onnx"] = FileRecord("0" * 64, 12)
    assert Manifest.from_bytes(manifest.to_bytes(), WHERE) == manifest


def test_bytes_are_canonical(manifest: Manifest):
    blob = manifest.to_bytes()
    record = json.loads(blob)
    assert blob == manifest.to_bytes()
    assert blob == (json.dumps(record, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
    assert record["schema_version"] == SCHEMA_VERSION
    assert "größe" in blob.decode()
    assert Manifest.from_bytes(blob, WHERE).to_bytes() == blob


def test_order_of_insertion_does_not_matter(manifest: Manifest):
    first = manifest.to_bytes()
    manifest.tools = {}
    manifest.tools |= {"torch": "2", "numpy": "2.4.6"}
    second = manifest.to_bytes()
    manifest.tools = {"numpy": "2.4.6", "torch": "2"}
    assert manifest.to_bytes() == second != first


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_never_gets_into_the_file(manifest: Manifest, value: float):
    manifest.golden["x"] = value
    with pytest.raises(ValueError, match="not JSON compliant"):
        manifest.to_bytes()


def test_newer_schema_comes_before_everything_else(manifest: Manifest):
    record = json.loads(manifest.to_bytes()) | {"schema_version": SCHEMA_VERSION + 1, "surprise": []}
    with pytest.raises(BundleError, match=r"demo/manifest\.json: schema_version 2 is newer than 1.*upgrade resnetrt"):
        Manifest.from_bytes(canonical_json(record), WHERE)


@pytest.mark.parametrize("version", ["1", None, 1.0, [1], True, 0, -1])
def test_schema_version_must_be_a_positive_integer(manifest: Manifest, version: object):
    with pytest.raises(BundleError, match=r"expected an integer schema_version.*, found"):
        Manifest.from_bytes(resealed(manifest.to_bytes(), schema_version=version), WHERE)


@pytest.mark.parametrize("field", ["name", "weights", "labels", "variants", "files", "golden"])
def test_edited_by_hand(manifest: Manifest, field: str):
    record = json.loads(manifest.to_bytes())
    record[field] = {"edited": True}
    with pytest.raises(
        BundleError, match=r"demo/manifest\.json: its own hash does not match, so it was edited or damaged"
    ):
        Manifest.from_bytes(canonical_json(record), WHERE)


def test_hash_removed(manifest: Manifest):
    record = json.loads(manifest.to_bytes())
    del record["manifest_sha256"]
    with pytest.raises(BundleError, match="its own hash does not match"):
        Manifest.from_bytes(canonical_json(record), WHERE)


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"name": "x", "shape": [3, 32]}},
        {"input": None},
        {"preprocessing": {}},
        {"preprocessing": {"mode": "RGB"}},
        {"variants": []},
        {"variants": {"fp32": {"file": "a"}}},
        {"files": {"a": {"sha256": "0", "size_bytes": 1, "more": 2}}},
        {"unknown_field": 1},
    ],
)
def test_malformed_though_its_hash_matches(manifest: Manifest, changes: dict[str, Any]):
    with pytest.raises(BundleError, match=r"demo/manifest\.json: malformed manifest \(.*export the bundle again"):
        Manifest.from_bytes(resealed(manifest.to_bytes(), **changes), WHERE)


@pytest.mark.parametrize(("key", "value"), [("mode", "CMYK"), ("std", [0.0, 1.0, 1.0]), ("crop", [64, 64])])
def test_senseless_preprocessing_is_the_bundles_fault_not_the_users(manifest: Manifest, key: str, value: object):
    blob = manifest.to_bytes()
    spoilt = json.loads(blob)["preprocessing"] | {key: value}
    with pytest.raises(BundleError, match=r"demo/manifest\.json: malformed manifest"):
        Manifest.from_bytes(resealed(blob, preprocessing=spoilt), WHERE)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
        b'{"schema_version": 1, "x": ' + b"1" * 5000 + b"}",
        b'{"schema_version": 1, "x": NaN}',
        b'{"schema_version": 1, "x": Infinity}',
        b'{"schema_version": 1, "x": 1e999}',
        b'{"schema_version": 1, "x": "\\ud800"}',
    ],
)
def test_bytes_that_are_no_json(blob: bytes):
    with pytest.raises(BundleError, match=r"^demo/manifest\.json: .*export the bundle again$"):
        Manifest.from_bytes(blob, WHERE)


def test_truncated_at_any_place(manifest: Manifest):
    blob = manifest.to_bytes()
    for end in range(0, len(blob) - 1, 37):
        with pytest.raises(BundleError, match=r"demo/manifest\.json: expected JSON, found"):
            Manifest.from_bytes(blob[:end], WHERE)


def test_json_of_another_kind():
    with pytest.raises(BundleError, match=r"demo\.json: expected a JSON object, found list"):
        parse_json_object(b"[1]", "demo.json")
