"""One picture through several engines of a bundle, each timed."""

import time
from array import array
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from resnetrt.bundle import Bundle
from resnetrt.runtime.load import load
from resnetrt.runtime.predict.classes import Prediction, top_classes
from resnetrt.runtime.predict.pictures import Picture, frame_of
from resnetrt.runtime.session import infer_all


@dataclass(frozen=True)
class EngineAnswer:
    """The likeliest `classes` that an engine found, and the milliseconds from the frame to its logits."""

    engine: str
    ms: float
    classes: tuple[Prediction, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values under the field names."""
        return {"engine": self.engine, "ms": self.ms, "classes": [item.to_json() for item in self.classes]}


@dataclass(frozen=True)
class PictureAnswers:
    """What each engine says about one picture; `preprocess_ms` is for decoding, resizing and cropping it."""

    image: str
    preprocess_ms: float
    answers: tuple[EngineAnswer, ...]

    @property
    def agree(self) -> bool | None:
        """Whether all engines give the same likeliest class; None for one engine."""
        first = {answer.classes[0].index for answer in self.answers}
        return None if len(self.answers) < 2 else len(first) == 1

    def to_json(self) -> dict[str, Any]:
        """Plain values under the field names."""
        rows = [answer.to_json() for answer in self.answers]
        return {"image": self.image, "preprocess_ms": self.preprocess_ms, "agree": self.agree, "engines": rows}


class Tally:
    """How often the engines agreed, and their times, over pictures that need not be kept: a camera's never end."""

    def __init__(self, engines: Sequence[str]) -> None:
        self._engines = tuple(engines)
        self._ms = [array("d") for _ in self._engines]
        self._agreed = [0 for _ in self._engines]

    @property
    def count(self) -> int:
        """Pictures that were added."""
        return len(self._ms[0])

    def add(self, picture: PictureAnswers) -> None:
        """Count one picture."""
        first = picture.answers[0].classes[0].index
        for place, answer in enumerate(picture.answers):
            self._ms[place].append(answer.ms)
            self._agreed[place] += answer.classes[0].index == first

    def to_json(self) -> list[dict[str, Any]]:
        """For each engine the images, the median time, and the share on which it agrees with the first engine."""
        return [
            {
                "engine": engine,
                "images": self.count,
                "median_ms": median(ms) if ms else None,
                "agreement": agreed / self.count if place and self.count else None,
            }
            for place, (engine, ms, agreed) in enumerate(zip(self._engines, self._ms, self._agreed, strict=True))
        ]


class SideBySide:
    """Engines of one bundle, each loaded and self-tested. Close it, or use it in a `with` block.

    Raises what `resnetrt.runtime.load` raises. They run one after the other, so their times do not disturb each other
    more than what threads that still spin for work do; `resnetrt bench` measures times with intervals.
    """

    def __init__(self, bundle: Bundle, engines: Sequence[str] = ()) -> None:
        names = [bundle.select_engine(name) for name in dict.fromkeys(engines)] or [bundle.select_engine(None)]
        self._preprocessing = bundle.manifest.preprocessing
        with ExitStack() as undo:
            self._sessions = {name: undo.enter_context(load(bundle, name)) for name in names}
            self._close = undo.pop_all()

    @property
    def engines(self) -> tuple[str, ...]:
        """Ids of the engines, in the order of the answers."""
        return tuple(self._sessions)

    def predict(self, picture: Picture, image: str, top: int) -> PictureAnswers:
        """The `top` likeliest classes of one picture, called `image`, by every engine, alone in its batch.

        Raises `DataError` for what is no picture.
        """
        start = time.perf_counter()
        frame = frame_of(picture, self._preprocessing)
        ready = time.perf_counter()
        answers = []
        for name, session in self._sessions.items():
            began = time.perf_counter()
            logits = infer_all(session, session.prepare(frame[None]), session.output, session.batch_limits[0])
            ms = (time.perf_counter() - began) * 1e3
            (classes,) = top_classes(logits, top, session.labels, f"engine {name}")
            answers.append(EngineAnswer(name, ms, classes))
        return PictureAnswers(image, (ready - start) * 1e3, tuple(answers))

    def close(self) -> None:
        """Free the engines."""
        self._close.close()

    def __enter__(self) -> "SideBySide":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
