"""What a missing or broken optional package says, wherever it is missing."""

import sys
from pathlib import Path

import pytest

from resnetrt.errors import BackendMissing
from resnetrt.parts import PARTS, how_to_get, import_part, require_parts


@pytest.mark.parametrize(
    ("module", "told", "command"),
    [
        ("nncf", "nncf", "pip install 'resnetrt[peers]'"),
        ("ray.data", "ray", "pip install 'resnetrt[ray]'"),
        ("cv2", "opencv-python-headless (cv2)", "pip install 'resnetrt[video]'"),
        ("mlperf_loadgen", "mlcommons-loadgen (mlperf_loadgen)", "pip install 'resnetrt[bench]'"),
        ("tensorrt_rtx", "tensorrt_rtx", "pip install 'resnetrt[rtx]'"),
        ("grpc_health", "grpc_health", "pip install 'resnetrt[serve]'"),
        ("no_such_package", "no_such_package", "pip install no_such_package"),
    ],
)
@pytest.mark.parametrize("ask", [import_part, lambda module, user: require_parts(user, module)])
def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, ask, module, told, command):
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendMissing) as caught:
        ask(module, "bench")
    assert str(caught.value) == f"bench: the package {told} is not installed; run: {command}"


def test_a_package_that_lacks_something_says_what(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "nncf.py").write_text("import no_such_package")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nncf", raising=False)
    with pytest.raises(BackendMissing, match=r"nncf does not import \(No module named 'no_such_package'\); run: pip"):
        import_part("nncf", "bench")


def test_what_is_here_is_imported():
    assert import_part("json.decoder", "x").__name__ == "json.decoder"
    require_parts("x", "json", "json.decoder")


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_part_has_a_command(part):
    assert how_to_get(part.module).startswith("pip install ")
