"""The self-test: an engine beside eager, beside its own variant, in batches and alone."""

import logging

import numpy as np
import pytest
import tiny_bundle

from resnetrt.bundle import Bundle
from resnetrt.errors import CheckFailed
from resnetrt.golden import Golden, outputs_file, outputs_to_bytes
from resnetrt.parity import compare
from resnetrt.runtime import load

RNG = np.random.default_rng(5)


def with_noise(outputs: np.ndarray, sqnr_db: float) -> np.ndarray:
    """`outputs` with as much noise as leaves that many decibels."""
    noise = RNG.normal(size=outputs.shape)
    noise *= np.linalg.norm(outputs) / np.linalg.norm(noise) * 10 ** (-sqnr_db / 20)
    return (outputs + noise).astype(np.float32)


def store_outputs(bundle: Bundle, variant: str, outputs: np.ndarray) -> Bundle:
    with bundle.edit() as editor:
        editor.write(outputs_file(variant), outputs_to_bytes(outputs))
    return Bundle.open(bundle.path)


class TestSelftest:
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_its_own_variant_is_compared_too(self, shared_bundle: Bundle, backend: str, precision: str):
        with load(shared_bundle, f"{backend}-{precision}-cpu") as session:
            assert session.same_file is not None
            assert session.same_file.n == 20
            assert session.same_file.sqnr_db > 30

    def test_flipped_weights_that_eager_lets_pass_are_refused(self, bundle: Bundle, backend: str):
        engine = f"{backend}-int8-cpu"
        name, weight = bundle.manifest.engines[engine].file, tiny_bundle.quantized_weight(bundle, "conv.w")
        tiny_bundle.flip_bits(bundle, name, weight, 0x20, 29)
        with load(bundle.path, engine, selftest=False) as session:
            frames = Golden.of(bundle).frames
            assert compare(Golden.of(bundle).logits, session.infer_frames(frames)["logits"]).sqnr_db > 12
        with pytest.raises(CheckFailed, match=rf"engine {engine}: parity with its own variant failed"):
            load(Bundle.open(bundle.path), engine)

    def test_rounding_that_disturbs_a_network_is_no_fault_of_the_kernels(self, bundle: Bundle, backend: str):
        engine = f"{backend}-int8-cpu"
        golden = Golden.of(bundle, variant := bundle.manifest.engines[engine].variant)
        assert golden.own is not None
        noisy = with_noise(golden.logits, 20.0)  # the file itself is 20 dB from eager, and so the engine from the file
        load(store_outputs(bundle, variant, noisy), engine).close()

    def test_single_images_have_to_agree_too(self, bundle: Bundle):
        engine = "openvino-fp32-cpu"  # its single images have weights of their own, the last in the file
        name = bundle.manifest.engines[engine].file
        tiny_bundle.flip_bits(bundle, name, tiny_bundle.weights()["conv.w"], 0x40, 10**9, last=True)
        with pytest.raises(
            CheckFailed, match=rf"engine {engine}: single images: parity .* failed over 4 golden images"
        ):
            load(Bundle.open(bundle.path), engine)

    def test_a_bundle_without_outputs_of_the_variant_says_so(
        self, bundle: Bundle, backend: str, caplog: pytest.LogCaptureFixture
    ):
        with bundle.edit() as editor:
            editor.remove(outputs_file("fp32"))
        with caplog.at_level(logging.WARNING, "resnetrt.runtime"), load(bundle.path, f"{backend}-fp32-cpu") as session:
            assert session.same_file is None
        assert "is compared with eager only" in caplog.text
