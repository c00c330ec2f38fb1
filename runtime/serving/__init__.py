"""`resnetrt serve`: the Open Inference Protocol over HTTP and gRPC, on the batcher of `resnetrt.runtime.stream`.

Its packages (starlette, uvicorn, grpc, prometheus-client) are imported by `server`, not here.
"""

from resnetrt.runtime.serving.options import Limits, ModelSpec, ServeOptions

__all__ = ["Limits", "ModelSpec", "ServeOptions"]
