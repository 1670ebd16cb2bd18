"""Sealed folders: whatever is changed, lost or swapped is found, and named."""

import json
import shutil

import pytest

from metasr import manifest
from metasr.errors import CheckpointError, FormatError

ABOUT = {"step": 7, "loss": 0.25, "names": ["a", "ü"], "nested": {"none": None}}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "sealed"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 20)
    (folder / "notes.md").write_text("what it is")
    (folder / "empty").touch()
    manifest.seal(folder, "checkpoint", ABOUT)
    return folder


def assert_refused(folder, *words, kind="checkpoint"):
    with pytest.raises(CheckpointError) as caught:
        manifest.unseal(folder, kind)
    for word in (str(folder), *words):
        assert word in str(caught.value)


def test_what_was_said_about_a_folder_comes_back(folder):
    assert manifest.unseal(folder, "checkpoint") == ABOUT


def test_sealing_leaves_nothing_but_the_manifest_behind(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["empty", "manifest.json", "notes.md", "weights.bin"]


def test_a_copy_is_as_good_as_the_original(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert manifest.unseal(copy, "checkpoint") == ABOUT
    assert manifest.digest(copy) == manifest.digest(folder)


@pytest.mark.parametrize("position", [0, 1234, -1])
@pytest.mark.parametrize("bit", [1, 0x80])
def test_one_flipped_bit_is_found(folder, position, bit):
    content = bytearray((folder / "weights.bin").read_bytes())
    content[position] ^= bit
    (folder / "weights.bin").write_bytes(content)
    assert_refused(folder, "weights.bin", "SHA-256")


@pytest.mark.parametrize("length", [0, 1, 5119])
def test_a_truncated_file_is_found(folder, length):
    (folder / "weights.bin").write_bytes((folder / "weights.bin").read_bytes()[:length])
    assert_refused(folder, "weights.bin")


def test_a_file_that_grew_is_found(folder):
    with (folder / "empty").open("ab") as file:
        file.write(b"\0")
    assert_refused(folder, "empty")


def test_a_missing_file_is_named(folder):
    (folder / "notes.md").unlink()
    assert_refused(folder, "notes.md", "missing")


def test_a_folder_in_the_place_of_a_file_is_named(folder):
    (folder / "notes.md").unlink()
    (folder / "notes.md").mkdir()
    assert_refused(folder, "notes.md", "missing")


def test_two_swapped_files_are_found(folder):
    notes, empty = folder / "notes.md", folder / "empty"
    notes.rename(folder / "aside")
    empty.rename(notes)
    (folder / "aside").rename(empty)
    assert_refused(folder, "SHA-256")


def test_a_later_format_is_named_and_none_is_the_first(folder):
    written = json.loads((folder / "manifest.json").read_text())
    assert written.pop("format") == 1
    (folder / "manifest.json").write_text(json.dumps(written))
    assert manifest.unseal(folder, "checkpoint") == ABOUT
    (folder / "manifest.json").write_text(json.dumps({"format": 2, "files": "elsewhere"}))
    with pytest.raises(FormatError, match=rf"checkpoint {folder}: it has format 2, .* reads format 1\. Use the ver"):
        manifest.unseal(folder, "checkpoint")


def test_a_folder_without_a_manifest_is_not_trusted(folder):
    (folder / "manifest.json").unlink()
    assert_refused(folder, "manifest.json")


def test_a_missing_folder_is_said_to_be_missing(tmp_path):
    assert_refused(tmp_path / "nowhere", "no such folder")


def test_another_kind_of_folder_is_refused(folder):
    assert_refused(folder, "manifest.json", "bundle", kind="bundle")


@pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe\x00", b'{"kind": "checkpoint"'])
def test_a_manifest_that_is_not_json_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    assert_refused(folder, "manifest.json")


@pytest.mark.parametrize(
    "content",
    [
        [],
        None,
        "checkpoint",
        {},
        {"kind": "checkpoint"},
        {"kind": "checkpoint", "about": {}},
        {"kind": "checkpoint", "files": {}},
        {"kind": "checkpoint", "about": {}, "files": []},
        {"kind": "checkpoint", "about": [], "files": {}},
        {"about": {}, "files": {}},
    ],
)
def test_json_that_is_not_a_manifest_is_refused(folder, content):
    (folder / "manifest.json").write_text(json.dumps(content))
    assert_refused(folder, "manifest.json")


def test_a_manifest_cut_short_anywhere_is_refused(folder):
    content = (folder / "manifest.json").read_bytes()
    for length in range(0, len(content.rstrip()), 7):
        (folder / "manifest.json").write_bytes(content[:length])
        assert_refused(folder, "manifest.json")


def test_the_digest_is_the_same_for_the_same_content(folder):
    other = folder.with_name("other")
    other.mkdir()
    for name in ("notes.md", "weights.bin", "empty"):
        (other / name).write_bytes((folder / name).read_bytes())
    manifest.seal(other, "checkpoint", dict(reversed(ABOUT.items())))
    assert manifest.digest(other) == manifest.digest(folder)


def test_the_digest_changes_with_a_file_a_name_and_what_is_said(folder):
    digests = {manifest.digest(folder)}
    for number, (name, content, about) in enumerate(
        [
            ("notes.md", "what it was", ABOUT),
            ("more.md", "", ABOUT),
            ("notes.md", "what it was", {**ABOUT, "step": 8}),
        ]
    ):
        changed = shutil.copytree(folder, folder.with_name(f"changed-{number}"))
        (changed / "manifest.json").unlink()
        (changed / name).write_text(content)
        manifest.seal(changed, "checkpoint", about)
        digests.add(manifest.digest(changed))
    assert len(digests) == 4
    assert all(len(digest) == 64 for digest in digests)


def test_a_folder_may_be_sealed_again_after_a_change(folder):
    (folder / "notes.md").write_text("what it is now")
    manifest.seal(folder, "checkpoint", ABOUT)
    assert manifest.unseal(folder, "checkpoint") == ABOUT
