"""Trial variants of a search: INT8 with some blocks kept in another precision, built, compiled and opened."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from resnetrt.benchmarks.measure.timing import Schedule, Timing, measure
from resnetrt.benchmarks.search.strategy import Mix
from resnetrt.benchmarks.verify.blocks import Block
from resnetrt.bundle import Bundle
from resnetrt.calibration_record import recorded_amax
from resnetrt.errors import ResnetrtError
from resnetrt.export.audit import audit_file
from resnetrt.export.audit.layers import UNKNOWN
from resnetrt.export.cast.islands import cast_carrier, cast_islands
from resnetrt.export.cast.recipes import RECIPES
from resnetrt.export.compilers import find_compiler
from resnetrt.manifest import canonical_json
from resnetrt.preprocess import FloatArray
from resnetrt.progress import track
from resnetrt.runtime.backends import find_backend
from resnetrt.runtime.batches import OnSession
from resnetrt.runtime.load import check_threads
from resnetrt.runtime.session import Session

Build = Callable[[frozenset[str]], bytes]


@dataclass(frozen=True)
class Opened:
    """A loaded trial: its engine file and its session."""

    path: Path
    session: Session


class TrialEngines:
    """Makes mixes for `backend` and `target` in `folder`; `build` returns the INT8 file with the named nodes in FP32.

    `opened` is called with the seconds that it took to make and load each one.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: str,
        target: str,
        blocks: Sequence[Block],
        build: Build,
        folder: Path,
        opened: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.bundle, self.backend, self.target, self.blocks = bundle, backend, target, blocks
        self._build, self._folder, self._opened = build, folder, opened
        self._amax = recorded_amax(bundle) or {}
        self._numbers = count()

    def is_all(self, mix: Mix) -> bool:
        """Whether every block is kept: then the mix is the FP32 file, whatever the precision."""
        return len(mix.kept) == len(self.blocks)

    def label(self, mix: Mix) -> str:
        """The name for tables: `fp32`, `int8`, or for example `int8, 3 bf16`."""
        if self.is_all(mix):
            return "fp32"
        return "int8" if not mix.kept else f"int8, {len(mix.kept)} {mix.precision}"

    def precision(self, mix: Mix) -> str:
        """The precision that the engine is named after."""
        return "fp32" if self.is_all(mix) else "int8"

    def file(self, mix: Mix) -> Path:
        """The ONNX file of `mix`; the next call may overwrite it."""
        if self.is_all(mix):
            return self.bundle.variant_file("fp32")
        nodes = self.nodes(mix.kept)
        path = self._folder / "variant.onnx"
        path.write_bytes(self._build(nodes))
        if mix.precision == "fp32":
            return path
        carried = "int8" in find_compiler(self.backend).CASTS and mix.precision == RECIPES["int8"].half
        if carried:  # such a backend always gets INT8 over a 16-bit carrier, also for full INT8
            path.write_bytes(cast_carrier(path, mix.precision, self._amax))
        elif nodes:
            path.write_bytes(cast_islands(path, mix.precision, nodes, self._amax))
        return path

    def nodes(self, kept: frozenset[str]) -> frozenset[str]:
        """The layers and adds of the blocks `kept`."""
        return frozenset[str]().union(*(block.nodes for block in self.blocks if block.name in kept))

    @contextmanager
    def open(self, mix: Mix) -> Iterator[Opened]:
        """Compile and load `mix`. Raises what compiler and backend raise if they can't."""
        started = time.monotonic()
        source, precision = self.file(mix), self.precision(mix)
        compiled = find_compiler(self.backend).compile_engine(source, precision, self.target, {})
        name = f"trial-{next(self._numbers)}"
        blob = self._folder / f"{name}.{compiled.extension}"
        blob.write_bytes(compiled.blob)
        for ending, companion in compiled.companions.items():  # TensorRT's layers, which `runs_in` reads
            (self._folder / f"{name}.{ending}").write_bytes(canonical_json(companion))
        record = compiled.record(name, self.backend, precision, self.target)
        try:
            with find_backend(self.backend).load(blob, record, check_threads(None)) as session:
                self._opened(time.monotonic() - started)
                yield Opened(blob, session)
        finally:
            for path in self._folder.glob(f"{name}.*"):
                path.unlink()

    def infer(self, opened: Opened) -> OnSession:
        """The session as a function from images to logits."""
        return OnSession(opened.session, self.bundle.manifest.output)

    def time(
        self, mixes: Mapping[str, Mix], image: FloatArray, schedule: Schedule, check: Callable[[], None]
    ) -> dict[str, Timing]:
        """Times of all `mixes`, measured side by side; `check` is called before each is made, and may raise."""
        with ExitStack() as stack:
            calls = {}
            for name, mix in mixes.items():
                check()
                calls[name] = partial(self.infer(stack.enter_context(self.open(mix))), image)
            return measure(calls, schedule, lambda rounds: track(rounds, "timing", len(rounds), "rounds"))

    def runs_in(self, mix: Mix) -> tuple[str, ...]:
        """The precisions in which the backend, by its own report, computes the layers that `mix` keeps.

        Empty if the backend reports nothing.
        """
        nodes = self.nodes(mix.kept)
        try:
            variant = self.file(mix)
            with self.open(mix) as opened:
                islands = audit_file(opened.path, opened.session.record, variant).islands
        except ResnetrtError:
            return ()
        return tuple(sorted({island.precision for island in islands if island.node in nodes} - {UNKNOWN}))
