"""What an evaluation takes from a bundle and from a session."""

from resnetrt.benchmarks.measure.latency import Infer
from resnetrt.bundle import Bundle
from resnetrt.calibration.record import FILE, CalibrationRecord
from resnetrt.preprocess import FloatArray
from resnetrt.runtime.session import Session


def calibration_hashes(bundle: Bundle) -> tuple[str, ...] | None:
    """Hashes of the images that calibration used; None if the bundle has no calibration record."""
    if FILE not in bundle.manifest.files:
        return None
    return CalibrationRecord.from_bytes(bundle.file(FILE).read_bytes(), str(bundle.path / FILE)).image_hashes


def session_infer(session: Session) -> Infer:
    """A session as a function from images to its first output."""

    def infer(images: FloatArray) -> FloatArray:
        return next(iter(session.infer(images).values()))

    return infer
