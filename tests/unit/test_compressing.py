"""limla compress: what becomes of a folder of pictures, and what is refused before anything is written."""

from __future__ import annotations

import csv
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms

from limla.codecs import build_codec
from limla.codecs.decoding import decode_image
from limla.compressing import CompressSettings, compress, decompress
from limla.errors import DataError, SettingsError, UnknownNameError
from limla.metrics import psnr_db, rate_bpp
from limla.trees import TreeResult
from tests.conftest import natural_like
from tests.listening import Listening
from tests.unit.photos import photo, type_in
from tests.unit.test_packing_odd_folders import awful

JPEG = CompressSettings("jpeg", 30)


def rows(folder: Path, command: str = "compress") -> dict[str, dict[str, str]]:
    """Source → row of the table in a folder of results."""
    text = (folder / f"limla-{command}.csv").read_text(encoding="utf-8", errors="surrogateescape")
    return {row["source"]: row for row in csv.DictReader(text.splitlines())}


def reasons(result: TreeResult) -> dict[str, str]:
    """Path → reason, as the quarantine list has them."""
    return {
        one["path"]: one["reason"]
        for one in map(json.loads, result.quarantine.read_text(encoding="utf-8").splitlines())
    }


def test_a_folder_becomes_the_same_tree_of_a_codecs_files(photo_folder: Path, tmp_path: Path) -> None:
    done = type_in("compress", photo_folder, "--quality", 30, "--out", tmp_path / "out", "--measure")
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "out")
    assert set(found) == {str(path.relative_to(photo_folder)) for path in photo_folder.rglob("*.jpg")}
    codec = build_codec("jpeg")
    rates: list[float] = []
    for source, row in found.items():
        image = decode_image((photo_folder / source).read_bytes(), "jpg")
        data = codec.encode(image, 30)
        assert (tmp_path / "out" / row["file"]).read_bytes() == data
        assert (int(row["height"]), int(row["width"])) == image.shape[:2]
        assert int(row["num_bytes"]) == len(data)
        rates.append(rate_bpp(len(data), *image.shape[:2]))
        assert float(row["rate_bpp"]) == rates[-1]
        assert float(row["psnr_db"]) == psnr_db(image, codec.decode(data))
    total = sum(path.stat().st_size for path in photo_folder.rglob("*.jpg"))
    manifest = json.loads((tmp_path / "out" / "limla-compress.json").read_text())
    assert manifest["complete"]
    assert manifest["summary"]["source_num_bytes"] == total
    assert manifest["summary"]["mean_rate_bpp"] == pytest.approx(np.mean(rates))
    assert f"24 pictures, {total / 1e3:.1f} kB → " in done.stdout
    assert f"{np.mean(rates):.3f} bits per pixel" in done.stdout
    assert "24 made now, 0 were there" in done.stdout


@pytest.mark.parametrize(
    ("codec", "quality"),
    [("webp", 40), ("png", 100), ("svd", 30), ("jpeg:subsampling=444", 60), ("webp-bpp", 900)],
)
def test_there_and_back(codec: str, quality: int, tmp_path: Path) -> None:
    pictures = {f"{number}/a.{number}.png": natural_like(20 + number, 33, seed=number) for number in range(3)}
    for name, image in pictures.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        PIL.Image.fromarray(image).save(tmp_path / "in" / name)
    compress(tmp_path / "in", tmp_path / "out", CompressSettings(codec, quality))
    decompress(tmp_path / "out", tmp_path / "back")
    plug = build_codec(codec)
    for name, image in pictures.items():
        data = (tmp_path / "out" / name).with_suffix(f".{plug.extension}").read_bytes()
        assert data == plug.encode(image, quality)
        assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "back" / name)), plug.decode(data))


def test_one_picture_at_a_rate(tmp_path: Path) -> None:
    PIL.Image.fromarray(natural_like(90, 120)).save(tmp_path / "a.b.png")
    done = type_in("compress", tmp_path / "a.b.png", "--codec", "webp", "--bpp", 0.5, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "a.b.webp").read_bytes() == build_codec("webp-bpp").encode(
        natural_like(90, 120), 500
    )
    assert "1 pictures" in done.stdout


