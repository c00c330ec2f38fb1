"""`Session.predict` on real engines, and engines side by side."""

from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from PIL import Image

from resnetrt.bundle import Bundle
from resnetrt.errors import DataError, UsageError
from resnetrt.runtime import load
from resnetrt.runtime.predict.classes import Prediction
from resnetrt.runtime.predict.side_by_side import EngineAnswer, PictureAnswers, SideBySide, Tally

FRAMES = tiny_bundle.frames(11, seed=5)


def label(bundle: Bundle) -> None:
    with bundle.edit() as editor:
        editor.manifest.labels = [f"thing {index}" for index in range(10)]


def expected(frames: np.ndarray) -> np.ndarray:
    logits = tiny_bundle.reference(tiny_bundle.PREPROCESSING.normalize(frames))
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", ["fp32", "fp32.frames"])
def test_a_session_predicts_what_the_reference_says(bundle: Bundle, backend: str, kind: str):
    label(bundle)
    wanted = expected(FRAMES)
    with load(bundle, f"{backend}-{kind}-cpu") as session:
        assert session.labels == tuple(f"thing {index}" for index in range(10))
        predictions = session.predict(FRAMES, top=3)
        (alone,) = session.predict(FRAMES[0], top=3)
    assert len(predictions) == len(FRAMES)
    for row, probabilities in zip(predictions, wanted, strict=True):
        assert [item.index for item in row] == list(np.argsort(-probabilities)[:3])
        assert [item.label for item in row] == [f"thing {item.index}" for item in row]
        np.testing.assert_allclose([item.probability for item in row], probabilities[[i.index for i in row]], atol=1e-4)
    assert [item.index for item in alone] == [item.index for item in predictions[0]]


def test_a_large_file_is_prepared_as_the_bundle_says(bundle: Bundle, tmp_path: Path):
    Image.fromarray(FRAMES[0]).resize((90, 60)).save(tmp_path / "large.png")
    frame = tiny_bundle.PREPROCESSING.frame_from_file(tmp_path / "large.png")
    with load(bundle, "onnxruntime-fp32-cpu") as session:
        assert session.predict(tmp_path / "large.png") == session.predict(frame)
        with pytest.raises(DataError, match=r"none.png: no such file"):
            session.predict([tmp_path / "large.png", tmp_path / "none.png"])


def test_a_bundle_without_labels_has_none(bundle: Bundle):
    with load(bundle, "onnxruntime-fp32-cpu") as session:
        assert session.labels is None
        assert {item.label for item in session.predict(FRAMES[0])[0]} == {None}
        assert session.predict([]) == []
        session.preprocessing = None
        with pytest.raises(UsageError, match="no preprocessing is known"):
            session.predict(FRAMES[0])


def test_engines_stand_side_by_side(bundle: Bundle):
    names = ("openvino-fp32-cpu", "onnxruntime-int8-cpu", "openvino-fp32-cpu")
    with SideBySide(bundle, names) as side:
        assert side.engines == names[:2]
        tally = Tally(side.engines)
        for number, frame in enumerate(FRAMES):
            comparison = side.predict(frame, f"frame {number}", 2)
            assert comparison.image == f"frame {number}"
            assert [answer.engine for answer in comparison.answers] == list(side.engines)
            assert comparison.agree == (
                comparison.answers[0].classes[0].index == comparison.answers[1].classes[0].index
            )
            assert all(answer.ms > 0 for answer in comparison.answers)
            tally.add(comparison)
    first, second = tally.to_json()
    assert (first["images"], first["agreement"]) == (len(FRAMES), None)
    assert second["agreement"] >= 0.8


def answers(*indices: int) -> PictureAnswers:
    """One picture for which engine k finds class `indices[k]`, in `k + 1` ms."""
    rows = [EngineAnswer(f"e{k}", k + 1.0, (Prediction(None, index, 1.0),)) for k, index in enumerate(indices)]
    return PictureAnswers("x", 0.0, tuple(rows))


def test_a_tally_counts_agreement_with_the_first_engine():
    tally = Tally(("e0", "e1", "e2"))
    for item in (answers(1, 1, 2), answers(3, 3, 3), answers(4, 5, 6), answers(7, 7, 0)):
        tally.add(item)
    assert [(row["engine"], row["median_ms"], row["agreement"]) for row in tally.to_json()] == [
        ("e0", 1.0, None),
        ("e1", 2.0, 0.75),
        ("e2", 3.0, 0.25),
    ]
    assert (answers(1, 1).agree, answers(1, 2).agree, answers(1).agree) == (True, False, None)
    assert Tally(("e0",)).to_json() == [{"engine": "e0", "images": 0, "median_ms": None, "agreement": None}]


def test_an_engine_that_is_not_there_closes_the_others(bundle: Bundle):
    with pytest.raises(UsageError, match="unknown engine"):
        SideBySide(bundle, ["openvino-fp32-cpu", "openvino-fp16-cpu"])
    with pytest.raises(UsageError, match="choose with --engine"):
        SideBySide(bundle)
