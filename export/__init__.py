"""From an eager module to checked ONNX variants and compiled engines."""

from typing import TYPE_CHECKING

from resnetrt.public import lazily

if TYPE_CHECKING:
    from resnetrt.export.audit.audit import EngineAudit, audit_engine
    from resnetrt.export.cast.cast import add_cast_variant
    from resnetrt.export.engines.compile import choose_variant, compile_variant
    from resnetrt.export.fp32.export import ExportRequest, export_bundle

__all__ = [
    "EngineAudit",
    "ExportRequest",
    "add_cast_variant",
    "audit_engine",
    "choose_variant",
    "compile_variant",
    "export_bundle",
]
__getattr__ = lazily(
    __name__,
    {
        "EngineAudit": "audit.audit",
        "ExportRequest": "fp32.export",
        "add_cast_variant": "cast.cast",
        "audit_engine": "audit.audit",
        "choose_variant": "engines.compile",
        "compile_variant": "engines.compile",
        "export_bundle": "fp32.export",
    },
)
