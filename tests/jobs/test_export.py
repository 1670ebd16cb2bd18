"""`metasr export` as a command: what it writes, and what it refuses."""

import pytest

from tests.jobs.command import assert_one_error

pytest.importorskip("onnxruntime", reason="the extra export is not installed")


def test_a_bundle_becomes_two_graphs_and_a_note_and_is_not_replaced_unasked(metasr, places, home):
    outcome = metasr("export", "onnx", "--model", places / "bundle")
    assert (outcome.code, outcome.err) == (0, "")
    assert {each.name for each in (home / "onnx").iterdir()} == {"encoder.onnx", "decoder.onnx", "README.md"}
    again = metasr("export", "onnx", "--model", places / "bundle")
    assert_one_error(again)
    assert "--force" in again.err
    assert metasr("export", "onnx", "--model", places / "bundle", "--force").code == 0


def test_a_folder_that_is_no_bundle_is_one_line_and_leaves_nothing(metasr, places, home):
    assert_one_error(metasr("export", "onnx", "--model", places / "empty"))
    assert not (home / "onnx").exists()
