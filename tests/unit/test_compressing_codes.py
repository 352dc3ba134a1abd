"""limla compress FOLDER --out codes.npz, and back: a learned codec's codes of a whole folder as arrays."""

from __future__ import annotations

import io
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from limla.codecs import build_codec
from limla.codecs.base import BinaryCodes
from limla.codecs.code_arrays import CodeArrays, CodedImage
from limla.compressing import CompressSettings, DecompressSettings
from limla.compressing.codes import compress_to_codes, decompress_codes
from limla.engines.local import LocalEngine
from limla.errors import DataError, SettingsError
from tests.catalogue import KNOBS
from tests.conftest import natural_like
from tests.unit.photos import photo, type_in

WEIGHTS = Path(KNOBS["autoencoder"]["weights"])
CODEC = f"autoencoder:weights={WEIGHTS}"
BACK = DecompressSettings(weights=WEIGHTS)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures in two folders, one of them damaged. Read only."""
    folder = tmp_path_factory.mktemp("pictures") / "in"
    for number in range(10):
        photo(folder / ("cat", "dog")[number % 2] / f"n.{number}.png", number)
    (folder / "cat" / "n.4.png").write_text("not a picture")
    (folder / "notes.txt").touch()
    return folder


def test_there_and_back(pictures: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "codes.npz", tmp_path / "out"
    for _ in range(2):  # the second run finds the same bytes there
        done = type_in("compress", pictures, "--codec", CODEC, "--quality", 20, "--out", file)
        assert done.exit_code == 2, done.output
        assert "cat/n.4.png: the content is not JPEG" in done.stderr
        assert "1 of 10 files refused" in done.stderr
        assert "cat/n.4.png" in (tmp_path / "codes.npz.quarantine.jsonl").read_text()
    rate = 8 * file.stat().st_size / (9 * 24 * 32)
    assert f"{file}: codes of 9 pictures, " in done.stdout
    assert f"{rate:.3f} bits per pixel" in done.stdout
    assert "skipped 1: .txt file 1" in done.stdout
    with np.load(file, allow_pickle=False) as arrays:
        assert sorted(arrays["keys"]) == [f"cat/n.{n}" for n in (0, 2, 6, 8)] + [
            f"dog/n.{n}" for n in (1, 3, 5, 7, 9)
        ]
    done = type_in("decompress", file, "--weights", WEIGHTS, "--out", out)
    assert done.exit_code == 0, done.output
    assert "9 pictures, " in done.stdout
    codec = build_codec(CODEC)
    for number in (0, 1, 9):
        image = natural_like(24, 32, seed=number)
        made = np.asarray(PIL.Image.open(out / ("cat", "dog")[number % 2] / f"n.{number}.png"))
        assert np.array_equal(made, codec.decode(codec.encode(image, 20)))
    (out / "dog" / "n.3.png").unlink()
    assert decompress_codes(file, out, BACK).num_made == 1


def test_gray_pictures_stay_gray(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    gray = np.repeat(natural_like(24, 32, seed=3)[..., :1], 3, axis=2)
    PIL.Image.fromarray(gray).save(tmp_path / "in" / "gray.png")
    compress_to_codes(tmp_path / "in", tmp_path / "codes.npz", CompressSettings(CODEC, 20))
    assert [image.gray for image in CodeArrays.read(tmp_path / "codes.npz")] == [True]
    decompress_codes(tmp_path / "codes.npz", tmp_path / "out", BACK)
    codec = build_codec(CODEC)
    made = np.asarray(PIL.Image.open(tmp_path / "out" / "gray.png"))
    assert np.array_equal(made, codec.decode(codec.encode(gray, 20)))
    assert np.ptp(made, axis=2).max() == 0


def test_bytes_do_not_depend_on_the_workers(pictures: Path, tmp_path: Path) -> None:
    for workers in (1, 9):
        compress_to_codes(
            pictures, tmp_path / f"{workers}.npz", CompressSettings(CODEC, 7), engine=LocalEngine(workers)
        )
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "9.npz").read_bytes()


def test_mistakes(pictures: Path, tmp_path: Path) -> None:
    file = tmp_path / "codes.npz"
    for codec in ("jpeg", f"autoencoder-bpp:weights={WEIGHTS}"):
        with pytest.raises(SettingsError, match="has no codes to write as arrays"):
            compress_to_codes(pictures, file, CompressSettings(codec, 20))
    file.write_bytes(b"mine")
    with pytest.raises(SettingsError, match="is there and holds something else"):
        compress_to_codes(pictures, file, CompressSettings(CODEC, 20))
    assert file.read_bytes() == b"mine"
    with pytest.raises(DataError, match=r"codes\.npz: "):
        decompress_codes(file, tmp_path / "out", BACK)
    with pytest.raises(SettingsError, match="give the weights that made the codes with --weights FILE"):
        decompress_codes(file, tmp_path / "out", DecompressSettings())
    done = type_in("decompress", tmp_path / "absent.npz", "--weights", WEIGHTS, "--out", tmp_path / "out")
    assert (done.exit_code, done.stderr) == (2, f"Error: {tmp_path / 'absent.npz'}: no such file or folder\n")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").touch()
    with pytest.raises(DataError, match="none of 1 pictures can be read; reasons: "):
        compress_to_codes(tmp_path / "bad", tmp_path / "none.npz", CompressSettings(CODEC, 20))
    assert not (tmp_path / "none.npz").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "key", ["../up", "/etc/it", "", "a/../../b", "a//b", "a/.", "a\nb", "a\0b", "\ud800", "a\udc80", "\u2028"]
)
def test_keys_are_lines_of_text_that_never_lead_out_of_the_folder(tmp_path: Path, key: str) -> None:
    codec = build_codec(CODEC)
    assert isinstance(codec, BinaryCodes)
    arrays = CodeArrays.begin(codec, 5)
    for name in ("good", key):
        arrays.add(CodedImage.of(name, codec.codes(natural_like(8, 8), 5), 8, 8))
    arrays.write(tmp_path / "codes.npz")
    done = type_in("decompress", tmp_path / "codes.npz", "--weights", WEIGHTS, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert done.stderr.endswith(f"codes.npz: {key!a} is no path below a folder\n")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["codes.npz"]


def test_a_name_that_is_no_line_of_text_is_refused_as_a_key(tmp_path: Path) -> None:
    for name in ("a\nb", os.fsdecode(b"latin\xe9"), "family \U0001f468\u200d\U0001f469"):
        photo(tmp_path / "in" / f"{name}.png")
    result = compress_to_codes(tmp_path / "in", tmp_path / "codes.npz", CompressSettings(CODEC, 5))
    assert len(result.refused) == 2
    assert all("nor be a key: rename it" in one.reason for one in result.refused)
    assert decompress_codes(tmp_path / "codes.npz", tmp_path / "out", BACK).num_made == 1


def test_a_key_that_is_the_folder_of_another(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png/b.jpg"):
        photo(tmp_path / "in" / name)
    compress_to_codes(tmp_path / "in", tmp_path / "codes.npz", CompressSettings(CODEC, 5))
    with pytest.raises(DataError, match=r"the name of a folder: a and a\.png/; rename"):
        decompress_codes(tmp_path / "codes.npz", tmp_path / "out", BACK)
    assert not (tmp_path / "out").exists()
    assert (
        len(
            decompress_codes(tmp_path / "codes.npz", tmp_path / "out", DecompressSettings("tiff", WEIGHTS)).rows
        )
        == 2
    )


class Refuses:
    """An engine that must not be asked."""

    works_here = True

    def map(self, work: Any, items: Any, advance: Any) -> Generator[Any, None, None]:
        raise AssertionError("work was begun")
        yield


def test_what_is_there_is_looked_at_before_the_work(tmp_path: Path) -> None:
    raw, file, quarantine = tmp_path / "in", tmp_path / "codes.npz", tmp_path / "codes.npz.quarantine.jsonl"
    photo(raw / "a.png")
    photo(raw / "b.png").write_text("not a picture")
    twenty = CompressSettings(CODEC, 20)
    compress_to_codes(raw, file, twenty)
    before = file.read_bytes()
    with pytest.raises(SettingsError, match=r"holds something else \(other quality\): choose another file"):
        compress_to_codes(raw, file, CompressSettings(CODEC, 21), engine=Refuses())
    compress_to_codes(raw, file, twenty)  # b.png was refused before: nothing differs
    photo(raw / "c.png", 3)
    with pytest.raises(SettingsError, match=r"\(other keys\)"):
        compress_to_codes(raw, file, twenty, engine=Refuses())
    (raw / "c.png").unlink()
    photo(raw / "a.png", 9)
    with pytest.raises(SettingsError, match=r"\(other pictures\)"):
        compress_to_codes(raw, file, twenty)
    assert file.read_bytes() == before
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(SettingsError, match="is a folder: choose another name"):
        compress_to_codes(raw, tmp_path / "folder.npz", twenty, engine=Refuses())
    with pytest.raises(SettingsError, match="is a file: choose another folder"):
        compress_to_codes(raw, file / "deep" / "codes.npz", twenty, engine=Refuses())
    assert quarantine.exists()
    file.unlink()
    (raw / "b.png").unlink()
    compress_to_codes(raw, file, twenty)
    assert not quarantine.exists(), "the list of an earlier run"


def test_no_psnr_is_measured_of_arrays(pictures: Path, tmp_path: Path) -> None:
    words = ("--codec", CODEC, "--quality", 20, "--measure")
    done = type_in("compress", pictures, *words, "--out", tmp_path / "codes.npz")
    assert (done.exit_code, "leave out --measure" in done.stderr) == (2, True)
    assert not (tmp_path / "codes.npz").exists()


def test_a_file_without_an_array_is_another_versions(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    compress_to_codes(tmp_path / "in", tmp_path / "codes.npz", CompressSettings(CODEC, 5))
    with np.load(tmp_path / "codes.npz") as arrays:
        members = {name: array for name, array in arrays.items() if name != "gray"}
    np.savez(tmp_path / "old.npz", **members)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"old\.npz: it has no 'gray': made by another version of limla"):
        decompress_codes(tmp_path / "old.npz", tmp_path / "out", BACK)


def test_damaged_files_of_codes_are_refused(pictures: Path, tmp_path: Path) -> None:
    compress_to_codes(pictures, tmp_path / "codes.npz", CompressSettings(CODEC, 20))
    data = (tmp_path / "codes.npz").read_bytes()
    generator = np.random.default_rng(1)
    refused: list[str] = []
    for number in range(40):
        mutated = bytearray(data)
        for _ in range(3):
            mutated[generator.integers(len(data))] = generator.integers(256)
        (tmp_path / "bad.npz").write_bytes(mutated[: len(data) // 2] if number % 4 == 0 else mutated)
        try:
            decompress_codes(tmp_path / "bad.npz", tmp_path / f"out{number}", BACK)
        except DataError as error:
            refused.append(str(error))
    assert len(refused) >= 10
    assert all("bad.npz: " in reason and "\n" not in reason for reason in refused)
    with np.load(io.BytesIO(data)) as arrays:
        members = dict(arrays)
    np.savez(tmp_path / "other.npz", **{**members, "weights": np.array("0" * 16)})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="name the weights that made them"):
        decompress_codes(tmp_path / "other.npz", tmp_path / "out", BACK)
