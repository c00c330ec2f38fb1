"""The declared fallback: an engine that fails its self-test is replaced by one of higher precision, and says so."""

import logging

import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.errors import BackendMissing, CheckFailed, UsageError
from resnetrt.runtime import load
from resnetrt.runtime.load import fallback_chain


@pytest.fixture
def broken(bundle: Bundle, backend: str) -> str:
    """An INT8 engine with broken weights."""
    name = f"{backend}-int8-cpu"
    file = bundle.manifest.engines[name].file
    tiny_bundle.flip_bits(bundle, file, tiny_bundle.quantized_weight(bundle, "conv.w"), 0x80, stride=5)
    return name


def test_the_next_precision_is_taken_logged_and_counted(
    bundle: Bundle, backend: str, broken: str, caplog: pytest.LogCaptureFixture
):
    with load(bundle, broken, fallback=True) as session:
        assert session.record.id == f"{backend}-fp32-cpu"
        assert session.selftest is not None
        (reason,) = session.fallbacks
    assert reason.startswith(f"engine {broken}: ")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"engine {broken} of {bundle.path} can't be used, the next one is tried: " in record.getMessage()


def test_nothing_is_replaced_without_the_wish(bundle: Bundle, broken: str):
    with pytest.raises(CheckFailed, match=f"engine {broken}"):
        load(bundle, broken)


def test_a_named_chain_is_followed(bundle: Bundle, broken: str):
    with load(bundle, broken, fallback=[broken, "openvino-fp32-cpu"]) as session:
        assert session.record.id == "openvino-fp32-cpu"
        assert len(session.fallbacks) == 2


@pytest.fixture
def elsewhere(bundle: Bundle) -> str:
    """An engine whose backend is not on this machine."""
    record = bundle.manifest.engines["openvino-fp32-cpu"]
    sidecar = bundle.read_json(record.sidecar) | {"id": "tensorrt-fp16-sm_75", "backend": "tensorrt"}
    with bundle.edit() as editor:
        editor.write_json("engines/elsewhere.json", sidecar)
        editor.manifest.engines[sidecar["id"]] = type(record)(record.file, "engines/elsewhere.json", "fp32")
    return sidecar["id"]


def test_what_this_machine_can_not_run_is_passed_over(bundle: Bundle, broken: str, elsewhere: str):
    with load(bundle, broken, fallback=[elsewhere, "openvino-fp32-cpu"]) as session:
        assert session.record.id == "openvino-fp32-cpu"
        assert len(session.fallbacks) == 2
    with pytest.raises(BackendMissing):
        load(bundle, broken, fallback=[elsewhere])
    with pytest.raises(BackendMissing):  # asked for by name, it is not replaced in silence
        load(bundle, elsewhere, fallback=["openvino-fp32-cpu"])


def test_when_all_fail_the_last_one_says_why(bundle: Bundle, backend: str, broken: str):
    fp32 = f"{backend}-fp32-cpu"
    weight = tiny_bundle.weights()["conv.w"]
    tiny_bundle.flip_bits(bundle, bundle.manifest.engines[fp32].file, weight, 0x40, stride=10**9)
    with pytest.raises(CheckFailed, match=f"engine {fp32}"):
        load(bundle, broken, fallback=True)


def test_an_unknown_engine_in_the_chain_is_a_usage_error(bundle: Bundle, broken: str):
    with pytest.raises(UsageError, match="unknown engine"):
        load(bundle, broken, fallback=["openvino-fp23-cpu"])


def test_a_sound_engine_falls_back_to_nothing(bundle: Bundle, backend: str):
    with load(bundle, f"{backend}-int8-cpu", fallback=True) as session:
        assert session.fallbacks == ()


def test_the_chain_keeps_backend_target_and_input(bundle: Bundle, backend: str):
    assert fallback_chain(bundle, f"{backend}-int8-cpu") == [f"{backend}-fp32-cpu"]
    assert fallback_chain(bundle, f"{backend}-fp32-cpu") == []


def test_an_engine_that_can_not_be_read_stands_in_for_none(
    bundle: Bundle, backend: str, caplog: pytest.LogCaptureFixture
):
    name = bundle.manifest.engines[f"{backend}-fp32-cpu"].sidecar
    with bundle.edit() as editor:
        editor.write_json(name, bundle.read_json(name) | {"schema_version": 2})
    with load(bundle, f"{backend}-int8-cpu", fallback=True) as session:
        assert session.record.precision == "int8"
    assert fallback_chain(bundle, f"{backend}-int8-cpu") == []
    assert f"engine {backend}-fp32-cpu of {bundle.path} is no fallback: " in caplog.text


def test_the_chain_goes_from_int8_over_fp16_to_fp32(bundle: Bundle):
    record = bundle.manifest.engines["openvino-fp32-cpu"]
    sidecar = bundle.read_json(record.sidecar)
    with bundle.edit() as editor:
        editor.write_json("engines/fp16.json", sidecar | {"id": "openvino-fp16-cpu", "precision": "fp16"})
        editor.manifest.engines["openvino-fp16-cpu"] = type(record)(record.file, "engines/fp16.json", "fp32")
    assert fallback_chain(bundle, "openvino-int8-cpu") == ["openvino-fp16-cpu", "openvino-fp32-cpu"]
