"""The type check reads every file, and says so when it does not."""

from pathlib import Path

import pytest
import typecheck
from source_tree import package_dirs, sources


def test_the_link_tree_shows_every_source_file_where_it_is_imported_from(tmp_path: Path):
    typecheck.link_tree(tmp_path, package_dirs())
    assert all((tmp_path / name).samefile(path) for name, path in sources().items())


def test_the_link_tree_forgets_a_file_that_is_gone(tmp_path: Path):
    folder = tmp_path / "core"
    folder.mkdir()
    (folder / "gone.py").touch()
    (folder / "kept.py").touch()
    packages = {"resnetrt": folder}
    typecheck.link_tree(tmp_path, packages)
    (folder / "gone.py").unlink()
    typecheck.link_tree(tmp_path, packages)
    assert [link.name for link in (tmp_path / "resnetrt").iterdir()] == ["kept.py"]


@pytest.mark.parametrize(
    ("summary", "count"),
    [
        ("Success: no issues found in 61 source files\n", 61),
        ("a.py:1: error: x\nFound 25 errors in 7 files (checked 59 source files)\n", 59),
        ("Success: no issues found in 1 source file\n", 1),
        ("mypy: can't find package 'resnetrt'\n", 0),
    ],
)
def test_the_number_of_files_is_read_from_the_summary(summary: str, count: int):
    assert typecheck.files_read(summary) == count


def test_reading_fewer_files_than_exist_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(typecheck, "run_mypy", lambda *_: (0, "Success: no issues found in 1 source file\n"))
    assert typecheck.main([]) == 1
    assert f"expected mypy to read {len(sources())} files, it read 1" in capsys.readouterr().err


def test_errors_name_the_file_as_it_lies_in_the_repository():
    packages = package_dirs()
    output = "build/typing/resnetrt/export/fold/fold.py:1: error\nbuild/typing/resnetrt/bundle.py:2: error\n"
    assert (
        typecheck.own_paths(output, typecheck.TREE, packages)
        == "export/fold/fold.py:1: error\ncore/bundle.py:2: error\n"
    )
