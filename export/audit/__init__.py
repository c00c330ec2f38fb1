"""What an engine really runs: its work by precision, what did not fuse, and what was inserted between layers."""

from resnetrt.export.audit.audit import EngineAudit, audit_engine, audit_file
from resnetrt.export.audit.layers import ExecutedLayer
from resnetrt.export.audit.requirement import Requirement, audit_compiled, broken_requirements

__all__ = [
    "EngineAudit",
    "ExecutedLayer",
    "Requirement",
    "audit_compiled",
    "audit_engine",
    "audit_file",
    "broken_requirements",
]
