"""Reading bundles, and refusing what cannot be trusted."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.base import make_engine
from engines.runner import Runner
from exporter.bundle import Bundle
from exporter.errors import ExportError
from exporter.staging import staging
from search.methods.options import Options
from search.methods.registry import search
from search.model.opening import open_pipeline


@pytest.fixture
def bundle(
    pipelines: Callable[[str], Path], make_bundle: Callable[..., Bundle], tmp_path: Path
) -> Path:
    opened = open_pipeline(pipelines("learned-variance"), weights=False)
    made = make_bundle("learned-variance", search(opened, "full", Options(steps=3)))
    return shutil.copytree(made.path, tmp_path / "bundle")


def edit(bundle: Path, **changes: object) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_variant(bundle: Path, **changes: object) -> None:
    (variant,) = json.loads((bundle / "manifest.json").read_text())["variants"]
    edit(bundle, variants=[variant | changes])


def test_a_bundle_checks_its_files(bundle: Path) -> None:
    Bundle.open(bundle).check()


def test_a_bundle_says_where_it_was_made(bundle: Path) -> None:
    here = json.loads((bundle / "manifest.json").read_text())["environment"]
    assert here["python"] == platform.python_version()
    assert here["onnx"] == importlib.metadata.version("onnx")


@pytest.mark.parametrize("name", ["weights.bin", "step_000.onnx", "subnet.json"])
def test_a_changed_file_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        ExportError, match=f"{name}' is not the file that was exported: its SHA-256"
    ):
        Bundle.open(bundle).check()


def test_a_missing_file_is_refused(bundle: Path) -> None:
    (bundle / "decode.onnx").unlink()
    with pytest.raises(ExportError, match=r"lacks its file 'decode.onnx'; export again"):
        Bundle.open(bundle).check()


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/passwd", "sub/step.onnx", ".."])
def test_a_path_out_of_the_bundle_is_refused(bundle: Path, name: str) -> None:
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    edit(bundle, files={**files, name: "0" * 64})
    with pytest.raises(ExportError, match="all files of a bundle lie in its own directory"):
        Bundle.open(bundle)


def test_a_link_out_of_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.move(bundle / "weights.bin", tmp_path / "elsewhere.bin")
    (bundle / "weights.bin").symlink_to(tmp_path / "elsewhere.bin")
    with pytest.raises(ExportError, match=r"'weights.bin' .*is a link that leaves"):
        Bundle.open(bundle).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "zip"}, "is not a bundle; give a directory written by stepcarve export"),
        ({"schema": 7}, "has schema 7, but this stepcarve reads 4"),
        (
            {"schema": 3},
            "has schema 3, but this stepcarve reads 4 to 5; use the stepcarve that wrote it",
        ),
        ({"variants": []}, "incomplete at the variants, of which there are none"),
        ({"dtype": "int8"}, "incomplete at dtype 'int8'"),
        ({"guidance": None}, "is wrong or incomplete at"),
        ({"files": {}}, "leaves out ['condition.onnx', 'decode.onnx', 'prologue.onnx', "),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(
    bundle: Path, changes: dict[str, object], message: str
) -> None:
    edit(bundle, **changes)
    with pytest.raises(ExportError) as caught:
        Bundle.open(bundle)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calls": [{"step": 0}]}, "is wrong or incomplete at"),
        ({"calls": []}, "incomplete at the sampler, 3 rows for 0 calls"),
        ({"graphs": []}, "call 0, which names a graph, slot or prediction that is not there"),
        ({"prologue": None}, "incomplete at the prologue, which should give"),
        ({"decoder": "../decode.onnx"}, "leaves out ['../decode.onnx']"),
        ({"height": "tall"}, "is wrong or incomplete at"),
    ],
)
def test_a_variant_that_cannot_be_read_is_refused(
    bundle: Path, changes: dict[str, object], message: str
) -> None:
    edit_variant(bundle, **changes)
    with pytest.raises(ExportError) as caught:
        Bundle.open(bundle)
    assert message in str(caught.value)


def test_a_directory_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is not a bundle .*manifest.json"):
        Bundle.open(tmp_path)


def test_a_bundle_survives_a_move_to_an_odd_place(bundle: Path, tmp_path: Path) -> None:
    from engines.base import make_engine
    from engines.runner import Runner

    target = tmp_path / "über all" / "bündel 1"
    target.parent.mkdir()
    shutil.move(bundle, target)
    for path in (*target.iterdir(), target):
        path.chmod(0o555 if path.is_dir() else 0o444)
    result = Runner(Bundle.open(target), make_engine("onnxruntime", "cpu")).run("3")
    assert result.images.shape == (1, 16, 16, 3)
    target.chmod(0o755)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError("8192 requested and 7 written")],
)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, error: OSError) -> None:
    """The second is what numpy says."""

    def write(path: Path) -> None:
        path.write_text("so far")
        raise error

    with (
        pytest.raises(
            ExportError, match=r"no space left for .*bundle' \(.*\), and the unfinished bundle was"
        ),
        staging(tmp_path / "bundle", "key") as stage,
    ):
        stage.make("weights.bin", write)
    assert list(tmp_path.iterdir()) == []


def test_another_trouble_is_told_as_it_is(tmp_path: Path) -> None:
    def write(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with (
        pytest.raises(OSError, match="Input/output error"),
        staging(tmp_path / "bundle", "key") as stage,
    ):
        stage.make("weights.bin", write)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_under_another_name_is_shared(tmp_path: Path) -> None:
    with staging(tmp_path / "bundle", "key") as stage:
        names = [
            stage.share(name, lambda path, text=text: path.write_text(text))
            for name, text in (("a", "same"), ("b", "other"), ("c", "same"))
        ]
        assert names == ["a", "b", "a"]
        assert stage.share("c", lambda path: path.write_text("same")) == "a"
        stage.commit({})
    assert {each.name for each in (tmp_path / "bundle").iterdir()} == {"a", "b", "manifest.json"}


def linked(bundle: Path, blobs: Path, snapshot: Path) -> Path:
    """The bundle as a snapshot of a hub's cache: every file a link to a blob."""
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(f for f in bundle.iterdir() if f.is_file())):
        blob = shutil.copy(file, blobs / f"{number:040x}")
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.mark.parametrize("inside", ["snapshots/0123", "snapshots/0123/bundle"])
def test_a_bundle_in_a_hubs_cache_runs(bundle: Path, tmp_path: Path, inside: str) -> None:
    root = tmp_path / "models--somebody--bundle"
    opened = Bundle.open(linked(bundle, root / "blobs", root / inside))
    opened.check()
    mine = Runner(opened, make_engine("onnxruntime", "cpu")).run("7", seed=1).images
    its = Runner(Bundle.open(bundle), make_engine("onnxruntime", "cpu")).run("7", seed=1).images
    assert (mine == its).all()


