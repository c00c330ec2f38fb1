"""How many copies of an engine run side by side, and on how many cores each."""

from dataclasses import dataclass
from pathlib import Path

from resnetrt.bundle import Bundle
from resnetrt.errors import UsageError
from resnetrt.runtime.load import check_threads, load, load_another
from resnetrt.runtime.session import Session

AUTO = "auto"
_MOST = 4  # copies that `auto` makes: each has weights of its own


@dataclass(frozen=True)
class Instances:
    """Sessions of one engine. `wide`, if there is one, uses the cores of all sessions, for a batch that runs alone."""

    sessions: tuple[Session, ...]
    wide: Session | None = None

    @property
    def first(self) -> Session:
        """The session that was loaded first: it knows which engines it replaces."""
        return self.wide or self.sessions[0]

    @property
    def all(self) -> tuple[Session, ...]:
        """All sessions, including the wide one."""
        return self.sessions if self.wide is None else (*self.sessions, self.wide)

    def close(self) -> None:
        """Close every session."""
        for session in self.all:
            session.close()


def load_instances(
    bundle: Bundle | Path | str,
    engine: str | None,
    count: int | str,
    threads: int | None,
    fallback: bool,
    device: str | None = None,
) -> Instances:
    """`count` self-tested sessions of one engine with `threads` each; all use the engine that the first fell back to.

    On a GPU they share the loaded engine, and each has a stream and contexts of its own.

    With `AUTO` on a CPU there is one session for each of `threads` cores (at most four, which then have several cores
    each) and a wide one over all cores. Sessions on one core each give more images a second, the wide one answers a
    single request sooner. On other targets `AUTO` is one session. Raises as `runtime.load`, and `UsageError` for
    another count.
    """
    if count != AUTO and not (isinstance(count, int) and count > 0):
        raise UsageError(f"instances: expected a positive number or {AUTO}, found {count!r}")
    if not isinstance(bundle, Bundle):
        bundle = Bundle.open(bundle)
    first = load(bundle, engine, threads=threads, fallback=fallback, device=device)
    sessions = [first]
    cores = check_threads(threads)
    auto = count == AUTO and first.record.target == "cpu" and cores > 1
    number, each = 1 if count == AUTO else int(count), threads
    if auto:
        number = 1 + min(cores, _MOST)
        each = cores // (number - 1)
    try:
        while len(sessions) < number:
            sessions.append(load_another(bundle, first, each, device))
    except BaseException:
        Instances(tuple(sessions)).close()
        raise
    return Instances(tuple(sessions[1:]), first) if auto else Instances(tuple(sessions))
