"""Load an engine, check it against the eager model, infer. Imports neither torch nor onnx."""

from resnetrt.runtime.load import load
from resnetrt.runtime.predict.classes import Prediction
from resnetrt.runtime.session import LayerTime, Session
from resnetrt.tensor_spec import TensorSpec

__all__ = ["LayerTime", "Prediction", "Session", "TensorSpec", "load"]
