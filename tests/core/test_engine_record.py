"""The sidecar of an engine: reading and writing keep it, older versions load, what is off is refused."""

import json
from copy import deepcopy
from typing import Any

import pytest

from resnetrt.engine_record import AuditSummary, EngineParity, EngineRecord, NotRun, ParityNotRun
from resnetrt.errors import BundleError
from resnetrt.parity import Parity
from resnetrt.tensor_spec import TensorSpec

PARITY = {"n": 20, "max_abs": 0.1, "relative_l2": 0.01, "cosine": 0.9, "sqnr_db": 41.8, "top1_agreement": 1.0}
PARITY |= {"reference_peak": 12.5, "noise": 0.0}
AUDIT = {"elsewhere": {"fc": "fp32"}, "own_share": 0.75, "read_from": "execution graph of OpenVINO 2026.4.1"}
# as stored before sidecars had a schema_version: OpenVINO's, and that of a TensorRT engine that could not run
OPENVINO: dict[str, Any] = {
    "audit": AUDIT | {"share_by_precision": {"fp32": 0.25, "int8": 0.75}},
    "backend": "openvino",
    "built_on": {"architecture": "x86_64", "cpu": "Intel(R) Xeon(R) Processor", "instruction_sets": ["amx_int8"]},
    "dialect": "cpu",
    "id": "openvino-int8-cpu",
    "inputs": [{"dtype": "float32", "name": "input", "shape": [None, 3, 16, 16]}],
    "options": {"INFERENCE_PRECISION_HINT": "f32"},
    "outputs": [{"dtype": "float32", "name": "logits", "shape": [None, 10]}],
    "parity": PARITY | {"same_file": PARITY, "tolerance": "below 12 dB a scale or a layer is broken"},
    "parts": [{"batch": None, "offset": 0, "size": 41842}, {"batch": 1, "offset": 45056, "size": 41797}],
    "precision": "int8",
    "reduce_range": True,
    "target": "cpu",
    "tools": {"openvino": "2026.4.1"},
    "variant": "int8.cpu",
    "variant_sha256": "649cfd9a",
}
TENSORRT: dict[str, Any] = OPENVINO | {
    "audit": {"verdict": "not run", "reason": "the package onnx is not installed"},
    "backend": "tensorrt_rtx",
    "dialect": None,
    "id": "tensorrt_rtx-fp32-sm89",
    "options": {"profiles": [{"input": "input", "max": [32, 3, 16, 16]}]},
    "parity": {"verdict": "not run", "reason": "no GPU", "variant": PARITY},
    "precision": "fp32",
    "target": "sm89",
    "tensorrt": {"compute_capabilities": [89], "portable": False},
}
del TENSORRT["parts"]
MADE_ON_A_GPU = TENSORRT | {"built_on": TENSORRT["built_on"] | {"gpu": {"name": "NVIDIA L4", "driver": "580.95.05"}}}
UNCHECKED = TENSORRT | {"parity": {"verdict": "not run", "reason": "no GPU", "variant": "not checked"}}
REQUIRED = ["id", "backend", "precision", "target", "inputs", "outputs", "tools", "options", "variant"]
REQUIRED += ["variant_sha256", "parity"]


def parse(stored: dict[str, Any]) -> EngineRecord:
    return EngineRecord.from_json(stored, "bundle b: engines/e.json", OPENVINO["id"])


@pytest.mark.parametrize("stored", [OPENVINO, TENSORRT, UNCHECKED, MADE_ON_A_GPU])
def test_a_sidecar_from_before_loads_and_is_written_with_its_version_alone_added(stored: dict[str, Any]):
    record = EngineRecord.from_json(stored, "e.json", stored["id"])
    written = json.loads(json.dumps(record.to_json()))
    assert written == stored | {"schema_version": 1}
    assert EngineRecord.from_json(written, "e.json", stored["id"]) == record


