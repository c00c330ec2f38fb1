"""The engines of a deployment: for every backend that is asked for, where they can be made; the others are said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.engine_record import EngineParity
from resnetrt.errors import BackendMissing, BackendRefused, CheckFailed, UsageError
from resnetrt.export.cast.recipes import check_precisions
from resnetrt.export.compilers import COMPILERS, find_compiler
from resnetrt.export.compilers.engine import MIN_SHARE
from resnetrt.export.compilers.tensorrt.options import TensorRTOptions
from resnetrt.export.engines.compile import choose_variant, compile_variant
from resnetrt.progress import Say

TENSORRT = ("tensorrt", "tensorrt_rtx")


@dataclass(frozen=True)
class Wanted:
    """Which engines to make. Empty `backends` are all that are here, empty `precisions` the usual ones of each.

    `target` names the GPUs for TensorRT-RTX; `tensorrt` are `TensorRTOptions` by name, for both TensorRT backends.
    With `input` `uint8` the engines take frames, with the preprocessing inside.
    An engine that does less than `min_share` of its work in the precision of its name is refused.
    """

    backends: Sequence[str] = ()
    precisions: Sequence[str] = ()
    target: str | None = None
    tensorrt: Mapping[str, Any] = field(default_factory=dict)
    min_share: float = MIN_SHARE
    input: str = "float32"

    def check(self) -> None:
        """Raise `UsageError` for an unknown backend, precision, target or option, before the long run."""
        check_precisions(self.precisions)
        for backend in self.backends or COMPILERS:
            self.target_of(backend)
            if options := self.options_of(backend):
                TensorRTOptions.from_mapping(backend, options)
        compiling = ", ".join(f"--{name.replace('_', '-')}" for name in self.tensorrt)
        for given, takers in (("--target" if self.target else "", ("tensorrt_rtx",)), (compiling, TENSORRT)):
            if given and self.backends and not {*takers} & {*self.backends}:
                raise UsageError(f"{given}: expected {' or '.join(takers)} in --for, found {', '.join(self.backends)}")

    def target_of(self, backend: str) -> str:
        """The target for `backend` in its usual form."""
        return find_compiler(backend).resolve_target(self.target if backend == "tensorrt_rtx" else None)

    def options_of(self, backend: str) -> Mapping[str, Any]:
        """The compile options for `backend`."""
        return self.tensorrt if backend in TENSORRT else {}


@dataclass
class Engines:
    """What came of it: `engines` that run here, `not_run` engines for another machine with the reason, both by id.

    `refused`: why others failed a check. `elsewhere`: backends whose variants are ready and that compile elsewhere.
    """

    engines: list[str] = field(default_factory=list)
    not_run: dict[str, str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)


def compile_all(bundle: Bundle, wanted: Wanted, say: Say) -> Engines:
    """Make every variant that is asked for, and compile those that can be compiled here; what can't is said.

    Raises `CheckFailed` if engines were refused and no other is left.
    """
    made = Engines()
    for backend in wanted.backends or _backends_here(wanted, say):
        compiler, target = find_compiler(backend), wanted.target_of(backend)
        usual = compiler.usual_precisions(target)
        for precision in wanted.precisions or usual:
            say(f"compile   {backend} {precision} ...")
            try:
                _compile(bundle, backend, precision, wanted, made, say)
            except (BackendMissing, UsageError) as error:
                say(f"compile   {backend} {precision} left out: {error}")
            except (BackendRefused, CheckFailed) as error:
                say(f"compile   {backend} {precision} refused: {error}")
                made.refused.append(str(error))
        if not wanted.precisions and "int8" not in usual and (remark := compiler.remark("int8")):
            say(f"compile   {backend} int8 left out: {remark}; --precisions fp16,int8 makes it")
    if made.refused and not made.engines and not made.not_run:
        raise CheckFailed(made.refused[0])
    if made.elsewhere:
        say(f"next      resnetrt package device {bundle.path} --for {','.join(made.elsewhere)} --out DEVICE.bundle")
    return made


def _backends_here(wanted: Wanted, say: Say) -> list[str]:
    """All backends that compile here; the reason why others don't is said."""
    here = []
    for backend in COMPILERS:
        target = wanted.target_of(backend)
        compiler = find_compiler(backend)
        try:
            compiler.check_request(compiler.usual_precisions(target)[0], target, wanted.options_of(backend))
        except BackendMissing as error:
            say(f"compile   {backend} left out: {error}")
        else:
            here.append(backend)
    return here


def _compile(bundle: Bundle, backend: str, precision: str, wanted: Wanted, made: Engines, say: Say) -> None:
    """One engine, or only its variant where it can neither be compiled nor run here; raises what its stages raise."""
    compiler, target, options = find_compiler(backend), wanted.target_of(backend), wanted.options_of(backend)
    variant = choose_variant(bundle, backend, precision, wanted.input)
    reason = compiler.obstacle(target)
    try:
        compiler.check_request(precision, target, options)
    except BackendMissing:
        if not reason:
            raise
        evidence = bundle.manifest.variants[variant].evidence["parity"]
        say(f"variant   {variant}.onnx for {backend}, SQNR {evidence['sqnr_db']:.1f} dB; compile it there: {reason}")
        if backend not in made.elsewhere:
            made.elsewhere.append(backend)
        return
    engine = compile_variant(bundle, variant, backend, target, options, min_share=wanted.min_share)
    record = bundle.read_engine(engine)
    audited = "not audited" if record.own_share is None else f"{record.own_share:.1%} of its work in {precision}"
    if isinstance(record.parity, EngineParity):
        say(f"compile   {engine}, verified: SQNR {record.parity.eager.sqnr_db:.1f} dB from eager, {audited}")
        made.engines.append(engine)
    else:
        variant_db = (
            "" if record.parity.variant is None else f", its variant: SQNR {record.parity.variant.sqnr_db:.1f} dB"
        )
        say(f"compile   {engine}, built, not run here ({reason}); {audited}{variant_db}")
        made.not_run[engine] = reason
    if remark := compiler.remark(precision):
        say(f"note      {engine}: {remark}")
