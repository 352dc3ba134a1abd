"""limla decompress: files of every codec, whole, cut off, damaged and strange."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest

from limla.codecs import build_codec
from limla.codecs.base import QualityScale
from limla.codecs.container import read_whole, write_container
from limla.compressing import CompressSettings, DecompressSettings, compress, decompress
from limla.errors import DataError, SettingsError
from limla.registry import CODECS
from limla.types import Image
from tests.conftest import natural_like
from tests.unit.photos import photo, type_in
from tests.unit.test_compressing import reasons, rows

WRITERS = {
    "jpeg": 40, "jpeg-progressive": 40, "webp": 30, "jpeg2000": 300, "avif": 40, "svd": 40, "lowrank": 10, "hevc": 30,
    "png": 100,
}  # fmt: skip
"""Codec → a quality."""


class Flipping:
    """A learned codec: pixels with the bits flipped that are set in its weights, one byte."""

    name: ClassVar[str] = "flipping"
    extension: ClassVar[str] = "laff"
    scale: ClassVar[QualityScale] = QualityScale("quality", 1, 2)

    def __init__(self, weights: str = "") -> None:
        self._weights = Path(weights).read_bytes()

    @classmethod
    def from_weights(cls, data: bytes) -> Flipping:
        if len(data) != 1:
            raise DataError("not the weights of flipping")
        codec = cls.__new__(cls)
        codec._weights = data
        return codec

    def weights_bytes(self) -> bytes:
        return self._weights

    def encode(self, image: Image, quality: int) -> bytes:
        body = (image ^ self._weights[0]).astype(np.uint8).tobytes()
        return write_container(self.name, *image.shape[:2], body)

    def decode(self, data: bytes | memoryview) -> Image:
        contents = read_whole(data, self.name)
        pixels = np.frombuffer(contents.body, np.uint8).reshape(contents.height, contents.width, 3)
        return (pixels ^ self._weights[0]).astype(np.uint8)

    def settings(self) -> dict[str, str | int | bool]:
        return {"weights": self._weights.hex()}

    def version(self) -> str:
        return "1"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each codec, in a folder of its name. Read only."""
    folder = tmp_path_factory.mktemp("files")
    for name, quality in WRITERS.items():
        codec = build_codec(name)
        (folder / name).mkdir()
        data = codec.encode(natural_like(40, 56, seed=len(name)), quality)
        (folder / name / f"picture.{codec.extension}").write_bytes(data)
    return folder


@pytest.mark.parametrize("file_format", ["png", "tiff"])
def test_every_codecs_file_is_found_by_itself(files: Path, tmp_path: Path, file_format: str) -> None:
    done = type_in("decompress", files, "--out", tmp_path / "out", "--format", file_format)
    assert done.exit_code == 0, done.output
    assert f"{len(WRITERS)} pictures, " in done.stdout
    for name in WRITERS:
        codec = build_codec(name)
        pixels = codec.decode((files / name / f"picture.{codec.extension}").read_bytes())
        with PIL.Image.open(tmp_path / "out" / name / f"picture.{file_format[:3]}") as made:
            assert made.format == file_format.upper()
            assert np.array_equal(np.asarray(made), pixels), name


