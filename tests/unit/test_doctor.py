"""`limla doctor`: what agrees, and a decoder, an encoder or a package that is not what it was, in a line each."""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import simplejpeg
from click.testing import CliRunner

from limla.cli.doctor import doctor
from limla.codecs.jpeg import JpegCodec, decode_jpeg
from limla.doctor import Finding, decoders, encoders, versions
from limla.doctor.decoders import decoder_findings
from limla.doctor.encoders import encoder_findings
from limla.doctor.records import GOLDEN, golden_files, pixels_of
from limla.doctor.versions import codec_findings, machine_findings
from limla.errors import DataError, MissingDependencyError
from limla.registry import CODECS
from tests.golden.pictures import KINDS, write_pictures


def by_topic(findings: Any) -> dict[str, Finding]:
    return {finding.topic: finding for finding in findings}


def test_all_agrees_here() -> None:
    """As the whole suite takes for granted: the installed libraries are those that made the record."""
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    for words in (
        "limla ",
        "torch ",
        "DALI ",
        "simplejpeg ",
        "Pillow ",
        "cores ",
        "disk ",
        "codec jpeg ",
        "decoder simplejpeg equal on 8 golden images",
        "decoder pillow ",
        "decoder dali-cpu ",
        "decoder dali-gpu ",
        "encoder jpeg ",
    ):
        assert sum(line.startswith(words) for line in lines) == 1, words
    assert lines[-1] == "all comparisons agree"


def test_the_golden_pictures_are_of_every_kind_and_small() -> None:
    assert {path.stem for path in golden_files()} == set(KINDS)
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 64 << 10
    found: dict[str, Any] = {}
    for path in golden_files():
        with PIL.Image.open(path) as picture:
            found[path.stem] = (
                picture.mode,
                picture.size,
                bool(picture.info.get("progressive")),
                picture.getexif().get(0x0112),
            )
    assert found["gray"] == ("L", (64, 48), False, None)
    assert found["odd"] == ("RGB", (47, 33), False, None)
    assert found["progressive"] == ("RGB", (64, 48), True, None)
    assert found["exif"] == ("RGB", (64, 48), False, 6)
    subsamplings = {path.stem: simplejpeg.decode_jpeg_header(path.read_bytes())[3] for path in golden_files()}
    assert (subsamplings["420"], subsamplings["422"], subsamplings["444"]) == ("420", "422", "444")


def test_the_tool_writes_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels, and the hashes of the same versions; the JPEGs themselves may come out otherwise with another Pillow."""
    from tests.golden import pictures

    monkeypatch.setattr(pictures, "SOURCE", tmp_path / "source.png")
    monkeypatch.setattr(pictures, "RECORDED", tmp_path / "recorded.json")
    write_pictures(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in GOLDEN.iterdir()}
    made, recorded = (
        json.loads((folder / "recorded.json").read_text(encoding="utf-8")) for folder in (tmp_path, GOLDEN)
    )
    assert list(made) == list(recorded)
    assert made["jpeg"] == recorded["jpeg"]
    for name, codec in made.items():
        assert codec["version"] != recorded[name]["version"] or codec == recorded[name], name
    for path in golden_files():
        assert np.array_equal(pixels_of(tmp_path / path.name), pixels_of(path))


def changed(decode: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *args, **options: change(decode(*args, **options))


def brighter_corner(pixels: np.ndarray) -> np.ndarray:
    """One value of the image is 5 away."""
    other = pixels.copy()
    other[0, 0, 0] += 5 if other[0, 0, 0] < 250 else -5
    return other


def test_a_decoder_of_other_pixels_is_told_with_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simplejpeg, "decode_jpeg", changed(simplejpeg.decode_jpeg, brighter_corner))
    found = by_topic(decoder_findings())
    broken = found["decoder simplejpeg"]
    assert broken.differs
    assert broken.text.startswith("differs on 8 of 8 golden images (420, 422, 444, exif, ")
    # 8 values of 7 · 48 · 64 · 3 + 33 · 47 · 3
    assert broken.text.endswith("max |Δ| 5 of 255, in 0.012% of their values")
    assert not found["decoder pillow"].differs
    assert not found["decoder dali-cpu"].differs
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 1
    assert "1 comparison differs: numbers made here may not be those made elsewhere" in result.output


def test_a_decoder_that_turns_pictures_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PIL.Image.open

    def turning(file: Any, **options: Any) -> Any:
        from PIL import ImageOps

        picture = original(file, **options)
        return ImageOps.exif_transpose(picture) if isinstance(file, io.BytesIO) else picture

    monkeypatch.setattr(PIL.Image, "open", turning)
    broken = by_topic(decoder_findings())["decoder pillow"]
    assert (broken.differs, broken.text) == (True, "differs: another shape, or turned, on exif")


def test_a_decoder_that_refuses_is_told_and_one_that_is_missing_differs_from_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: Any) -> Any:
        raise DataError("not a decodable JPEG: arithmetic coding")

    def missing(*args: Any) -> Any:
        raise MissingDependencyError("loader 'dali' needs 'nvidia.dali', which is not installed: pip install …")

    monkeypatch.setattr(decoders, "decode_image", refuse)
    monkeypatch.setattr(decoders, "_by_dali", missing)
    found = by_topic(decoder_findings())
    assert found["decoder simplejpeg"].differs
    assert "does not decode what it should (not a decodable JPEG" in found["decoder simplejpeg"].text
    assert not found["decoder dali-cpu"].differs
    assert "not installed" in found["decoder dali-cpu"].text


def test_a_tolerance_is_for_the_decoder_that_has_one() -> None:
    def within(files: list[Path]) -> list[Any]:
        return [brighter_corner(pixels_of(path)) for path in files]

    fine = decoders._compared("dali-gpu", within, decoders.GPU_MEAN, decoders.GPU_MAX)
    assert (fine.differs, fine.text) == (False, "within its tolerance (max |Δ| 5 of 255) on 8 golden images")

    def far(files: list[Path]) -> list[Any]:
        return [pixels_of(path) ^ np.uint8(64) for path in files]

    assert decoders._compared("dali-gpu", far, decoders.GPU_MEAN, decoders.GPU_MAX).differs

    def everywhere(files: list[Path]) -> list[Any]:
        return [pixels_of(path) ^ np.uint8(4) for path in files]

    assert decoders._compared("dali-gpu", everywhere, decoders.GPU_MEAN, decoders.GPU_MAX).differs


def test_the_gpus_tolerance_holds_another_way_to_decode_and_no_more() -> None:
    """libjpeg-turbo's fast DCT and repeated chroma stand for a GPU: it must pass, and be told from the accurate one."""

    def fast(files: list[Path]) -> list[Any]:
        return [decode_jpeg(path.read_bytes(), fast=True) for path in files]

    assert not decoders._compared("dali-gpu", fast, decoders.GPU_MEAN, decoders.GPU_MAX).differs
    assert decoders._compared("dali-cpu", fast).differs


