"""The probes against our server, with what they should answer; and against the real Triton, whose answers agree."""

from pathlib import Path

import numpy as np
import probes
import pytest
import tiny_bundle
import triton_oracle

from resnetrt.bundle import Bundle

DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference" / "serving.md"

# where we answer otherwise than Triton 2.51, on purpose: it answers 500 or INTERNAL to a fault of the client
DELIBERATE = {
    "malformed_json",
    "json_that_is_no_object",
    "no_inputs",
    "data_of_another_length_than_the_shape",
    "an_output_region_that_is_too_small",
    "a_shared_memory_object_that_is_not_there",
}
LOGITS = tiny_bundle.reference(probes.IMAGES)
INVALID = "StatusCode.INVALID_ARGUMENT"

# the exact answers of our server; what is not here is only compared with Triton
EXPECTED = {
    "live_and_ready_over_http": [True, True, True],
    "live_and_ready_over_grpc": [True, True, True],
    "grpc_health_service": 1,
    "an_unknown_model_is_not_ready": False,
    "metadata_of_an_unknown_version": ["404", "StatusCode.NOT_FOUND"],
    "config_over_http": ["tiny", 8, [("input", "TYPE_FP32", [3, 16, 16]), ("logits", "TYPE_FP32", [10])], True],
    "the_id_comes_back": ["a-1", "tiny", "1"],
    "no_id_gives_none": False,
    "a_response_is_compressed_where_asked": [["gzip", "tiny"], ["deflate", "tiny"]],
    "malformed_json": 400,
    "json_that_is_no_object": 400,
    "no_inputs": [400, 400],
    "an_unknown_model": ["404", "StatusCode.NOT_FOUND"],
    "an_unknown_input": 400,
    "an_unknown_output": ["400", INVALID],
    "a_wrong_shape": ["400", INVALID],
    "a_wrong_datatype": 400,
    "too_large_a_batch": ["400", INVALID],
    "data_of_another_length_than_the_shape": [400, 400],
    "binary_data_cut_short": [400, 400],
    "a_header_length_past_the_end": 400,
    "raw_contents_of_another_length": INVALID,
    "no_contents_over_grpc": INVALID,
    "a_damaged_gzip_body": 400,
    "a_path_that_does_not_exist": [404, 404],
    "unload_and_load": [[False, True], ["UNAVAILABLE"], True, True],
    "an_output_region_that_is_too_small": ["400", INVALID],
    "a_shared_memory_object_that_is_not_there": "400",
}
GIVE_LOGITS = (
    "json_in_and_out",
    "binary_in_and_out",
    "binary_in_json_out",
    "a_version_can_be_named",
    "gzip_request",
    "deflate_request",
    "gzip_response",
    "deflate_response",
)


@pytest.fixture(scope="module")
def ours(server):
    target = probes.Target(server.http, server.grpc)
    yield target
    target.close()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory, labelled_bundle):
    """The real Triton."""
    if reason := triton_oracle.why_not():
        pytest.skip(reason)
    bundle = Bundle.open(labelled_bundle)
    work = tmp_path_factory.mktemp("triton")
    with triton_oracle.triton(work, bundle.variant_file("fp32"), bundle.manifest.labels) as (http, grpc):
        target = probes.Target(http, grpc)
        yield target
        target.close()


def same(a, b) -> bool:
    """Equal, numbers within what two FP32 runtimes differ by."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-4 * max(1.0, abs(a))
    return a == b


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_our_answer(ours, name):
    assert same(probes.ask(name, ours), EXPECTED[name])


@pytest.mark.parametrize("name", GIVE_LOGITS)
def test_our_numbers(ours, name):
    np.testing.assert_allclose(probes.ask(name, ours), LOGITS, rtol=1e-4, atol=1e-4)


def test_our_classes(ours):
    best = LOGITS.argsort(1)[:, ::-1]
    shape, rows = probes.ask("classification_over_http", ours)
    assert shape == [4, 3]
    assert [row[1:] for row in rows] == [[str(c), f"class {c}"] for line in best for c in line[:3]]
    np.testing.assert_allclose([row[0] for row in rows], np.take_along_axis(LOGITS, best[:, :3], 1).ravel(), atol=1e-4)


@pytest.mark.parametrize("name", sorted(probes.PROBES))
def test_no_probe_meets_a_fault_of_ours(ours, name):
    assert not any(word in str(probes.ask(name, ours)) for word in ("'500'", "INTERNAL", "fault"))


@pytest.mark.parametrize("name", sorted(probes.PROBES))
def test_triton_agrees(ours, theirs, name):
    answer, wanted = probes.ask(name, ours), probes.ask(name, theirs)
    if name in DELIBERATE:
        assert not same(answer, wanted), f"no difference any more: {answer}"
    else:
        assert same(answer, wanted), f"ours {answer}, Triton's {wanted}"


def test_the_deliberate_differences_are_documented():
    text = DOCS.read_text()
    assert [name for name in sorted(DELIBERATE) if f"`{name}`" not in text] == []