def test_damaged_files_are_named_and_the_others_done(files: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in WRITERS:
        (path,) = (files / name).iterdir()
        data = path.read_bytes()
        (folder / name).mkdir(parents=True)
        (folder / name / f"whole{path.suffix}").write_bytes(data)
        (folder / name / f"half{path.suffix}").write_bytes(data[: len(data) // 2])
        (folder / name / f"empty{path.suffix}").touch()
    (folder / "svd" / "unknown.laff").write_bytes(write_container("nobody", 2, 2, b"123"))
    (folder / "huge.laff").write_bytes(write_container("svd", 65500, 65500, b"123"))
    done = type_in("decompress", folder, "--out", tmp_path / "out")
    assert done.exit_code == 2
    found = reasons(decompress(folder, tmp_path / "out"))
    halves = {path for path in found if "/half" in path}
    assert {f"{name}/half{next((files / name).iterdir()).suffix}" for name in WRITERS} - halves <= {
        "svd/half.laff"
    }
    assert {reason for path, reason in found.items() if "/empty" in path} == {"empty file"}
    assert "which this limla does not know" in found["svd/unknown.laff"]
    assert "65500 × 65500 pixels" in found["huge.laff"]
    for path, reason in found.items():
        assert f"{path}: {reason}" in done.stderr.splitlines()
    assert {path.parent.name for path in (tmp_path / "out").rglob("whole.png")} == set(WRITERS)


def test_a_progressive_file_that_was_cut_off_is_decoded_as_far_as_it_goes(tmp_path: Path) -> None:
    codec = build_codec("svd")
    data = codec.encode(natural_like(80, 90), 60)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.laff").write_bytes(data[: len(data) // 2])
    prefix = codec.decode_prefix(data[: len(data) // 2])  # type: ignore[attr-defined]
    assert 0 < prefix.held < prefix.whole
    line = f"cut.laff: cut off, decoded at rank {prefix.held} of {prefix.whole}"
    for _ in range(2):  # a run that has nothing to do says it, too
        done = type_in("decompress", tmp_path / "in", "--out", tmp_path / "out")
        assert done.exit_code == 0, done.output
        assert line in done.stderr.splitlines()
        assert "1 pictures, 1 of them cut off" in done.stdout
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "out" / "cut.png")), prefix.image)
    assert rows(tmp_path / "out", "decompress")["cut.laff"]["note"] == line.partition(": ")[2]
    (tmp_path / "in" / "cut.laff").write_bytes(data)
    assert decompress(tmp_path / "in", tmp_path / "out").summary["cut_off"] == 0


def test_mutated_files_never_do_more_than_be_refused(files: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in WRITERS:
        (path,) = (files / name).iterdir()
        for number in range(25):
            data = bytearray(path.read_bytes())
            for _ in range(int(generator.integers(1, 5))):
                data[generator.integers(len(data))] = generator.integers(256)
            cut = generator.integers(1, len(data)) if number % 3 == 0 else len(data)
            (folder / f"{name}{number}{path.suffix}").write_bytes(data[:cut])
    result = decompress(folder, tmp_path / "out")
    assert len(result.rows) + len(result.refused) == 25 * len(WRITERS)
    assert len(result.refused) > 25
    assert all("\n" not in one.reason and one.reason for one in result.refused)
    assert len(list((tmp_path / "out").glob("*.png"))) == len(result.rows)


def test_a_learned_codec_finds_its_weights_beside_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CODECS.plugs, "flipping", f"{__name__}:Flipping")
    (tmp_path / "key").write_bytes(b"\x81")
    (tmp_path / "other").write_bytes(b"\x18")
    photo(tmp_path / "in" / "cat" / "a.png", 4)
    compress(tmp_path / "in", tmp_path / "out", CompressSettings(f"flipping:weights={tmp_path / 'key'}", 1))
    assert (tmp_path / "out" / "codec-weights.bin").read_bytes() == b"\x81"
    with pytest.raises(SettingsError, match="weights: '81' there, '18' asked for"):
        compress(
            tmp_path / "in", tmp_path / "out", CompressSettings(f"flipping:weights={tmp_path / 'other'}", 1)
        )
    for weights in (None, tmp_path / "key"):
        out = tmp_path / f"back-{weights is None}"
        result = decompress(tmp_path / "out", out, DecompressSettings(weights=weights))
        assert not result.skipped, "limla's own records are not counted"
        assert np.array_equal(np.asarray(PIL.Image.open(out / "cat" / "a.png")), natural_like(24, 32, 4))
    assert decompress(tmp_path / "out" / "cat", tmp_path / "part").num_made == 1
    photo(tmp_path / "in2" / "b.png", 5)
    compress(
        tmp_path / "in2", tmp_path / "all" / "2", CompressSettings(f"flipping:weights={tmp_path / 'other'}", 1)
    )
    (tmp_path / "out").rename(tmp_path / "all" / "1")
    shutil.copy(tmp_path / "all" / "1" / "cat" / "a.laff", tmp_path / "all")
    whole = decompress(tmp_path / "all", tmp_path / "whole")
    assert [one.path for one in whole.refused] == ["a.laff"]
    assert "no codec-weights.bin in its folder or above: give" in whole.refused[0].reason
    for name, seed in (("1/cat/a.png", 4), ("2/b.png", 5)):
        assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "whole" / name)), natural_like(24, 32, seed))
    # what was refused for want of weights is made when they are given
    (tmp_path / "all" / "2").rename(tmp_path / "2")
    again = decompress(tmp_path / "all", tmp_path / "whole", DecompressSettings(weights=tmp_path / "key"))
    assert (again.num_made, again.refused) == (1, ())
    (tmp_path / "all" / "1").rename(tmp_path / "out")
    alone = decompress(tmp_path / "all" / "a.laff", tmp_path / "alone")
    assert "give its weights with --weights FILE" in alone.refused[0].reason
    done = type_in("decompress", tmp_path / "out", "--out", tmp_path / "none", "--weights", tmp_path / "absent")
    assert done.exit_code == 2
    assert done.stderr == f"Error: {tmp_path / 'absent'}: no such file or folder\n"


def test_names_that_clash(files: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("webp", "jpeg"):
        (path,) = (files / name).iterdir()
        (tmp_path / "in" / f"a{path.suffix}").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"would have one name: a\.jpg and a\.webp"):
        decompress(tmp_path / "in", tmp_path / "out")
    with pytest.raises(SettingsError, match="choose png or tiff"):
        DecompressSettings(format="gif")  # type: ignore[arg-type]


def test_damaged_weights_are_named_once(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png", 1)
    compress(tmp_path / "in", tmp_path / "c", CompressSettings("jpeg", 50))
    damaged = tmp_path / "weights.bin"
    damaged.write_bytes(b"LIMLA-AE and no more")
    done = type_in("decompress", tmp_path / "c", "--weights", damaged, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert f"{damaged}: " in done.stderr
    assert not (tmp_path / "out").exists()