def test_an_encoder_of_other_bytes_is_told_with_where(monkeypatch: pytest.MonkeyPatch) -> None:
    original = simplejpeg.encode_jpeg

    def other(image: Any, quality: int, **options: Any) -> bytes:
        return original(image, quality=quality - 1 if quality > 60 else quality, **options)

    monkeypatch.setattr(simplejpeg, "encode_jpeg", other)
    broken = by_topic(encoder_findings())["encoder jpeg"]
    assert broken.differs
    assert "other bytes than simplejpeg" in broken.text
    assert "at quality 75, 100; here simplejpeg" in broken.text
    assert "not comparable bit by bit" in broken.text
    assert CliRunner().invoke(doctor).exit_code == 1


def test_other_settings_and_unrecorded_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JpegCodec, "settings", lambda codec: {"subsampling": "444"})
    assert "other settings than simplejpeg" in by_topic(encoder_findings())["encoder jpeg"].text
    monkeypatch.setattr(encoders, "recorded_bitstreams", dict)
    found = by_topic(encoder_findings())["encoder jpeg"]
    assert (found.differs, "no bytes are recorded" in found.text) == (False, True)


def test_a_codec_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS.plugs, "avif", "a_package_that_is_not_there:AvifCodec")
    monkeypatch.setitem(CODECS.extras, "avif", "avif")
    found = by_topic(codec_findings())
    assert found["codec avif"].text.endswith("pip install 'limla[avif]'")
    assert not found["codec avif"].differs
    assert found["codec jpeg"].text == f"available ({JpegCodec().version()})"
    assert "encoder avif" not in by_topic(encoder_findings())


def test_versions_are_those_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_topic(machine_findings(tmp_path))
    simple, turbo = found["simplejpeg"].text.split(", ")
    assert simple == importlib.metadata.version("simplejpeg")
    assert turbo.startswith("libjpeg")
    assert f"kornia {importlib.metadata.version('kornia')}" in found["libraries"].text
    assert not any(finding.differs for finding in found.values())
    # a library that hides its version, and one that is not installed
    assert versions._turbo_in("json") == ""
    assert versions._turbo_in("no_such_module") == ""
    assert versions._with_turbo("1.0", "") == "1.0, libjpeg of unknown version"
    monkeypatch.setattr(versions, "_of", lambda name: "")
    assert by_topic(machine_findings(tmp_path))["DALI"].text.startswith("not installed: pip install")
