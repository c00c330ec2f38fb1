"""What a client of the V2 protocol may expect, asked with tritonclient of whatever server is at the URLs.

The server has one model, `tiny` (tiny_bundle's network, FP32, up to 8 images in a batch, labels), and lets clients load
and unload it. The probes stand in the modules `probes_...`, which add them to `PROBES` when they are imported.
"""

import probes_faults  # noqa: F401
import probes_infer  # noqa: F401
import probes_memory  # noqa: F401
import probes_models  # noqa: F401
from probing import IMAGES, INPUT, MODEL, OUTPUT, PROBES, Target, ask, grpc_input, head, http_input

__all__ = ["IMAGES", "INPUT", "MODEL", "OUTPUT", "PROBES", "Target", "ask", "grpc_input", "head", "http_input"]