@pytest.mark.parametrize(
    ("blobs", "snapshot"),
    [("elsewhere", "models/snapshots/0123"), ("models/blobs/deeper", "models/snapshots/0123")],
)
def test_links_that_leave_the_cache_are_refused(
    bundle: Path, tmp_path: Path, blobs: str, snapshot: str
) -> None:
    opened = Bundle.open(linked(bundle, tmp_path / blobs, tmp_path / snapshot))
    with pytest.raises(ExportError, match="is a link that leaves the blobs of its hub"):
        opened.check()


def test_a_blob_of_another_content_is_refused(bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    snapshot = linked(bundle, root / "blobs", root / "snapshots" / "0123")
    blob = (snapshot / "decode.onnx").resolve()
    blob.write_bytes(blob.read_bytes() + b"x")
    with pytest.raises(ExportError, match="is not the file that was exported"):
        Bundle.open(snapshot).check()


def test_the_preview_is_optional_and_checked(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    channels = Bundle.open(bundle).noise_shape[1]
    assert [len(row) for row in manifest.pop("preview")] == [channels + 1] * 3
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert Bundle.open(bundle).preview is None, "as in older bundles"
    edit(bundle, preview=[[1.0, 2.0]])
    with pytest.raises(ExportError, match="the preview, which is not 3 rows of"):
        Bundle.open(bundle)
