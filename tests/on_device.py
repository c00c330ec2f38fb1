"""What a device does with a bundle, run by the Python under test: it has the base install and nothing of this folder.

    PYTHON on_device.py BUNDLE PHOTO ENGINE...

Prints one JSON object: versions, and for each engine the SQNR of its self-test and the classes it sees in the photo,
alone and three times in a batch.
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

from resnetrt.runtime import load


def use(bundle: Path, photo: Path, engine: str) -> dict[str, object]:
    """Load (which runs the self-test), run one photo alone and in a batch of three."""
    with load(bundle, engine) as session:
        assert session.preprocessing is not None
        assert session.selftest is not None
        images = session.prepare(session.preprocessing.frame_from_file(photo)[None])
        (logits,) = session.infer(images).values()
        (three,) = session.infer(np.concatenate([images] * 3)).values()
        ((best,),) = session.predict([photo], top=1)
        assert best.index == logits[0].argmax()
        return {
            "sqnr_db": session.selftest.sqnr_db,
            "seen": [int(row.argmax()) for row in (*logits, *three)],
        }


def main(bundle: str, photo: str, *engines: str) -> None:
    versions = {name: version(name) for name in ("numpy", "onnxruntime", "pillow", "click")}
    answers = {engine: use(Path(bundle), Path(photo), engine) for engine in engines}
    print(
        json.dumps({"python": platform.python_version(), "machine": platform.machine(), **versions, "engines": answers})
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
