"""The findings about one network, and how they are sorted into classes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import perf_counter
from traceback import extract_tb
from typing import Any

from resnetrt.errors import ResnetrtError

FAILURES = ("wrong", "crash", "accused", "hollow", "unclear")
_RAW = re.compile(r"please report|Traceback|\.cpp\b|\.cc:|\.hpp\b|/src/|object at 0x|<class ")
_NAMES = re.compile(r"'[^']*'|\"[^\"]*\"|/\S+|\b\w+(?:\.\w+)+\b|\b\w*\d\w*\b|-?\d[\d.e+-]*")


@dataclass(frozen=True)
class Finding:
    """One observation: `kind` is one of `FAILURES` or `refused`, `stage` says where, `what` says it in words."""

    kind: str
    stage: str
    what: str

    @property
    def label(self) -> str:
        """The class of the finding: kind, stage, and the words without names and numbers."""
        words = " ".join(_NAMES.sub("*", self.what).split())
        return f"{self.kind}: {self.stage}: {words[:140]}"


@dataclass
class NetworkVerdict:
    """How one network ended. `numbers` are relative errors by name, `seconds` by stage."""

    findings: list[Finding] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failures(self) -> list[Finding]:
        """The findings that are failures."""
        return [finding for finding in self.findings if finding.kind in FAILURES]

    @property
    def end(self) -> str:
        """`right`, `refused` (wholly or in part), or the worst kind of failure."""
        kinds = {finding.kind for finding in self.findings}
        return next((kind for kind in FAILURES if kind in kinds), "refused" if kinds else "right")

    def add(self, kind: str, stage: str, what: str) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind, stage, " ".join(what.split())))

    @contextmanager
    def step(self, stage: str, refused: str = "refused") -> Iterator[None]:
        """A stage of the product: an expected error is a finding `refused`, any other a `crash`. Both end the stage."""
        started = perf_counter()
        try:
            yield
        except ResnetrtError as error:
            self.add("unclear" if _RAW.search(str(error)) else refused, stage, f"{type(error).__name__}: {error}")
            raise Stopped from error
        except Exception as error:
            self.add("crash", stage, f"{type(error).__name__}: {error} [{_place(error)}]"[:600])
            raise Stopped from error
        finally:
            self.seconds[stage] = round(perf_counter() - started, 3)

    def to_json(self) -> dict[str, Any]:
        """The record of a network in the results."""
        return {"end": self.end, **asdict(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "NetworkVerdict":
        """The inverse of `to_json`."""
        findings = [Finding(**item) for item in record["findings"]]
        return cls(findings, record["numbers"], record["seconds"])


class Stopped(Exception):
    """A stage ended without a result; the verdict says why."""


def _place(error: BaseException) -> str:
    """The innermost line of our code in the error's traceback."""
    frames = [frame for frame in extract_tb(error.__traceback__) if ".venv" not in frame.filename]
    ours = [frame for frame in frames if "network_fuzz" not in frame.filename] or frames
    return f"{'/'.join(ours[-1].filename.split('/')[-2:])}:{ours[-1].name}" if ours else "nowhere"
