"""What opening, creating and editing a bundle promise, each promise with the fault that would break it."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnetrt.bundle import MANIFEST, Bundle, BundleEditor, create_bundle, sha256_of
from resnetrt.errors import BundleError, UsageError
from resnetrt.manifest import EngineEntry, FileRecord, Manifest, VariantRecord, canonical_json

MakeBundle = Callable[[Path], Bundle]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def reseal(bundle: Bundle, **changes: Any) -> None:
    """Rewrite the manifest with a hash that fits: what an attacker would do."""
    for name, value in changes.items():
        setattr(bundle.manifest, name, value)
    (bundle.path / MANIFEST).write_bytes(bundle.manifest.to_bytes())


def test_round_trip(bundle: Bundle, manifest: Manifest):
    opened = Bundle.open(str(bundle.path))
    assert opened.file("fp32.onnx").read_bytes() == b"the float model" * 100
    assert opened.read_json("fold.json") == {"folded": 3}
    assert opened.variant_file("fp32") == bundle.path / "fp32.onnx"
    record = opened.manifest.files["engines/one.bin"]
    assert record == FileRecord(sha256_of(bundle.path / "engines/one.bin"), 1000)
    opened.manifest.files = {}
    assert opened.manifest == manifest
    assert names(bundle.path.parent) == ["net.bundle"]


def test_an_edit_does_not_vouch_for_files_that_were_tampered_with_meanwhile(bundle: Bundle):
    (bundle.path / "engines/one.bin").write_bytes(bytes(1000))
    with bundle.edit() as editor:
        editor.write("other", b"x")
    with pytest.raises(BundleError, match=r"file engines/one\.bin does not match its SHA-256"):
        Bundle.open(bundle.path)


def test_the_same_content_gives_the_same_bundle(tmp_path: Path, make_bundle: MakeBundle):
    assert contents(make_bundle(tmp_path / "a").path) == contents(make_bundle(tmp_path / "b").path)


def test_edit_adds_replaces_and_removes(bundle: Bundle):
    with bundle.edit() as editor:
        editor.write("int8.cpu.onnx", b"integers")
        editor.write("fp32.onnx", b"another")
        editor.write_json("more/deep/record.json", {"b": 1, "a": None})
        editor.remove("engines/one.bin")
        editor.new_path("blob").write_bytes(b"written by someone else")
        editor.manifest.labels = ["x"]
    assert contents(bundle.path).keys() == {
        MANIFEST, "fp32.onnx", "fold.json", "int8.cpu.onnx", "more/deep/record.json", "blob"
    }  # fmt: skip
    opened = Bundle.open(bundle.path)
    assert opened.manifest == bundle.manifest
    assert opened.manifest.labels == ["x"]
    assert opened.file("fp32.onnx").read_bytes() == b"another"
    assert opened.file("more/deep/record.json").read_bytes() == canonical_json({"a": None, "b": 1})
    assert names(bundle.path.parent) == ["net.bundle"]


def test_edit_keeps_unchanged_files_as_they_are(bundle: Bundle):
    before = (bundle.path / "fp32.onnx").stat().st_ino
    with bundle.edit() as editor:
        editor.write("other", b"x")
    assert (bundle.path / "fp32.onnx").stat().st_ino == before  # linked, not copied


def test_edit_copies_where_links_are_not_possible(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    def no_links(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with bundle.edit() as editor:
        editor.write("other", b"x")
    assert Bundle.open(bundle.path).file("fp32.onnx").read_bytes() == b"the float model" * 100


@pytest.mark.parametrize("how", ["write", "new_path"])
def test_a_reader_of_the_old_bundle_never_sees_the_edit(bundle: Bundle, how: str):
    """Unchanged files are hard links, so writing through one would change the old bundle as well."""
    with (bundle.path / "fp32.onnx").open("rb") as old, (bundle.path / MANIFEST).open("rb") as old_manifest:
        with bundle.edit() as editor:
            if how == "write":
                editor.write("fp32.onnx", b"new")
            else:
                editor.new_path("fp32.onnx").write_bytes(b"new")
            assert (bundle.path / "fp32.onnx").read_bytes() == b"the float model" * 100
        assert old.read() == b"the float model" * 100
        assert b"fp32.onnx" in old_manifest.read()
    assert (bundle.path / "fp32.onnx").read_bytes() == b"new"


def test_an_exception_in_an_edit_changes_nothing(bundle: Bundle):
    before = contents(bundle.path)

    def fail() -> None:
        with bundle.edit() as editor:
            editor.write("fp32.onnx", b"half")
            editor.remove("fold.json")
            editor.manifest.labels = ["half"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert contents(bundle.path) == before
    assert names(bundle.path.parent) == ["net.bundle"]
    assert bundle.manifest == Bundle.open(bundle.path).manifest


def test_an_exception_while_creating_leaves_nothing(tmp_path: Path, manifest: Manifest):
    def fail() -> None:
        with create_bundle(tmp_path / "out" / "net", manifest) as editor:
            editor.write("a", b"x")
            assert not (tmp_path / "out" / "net").exists()
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert names(tmp_path / "out") == []


def test_changes_of_another_edit_are_detected(bundle: Bundle):
    other = Bundle.open(bundle.path)

    def collide() -> None:
        with bundle.edit() as editor:
            editor.write("mine", b"x")
            with other.edit() as inner:
                inner.write("theirs", b"y")

    with pytest.raises(BundleError, match=r"net\.bundle: another process changed it meanwhile; run the command again"):
        collide()
    assert "theirs" in Bundle.open(bundle.path).manifest.files
    assert "mine" not in contents(bundle.path)
    assert names(bundle.path.parent) == ["net.bundle"]


def test_edits_one_after_the_other_both_count(bundle: Bundle):
    other = Bundle.open(bundle.path)
    with other.edit() as editor:
        editor.write("first", b"x")
    with bundle.edit() as editor:
        editor.write("second", b"y")
    assert {"first", "second"} <= Bundle.open(bundle.path).manifest.files.keys()


def test_a_file_replaced_since_opening_is_not_built_upon(bundle: Bundle):
    """What was read from the old file (a quantized copy, say) must not be stored beside the new one."""
    with Bundle.open(bundle.path).edit() as editor:
        editor.write("fp32.onnx", b"another model")
    with pytest.raises(BundleError, match="another process changed it meanwhile"):
        bundle.edit().__enter__()
    assert names(bundle.path.parent) == ["net.bundle"]


def test_names_with_special_characters(tmp_path: Path, make_bundle: MakeBundle):
    (tmp_path / f".net [1]*.staging-{2**22 + 1}").mkdir()
    (tmp_path / f".net 1.staging-{2**22 + 1}").mkdir()
    make_bundle(tmp_path / "net [1]*")
    assert names(tmp_path) == [f".net 1.staging-{2**22 + 1}", "net [1]*"]


def test_nothing_there(tmp_path: Path):
    with pytest.raises(
        BundleError, match=r"bundle .*gone: expected a directory, found nothing; make one with: resnetrt export"
    ):
        Bundle.open(tmp_path / "gone")


def test_a_file_is_no_bundle(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match="expected a directory, found a file"):
        Bundle.open(tmp_path / "model.onnx")


def test_half_written_without_manifest(bundle: Bundle):
    (bundle.path / MANIFEST).unlink()
    said = r"no manifest\.json, so it is no bundle or half written: copy or export it again"
    with pytest.raises(BundleError, match=said):
        Bundle.open(bundle.path)


def test_one_bit_flipped(bundle: Bundle):
    blob = bytearray((bundle.path / "fp32.onnx").read_bytes())
    blob[700] ^= 1
    (bundle.path / "fp32.onnx").write_bytes(blob)
    with pytest.raises(BundleError, match=r"file fp32\.onnx does not match its SHA-256"):
        Bundle.open(bundle.path)


def test_truncated_file(bundle: Bundle):
    os.truncate(bundle.path / "engines/one.bin", 999)
    with pytest.raises(BundleError, match=r"file engines/one\.bin has 999 bytes, the manifest says 1000"):
        Bundle.open(bundle.path)


def test_missing_file(bundle: Bundle):
    (bundle.path / "engines/one.bin").unlink()
    with pytest.raises(BundleError, match=r"file engines/one\.bin is missing; the bundle is incomplete"):
        Bundle.open(bundle.path)


def test_tampered_manifest(bundle: Bundle):
    path = bundle.path / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"logits"', b'"hidden"'))
    with pytest.raises(BundleError, match=r"net\.bundle/manifest\.json: its own hash does not match"):
        Bundle.open(bundle.path)


def test_newer_schema(bundle: Bundle):
    path = bundle.path / MANIFEST
    path.write_bytes(canonical_json(json.loads(path.read_bytes()) | {"schema_version": 99}))
    with pytest.raises(
        BundleError, match=r"schema_version 99 is newer than 1, the newest this resnetrt reads; upgrade"
    ):
        Bundle.open(bundle.path)


ESCAPES = ["../secret", "/etc/hostname", "a/../../secret", "..", "", ".", "..\\secret", "a\\b", MANIFEST]
SLOPPY = ["./fp32.onnx", "engines//one.bin", "engines/one.bin/", "./manifest.json", "a/./b", "nul\0"]


@pytest.mark.parametrize("name", ESCAPES + SLOPPY)
def test_names_outside_the_bundle_are_not_read(bundle: Bundle, name: str):
    secret = bundle.path.parent / "secret"
    secret.write_bytes(b"x")
    reseal(bundle, files={name: FileRecord(sha256_of(secret), 1)})
    with pytest.raises(BundleError, match=r"net\.bundle: expected a relative path inside the bundle, found"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("name", ESCAPES + SLOPPY)
def test_names_outside_the_bundle_are_not_written(bundle: Bundle, name: str):
    before = contents(bundle.path.parent)
    with (
        pytest.raises(BundleError, match="new file: expected a relative path inside the bundle"),
        bundle.edit() as editor,
    ):
        editor.write(name, b"x")
    assert contents(bundle.path.parent) == before


def test_link_to_the_outside(bundle: Bundle):
    outside = bundle.path.parent / "outside"
    (bundle.path / "fp32.onnx").rename(outside)
    (bundle.path / "fp32.onnx").symlink_to(outside)
    with pytest.raises(BundleError, match=r"file fp32\.onnx leads outside the bundle; refusing it"):
        Bundle.open(bundle.path)


def test_linked_folder_to_the_outside(bundle: Bundle):
    (bundle.path / "engines").rename(bundle.path.parent / "outside")
    (bundle.path / "engines").symlink_to(bundle.path.parent / "outside")
    with pytest.raises(BundleError, match=r"file engines/one\.bin leads outside the bundle"):
        Bundle.open(bundle.path)


def test_a_file_that_the_manifest_does_not_list_is_out_of_reach(bundle: Bundle):
    (bundle.path / "planted.onnx").write_bytes(b"x")
    opened = Bundle.open(bundle.path)
    with pytest.raises(BundleError, match=r"no file planted\.onnx in its manifest"):
        opened.file("planted.onnx")
    with opened.edit() as editor:
        editor.write("other", b"y")
    assert "planted.onnx" not in contents(bundle.path)  # and does not survive an edit


def test_unknown_variant(bundle: Bundle):
    with pytest.raises(UsageError, match=r"unknown variant of .*net\.bundle 'fp23'; did you mean fp32\?"):
        bundle.variant_file("fp23")


def test_variant_whose_file_is_not_listed(bundle: Bundle):
    bundle.manifest.variants["fp32"].file = "../secret"
    with pytest.raises(BundleError, match=r"no file \.\./secret in its manifest"):
        bundle.variant_file("fp32")


def test_select_engine(bundle: Bundle):
    with pytest.raises(UsageError, match=r"has no engine; make one with: resnetrt compile"):
        bundle.select_engine(None)
    record = EngineEntry("engines/one.bin", "fold.json", "fp32")
    bundle.manifest.engines = {"openvino-fp32-cpu": record}
    assert bundle.select_engine(None) == bundle.select_engine("openvino-fp32-cpu") == "openvino-fp32-cpu"
    bundle.manifest.engines["onnxruntime-fp32-cpu"] = record
    with pytest.raises(
        UsageError, match=r"has 2 engines; choose with --engine: onnxruntime-fp32-cpu, openvino-fp32-cpu"
    ):
        bundle.select_engine(None)
    with pytest.raises(UsageError, match=r"unknown engine of .*; did you mean openvino-fp32-cpu"):
        bundle.select_engine("openvino-fp32")


def test_json_file_that_is_none(bundle: Bundle):
    with bundle.edit() as editor:
        editor.write("fold.json", b"[1, 2]")
    with pytest.raises(BundleError, match=r"fold\.json: expected a JSON object, found list"):
        bundle.read_json("fold.json")


def test_removing_a_file_that_is_not_there(bundle: Bundle):
    before = contents(bundle.path)
    with pytest.raises(BundleError, match="removed file: the bundle has no file gone"), bundle.edit() as editor:
        editor.remove("gone")
    with pytest.raises(BundleError, match="removed file: expected a relative path"), bundle.edit() as editor:
        editor.remove("../net.bundle/fp32.onnx")
    assert contents(bundle.path) == before


def test_a_new_file_can_be_removed_again(bundle: Bundle):
    before = contents(bundle.path)
    with bundle.edit() as editor:
        editor.write("draft", b"x")
        editor.remove("draft")
    assert contents(bundle.path) == before


def test_a_variant_that_changes_drops_its_engines_and_no_others(bundle: Bundle):
    def engine(editor: BundleEditor, name: str, variant: str, sha256: str) -> None:
        for ending in ("blob", "layers.json"):
            editor.write(f"engines/{name}.{ending}", b"{}")
        editor.write_json(f"engines/{name}.json", {"id": name, "variant_sha256": sha256})
        editor.manifest.engines[name] = EngineEntry(f"engines/{name}.blob", f"engines/{name}.json", variant)

    old = hashlib.sha256(b"old").hexdigest()
    with bundle.edit() as editor:
        editor.write("int8.onnx", b"old")
        editor.add_variant("int8", VariantRecord("int8.onnx", "int8"))
        engine(editor, "a-int8-cpu", "int8", old)
        engine(editor, "a-int8-cpu-uint8", "int8.uint8", old)
        engine(editor, "a-fp32-cpu", "fp32", old)
    before = set(bundle.manifest.files)
    with bundle.edit() as editor:  # the same bytes: still good
        editor.write("int8.onnx", b"old")
        editor.add_variant("int8", VariantRecord("int8.onnx", "int8", evidence={"again": True}))
    assert set(bundle.manifest.files) == before
    with bundle.edit() as editor:
        editor.write("int8.onnx", b"new")
        editor.add_variant("int8", VariantRecord("int8.onnx", "int8"))
    assert set(bundle.manifest.engines) == {"a-int8-cpu-uint8", "a-fp32-cpu"}
    gone = {f"engines/a-int8-cpu.{ending}" for ending in ("blob", "json", "layers.json")}
    assert set(bundle.manifest.files) == before - gone
    assert not any((bundle.path / name).exists() for name in gone)
    Bundle.open(bundle.path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_write_protected_bundle_is_left_alone(bundle: Bundle):
    bundle.path.chmod(0o555)
    try:
        with pytest.raises(BundleError, match="it is write-protected"), bundle.edit():
            pass
    finally:
        bundle.path.chmod(0o755)