def test_the_fields_are_what_was_stored():
    record = parse(OPENVINO)
    assert record.inputs == (TensorSpec("input", "float32", (None, 3, 16, 16)),)
    assert record.parity == EngineParity(Parity(**PARITY), "below 12 dB a scale or a layer is broken", Parity(**PARITY))
    assert isinstance(record.audit, AuditSummary)
    assert (record.own_share, record.audit.elsewhere, record.reduce_range) == (0.75, {"fc": "fp32"}, True)
    assert record.details == {"parts": OPENVINO["parts"]}


def test_what_could_not_be_checked_says_why():
    record = EngineRecord.from_json(TENSORRT, "e.json", TENSORRT["id"])
    assert record.parity == ParityNotRun("no GPU", Parity(**PARITY))
    assert (record.audit, record.own_share) == (NotRun("the package onnx is not installed"), None)


def test_a_sidecar_of_the_first_version_loads():
    """It had no audit, no `reduce_range`, no parity with its own variant, and no noise of the reference."""
    stored = deepcopy(OPENVINO)
    for part, names in ((stored, ("audit", "reduce_range", "parts")), (stored["parity"], ("same_file", "noise"))):
        for name in names:
            del part[name]
    record = parse(stored)
    assert isinstance(record.parity, EngineParity)
    assert (record.parity.same_file, record.parity.eager.noise) == (None, 0.0)
    assert (record.own_share, record.reduce_range, dict(record.details)) == (None, False, {})


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_field_is_one_line(name: str):
    with pytest.raises(BundleError) as caught:
        parse({key: value for key, value in OPENVINO.items() if key != name})
    start = "bundle b: engines/e.json does not describe engine openvino-int8-cpu: expected "
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(f" as {name}, found nothing; compile the engine again")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("id",), "another", 'expected openvino-int8-cpu as id, found "another"'),
        (("backend",), None, "expected text as backend, found null"),
        (("tools",), "many", 'expected an object as tools, found "many"'),
        (("tools", "openvino"), 3, 'expected an object, each value text as tools, found {"openvino": 3}'),
        (("dialect",), 3, "expected text as dialect, found 3"),
        (("reduce_range",), 1, "expected true or false as reduce_range, found 1"),
        (("inputs",), [3], r"expected a list, each item an object as inputs, found [3]"),
        (("inputs", 0, "dtype"), 3, "expected text as inputs[0].dtype, found 3"),
        (("inputs", 0, "shape"), [True], "expected a list of integers, null for a free axis, as inputs[0].shape"),
        (("parity",), None, "expected an object as parity, found null"),
        (("parity", "verdict"), "passed", 'expected "not run" or nothing as parity.verdict, found "passed"'),
        (("parity", "n"), 2.5, "expected an integer as parity.n, found 2.5"),
        (("parity", "same_file", "sqnr_db"), "high", 'expected a number as parity.same_file.sqnr_db, found "high"'),
        (("audit", "own_share"), True, "expected a number as audit.own_share, found true"),
        (("built_on", "cpu"), ["x" * 99], f'expected text as built_on.cpu, found ["{"x" * 58}...;'),
    ],
)
def test_a_field_of_another_type_is_one_line(path: tuple[str | int, ...], value: object, message: str):
    stored: Any = deepcopy(OPENVINO)
    part = stored
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(BundleError) as caught:
        parse(stored)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; compile the engine again")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (2, r"^bundle b: engines/e\.json: schema_version 2 is newer than 1, .*; upgrade resnetrt$"),
        (0, "expected an integer schema_version of at least 1, found 0; compile the engine again$"),
        (True, "expected an integer schema_version of at least 1, found True"),
        ("1", "expected an integer schema_version of at least 1, found '1'"),
        (None, "expected an integer schema_version of at least 1, found None"),
    ],
)
def test_an_unknown_version_is_refused_before_anything_else(version: object, message: str):
    with pytest.raises(BundleError, match=message):
        parse({"schema_version": version})
