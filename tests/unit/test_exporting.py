"""Loose files: the shards' bytes, in the tree that everybody knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from limla.cli import limla
from limla.codecs import build_codec
from limla.codecs.base import WEIGHTS
from limla.compressing import decompress
from limla.errors import DataError, SettingsError
from limla.exporting import export, folder_name, safe_class_names
from limla.manifest import read_manifest
from limla.reencoding import ReencodeSettings, reencode
from limla.shard_reader import ShardReader
from tests.catalogue import codec_text
from tests.unit.variants import make_source


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, make_photo: Callable[..., Any]) -> Path:
    """A source and two qualities; read only."""
    data_dir = tmp_path_factory.mktemp("dataset") / "pets"
    make_source(data_dir, make_photo)
    reencode(data_dir, ReencodeSettings(qualities=(10, 90), measure="none"))
    return data_dir


def files(folder: Path) -> dict[str, bytes]:
    """Every image below `folder`."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".json"
    }


def test_the_files_are_the_shards_bytes(dataset: Path, tmp_path: Path) -> None:
    result = export(dataset, tmp_path / "out")
    assert (result.num_written, result.num_there) == (3 * 19, 0)
    expected: dict[str, bytes] = {}
    classes = ("cat", "dog", "0002_größe_teil")
    for variant, name in (("source", "source"), ("jpeg-q10", "q10"), ("jpeg-q90", "q90")):
        for shard in read_manifest(dataset / variant).shards:
            with ShardReader(dataset / variant / shard.name) as reader:
                for sample in reader:
                    stem = sample.key.split("/")[-1]
                    path = f"{name}/{shard.split}/{classes[sample.label]}/{stem}.{sample.extension}"
                    expected[path] = bytes(sample.image)
    assert files(tmp_path / "out") == expected


def test_the_weights_of_a_learned_codec_come_along(dataset: Path, tmp_path: Path) -> None:
    data_dir = copytree(dataset, tmp_path / "pets")
    text = codec_text("autoencoder")
    reencode(data_dir, ReencodeSettings(codec=text, qualities=(8,), measure="none"))
    out = tmp_path / "out"
    for num_written in (2 * 19, 0):
        assert export(data_dir, out, ["source", "autoencoder-q8"]).num_written == num_written
    assert not (out / "source" / WEIGHTS).exists()
    result = decompress(out / "q8", tmp_path / "back")
    assert (result.num_made, result.refused) == (19, ())
    codec = build_codec(text)
    for path in sorted(out.glob("q8/test/**/*.laff")):
        back = tmp_path / "back" / path.relative_to(out / "q8").with_suffix(".png")
        with PIL.Image.open(back) as image:
            assert np.array_equal(np.asarray(image), codec.decode(path.read_bytes()))

    (data_dir / "autoencoder-q8" / WEIGHTS).unlink()
    with pytest.raises(DataError, match=f"{WEIGHTS}: missing"):
        export(data_dir, tmp_path / "other", ["autoencoder-q8"])


