"""What an engine really runs: precision by share of the convolution work, what did not fuse, what was put between."""

from resnetrt.export.audit.audit import EngineAudit, audit_engine
from resnetrt.export.audit.layers import ExecutedLayer
from resnetrt.export.audit.requirement import Requirement, broken_requirements

__all__ = ["EngineAudit", "ExecutedLayer", "Requirement", "audit_engine", "broken_requirements"]