def test_rates_that_no_quality_comes_near_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        PIL.Image.fromarray(natural_like(90, 120, seed=number)).save(tmp_path / "in" / f"{number}.png")
    PIL.Image.fromarray(np.full((90, 120, 3), 7, np.uint8)).save(tmp_path / "in" / "flat.png")
    for codec, bpp, said in (
        ("png", 0.25, ", 3 of them not within 10% of 0.25;"),
        ("webp", 1.5, ", 1 of them not"),
    ):
        done = type_in("compress", tmp_path / "in", "--codec", codec, "--bpp", bpp, "--out", tmp_path / codec)
        assert done.exit_code == 0, done.output
        assert said in done.stdout
        found = json.loads((tmp_path / codec / "limla-compress.json").read_text())["summary"]
        rates = [float(row["rate_bpp"]) for row in rows(tmp_path / codec).values()]
        assert found["off_target"] == sum(abs(rate - bpp) > 0.1 * bpp for rate in rates)
    (tmp_path / "in" / "flat.png").unlink()
    done = type_in("compress", tmp_path / "in", "--codec", "webp", "--bpp", 1.5, "--out", tmp_path / "near")
    assert "not within" not in done.stdout


def test_a_lossless_codec_needs_no_quality(tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.bmp", 3)
    done = type_in("compress", tmp_path / "in", "--codec", "png", "--out", tmp_path / "out", "--measure")
    assert done.exit_code == 0, done.output
    assert np.array_equal(
        decode_image((tmp_path / "out" / "a.png").read_bytes(), "png"), natural_like(24, 32, 3)
    )
    assert rows(tmp_path / "out")["a.bmp"]["psnr_db"] == "inf"


def test_pictures_become_upright_srgb_first(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    photo(tmp_path / "in" / "turned.jpg", exif=exif)
    PIL.Image.fromarray(natural_like(10, 12)).convert("L").save(tmp_path / "in" / "gray.tif")
    compress(tmp_path / "in", tmp_path / "out", CompressSettings("png", 100))
    found = rows(tmp_path / "out")
    assert (found["turned.jpg"]["height"], found["turned.jpg"]["width"]) == ("32", "24")
    gray = decode_image((tmp_path / "out" / "gray.png").read_bytes(), "png")
    assert np.array_equal(gray[..., 0], gray[..., 2])


def huge_header(path: Path) -> None:
    """A PNG that says it has 60000 × 60000 pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    ends = [
        struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (body, b"IEND")
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(ends))


def test_an_awful_folder(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    wrong = awful(raw)
    with pytest.raises(DataError, match=r"would have one name: cat/same.jpg and cat/same.png; rename"):
        compress(raw, out, JPEG)
    assert not out.exists()
    (raw / "cat" / "same.png").rename(raw / "cat" / "other.png")
    huge_header(raw / "cat" / "bomb.png")
    wrong = {**wrong, "cat/bomb.png": "pixels"}
    del wrong["stray.png"]  # it has its place here
    done = type_in("compress", raw, "--quality", 30, "--out", out)
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"Error: {len(wrong)} of 31 files refused, the others are done"
    )
    assert "skipped 7: .txt file 1, folder reached again by a link 4, hidden or system file 1" in done.stdout
    said = Listening()
    again = compress(raw, out, JPEG, said)
    found = reasons(again)
    assert found.keys() == wrong.keys()
    for path, word in wrong.items():
        assert word in found[path], path
        assert any(line.startswith(f"{path}: ") and word in line for line in said.lines)
    assert again.num_made == 0
    assert len(again.rows) == 31 - len(wrong)
    made = {os.fsencode(path.name) for path in (out / "cat").iterdir()}
    assert {"żółw 🐢.jpg".encode(), b"new\nline.jpg", b"latin\xe9.jpg", b"v1.2.final.jpg"} <= made
    assert (out / "cat" / ("long" * 50 + ".jpg")).exists()
    assert not any(name.endswith(b"limla-tmp") for name in made)


def test_a_name_too_long_for_the_new_extension_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "in" / ("n" * 251 + ".png"))
    photo(tmp_path / "in" / ("m" * 250 + ".png"))
    result = compress(tmp_path / "in", tmp_path / "out", CompressSettings("svd", 30))
    assert [one.path[0] for one in result.refused] == ["n"]
    assert "file name too long" in result.refused[0].reason
    assert (tmp_path / "out" / ("m" * 250 + ".laff")).exists()


def test_nothing_to_compress(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="no such folder or file"):
        compress(tmp_path / "absent", out, JPEG)
    raw = tmp_path / "raw"
    raw.mkdir()
    with pytest.raises(DataError, match="no pictures there; pictures are"):
        compress(raw, out, JPEG)
    (raw / "notes.txt").touch()
    with pytest.raises(DataError, match="no pictures there among 1 other entries"):
        compress(raw, out, JPEG)
    with pytest.raises(DataError, match="not one of the pictures"):
        compress(raw / "notes.txt", out, JPEG)
    os.mkfifo(raw / "pipe.png")
    with pytest.raises(DataError, match="neither a folder nor a file"):
        compress(raw / "pipe.png", out, JPEG)
    assert not out.exists()
    result = compress(raw, out, JPEG)
    assert (result.rows, reasons(result)) == ((), {"pipe.png": "not a regular file"})
    with pytest.raises(DataError, match="1 of 1 files refused"):
        result.check_whole()


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "raw" / "cat" / "a.png")
    (tmp_path / "raw" / "locked").mkdir()
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # tests may run as root, whom no mode stops
    with pytest.raises(DataError, match="cannot read the folder locked: permission denied"):
        compress(tmp_path / "raw", tmp_path / "out", JPEG)


def test_folders_that_cannot_take_the_results(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    photo(raw / "cat" / "a.png")
    with pytest.raises(SettingsError, match="lies inside"):
        compress(raw, raw / "out", JPEG)
    with pytest.raises(SettingsError, match="lies inside"):
        compress(raw / "cat", raw, JPEG)
    with pytest.raises(SettingsError, match="lies in"):
        compress(raw / "cat" / "a.png", raw / "cat", JPEG)
    with pytest.raises(SettingsError, match="is a file"):
        compress(raw, raw / "cat" / "a.png", JPEG)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("precious")
    with pytest.raises(SettingsError, match=r"not empty \(mine.txt …\) and not made by limla compress"):
        compress(raw, other, JPEG)
    assert [path.name for path in other.iterdir()] == ["mine.txt"]


def test_mistakes_in_the_options(tmp_path: Path) -> None:
    photo(tmp_path / "raw" / "a.png")
    for words, message in {
        (): "give one of --quality and --bpp",
        ("--quality", 10, "--bpp", 1): "give one of --quality and --bpp",
        ("--quality", 101): "quality 101 is out of range: choose 1 to 100",
        ("--bpp", 0): "choose 0.001 to 24",
        ("--bpp", "nan"): "choose 0.001 to 24",
        ("--codec", "jepg", "--quality", 10): "unknown codec 'jepg'",
        ("--codec", "jpeg:subsampling=411", "--quality", 10): "411",
        ("--codec", "jpeg-bpp", "--bpp", 1): "write 'jpeg' beside it",
        ("--quality", 10, "--engine", "slurm"): "unknown engine",
    }.items():
        done = type_in("compress", tmp_path / "raw", "--out", tmp_path / "out", *words)
        assert done.exit_code == 2, words
        assert message in done.stderr, words
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()
    with pytest.raises(UnknownNameError):
        CompressSettings.at_rate("gif", 1.0)


def test_a_colour_profile_is_applied_since_the_files_carry_none(tmp_path: Path) -> None:
    # red and blue exchanged: swap the names of the two colorant tags inside the profile
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmp.").replace(b"bXYZ", b"rXYZ").replace(b"tmp.", b"bXYZ")
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    (tmp_path / "in").mkdir()
    PIL.Image.fromarray(red).save(tmp_path / "in" / "a.png", icc_profile=swapped)
    compress(tmp_path / "in", tmp_path / "out", CompressSettings("png", 100))
    made = decode_image((tmp_path / "out" / "a.png").read_bytes(), "png")
    assert (made[..., 2] > made[..., 0]).all()