def test_torchvision_reads_the_tree(dataset: Path, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    export(dataset, tmp_path / "out", ["jpeg-q10"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"q10", "limla-export.json"}
    folder = ImageFolder(str(tmp_path / "out" / "q10" / "train"))
    assert len(folder) == 12
    assert sorted(folder.classes) == sorted(["0002_größe_teil", "cat", "dog"])
    image, _ = folder[0]
    assert image.mode == "RGB"


def test_a_second_run_writes_only_what_is_missing(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(dataset, out, ["source"])
    before = files(out)
    lost = next(path for path in sorted(out.rglob("*.jpg")))
    lost.unlink()
    (lost.parent / "half.jpg.1.limla-tmp").write_bytes(b"")
    result = export(dataset, out, ["source"])
    assert (result.num_written, result.num_there) == (1, 18)
    assert files(out) == before
    more = export(dataset, out)
    assert (more.num_written, more.num_there) == (38, 19)


def test_a_folder_that_is_no_export_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty and not an export of limla"):
        export(dataset, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_an_export_of_other_shards_is_refused(
    dataset: Path, tmp_path: Path, make_photo: Callable[..., Any]
) -> None:
    export(dataset, tmp_path / "out", ["source"])
    make_source(tmp_path / "pets", make_photo, shift=50)
    with pytest.raises(SettingsError, match="an export of other shards"):
        export(tmp_path / "pets", tmp_path / "out")


def test_a_file_that_was_changed_is_not_overwritten(dataset: Path, tmp_path: Path) -> None:
    export(dataset, tmp_path / "out", ["jpeg-q10"])
    edited = next(path for path in sorted((tmp_path / "out").rglob("*.jpg")))
    edited.write_bytes(b"edited")
    with pytest.raises(SettingsError, match="holds something else than the shards"):
        export(dataset, tmp_path / "out", ["jpeg-q10"])
    assert edited.read_bytes() == b"edited"


def test_unknown_variants_list_those_there(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="jpeg-q11: no complete shard folder; there: source, jpeg-q10, jpeg-q90"
    ):
        export(dataset, tmp_path / "out", ["jpeg-q11"])
    with pytest.raises(SettingsError, match="no variant to export"):
        export(dataset, tmp_path / "out", [])
    with pytest.raises(DataError, match="no complete shard folder there"):
        export(tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_altered_shard_is_an_error(tmp_path: Path, make_photo: Callable[..., Any]) -> None:
    make_source(tmp_path / "pets", make_photo)
    path = tmp_path / "pets" / "source" / "train-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"train-000001\.tar: altered"):
        export(tmp_path / "pets", tmp_path / "out")


def test_a_label_that_no_class_has_is_an_error(tmp_path: Path, make_photo: Callable[..., Any]) -> None:
    manifest = make_source(tmp_path / "pets", make_photo)
    dataclasses.replace(manifest, class_names=("cat",)).write(tmp_path / "pets" / "source")
    with pytest.raises(DataError, match="of class 1, but the manifest knows 1 classes"):
        export(tmp_path / "pets", tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("cat", "dog"), ("cat", "dog")),
        (("größe", "日本", "a b"), ("größe", "日本", "a b")),
        (("../../etc", "..", ".", ""), ("0000__.._etc", "0001", "0002", "0003")),
        (("a/b", "a\\b", "a\0b"), ("0000_a_b", "0001_a_b", "0002_a_b")),
        (("Cat", "cat"), ("Cat", "0001_cat")),
        ((".hidden", "end."), ("0000_hidden", "0001_end")),
        (("x" * 300,), ("0000_" + "x" * 180,)),
    ],
)
def test_class_folders_are_safe_and_distinct(names: tuple[str, ...], folders: tuple[str, ...]) -> None:
    found = safe_class_names(names)
    assert found == folders
    assert len(set(found)) == len(names)


def test_class_folders_stay_distinct_when_a_name_looks_like_a_slug() -> None:
    found = safe_class_names(("0001_b_c", "b/c", "0001_B_C"))
    assert len({name.casefold() for name in found}) == 3


def test_variants_of_one_codec_are_called_by_quality() -> None:
    assert [folder_name(name, ["source", "jpeg-q5"]) for name in ("source", "jpeg-q5")] == ["source", "q5"]
    assert folder_name("jpeg-q5", ["jpeg-q5", "webp-q5"]) == "jpeg-q5"


def test_the_command(dataset: Path, tmp_path: Path) -> None:
    arguments = ["export", str(dataset), str(tmp_path / "out"), "--variants", "source, jpeg-q90"]
    result = CliRunner().invoke(limla, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'out'}: 38 files written, 0 were there\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"source", "q90", "limla-export.json"}
    wrong = CliRunner().invoke(limla, [*arguments[:-1], "jpeg-q1"])
    assert wrong.exit_code == 2
    assert "there: source, jpeg-q10, jpeg-q90" in wrong.stderr
