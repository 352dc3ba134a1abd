"""The manifest: what a folder holds, and whether it still does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limla import manifest
from limla.errors import DataError, SettingsError
from limla.manifest import (
    FILE_NAME,
    Manifest,
    check_settings,
    list_variants,
    parse_variant,
    read_manifest,
    variant_name,
    verify_shards,
)
from limla.shards import ShardEntry
from tests.variants import member, write_variant


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = [member(number, 8, 8) for number in range(4)]
    return write_variant(
        tmp_path / "source", {"train": [samples[:2], samples[2:3]], "test": [samples[3:]]}
    ).folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    manifest = Manifest(
        "things",
        "jpeg",
        10,
        ("ä", "b"),
        (ShardEntry("train-000000.tar", "train", 3, 2048, "ab"),),
        {"seed": 1},
        {"limla": "1"},
        {"found": 3},
    )
    manifest.write(tmp_path)
    first = (tmp_path / FILE_NAME).read_bytes()
    assert read_manifest(tmp_path) == manifest
    read_manifest(tmp_path).write(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == first


def test_counts_and_ids(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.num_samples(), manifest.num_samples("train"), manifest.num_samples("val")) == (4, 3, 0)
    assert manifest.splits() == ("train", "test")
    assert [shard.name for shard in manifest.of_split("train")] == ["train-000000.tar", "train-000001.tar"]
    assert manifest.data_id("train") != manifest.data_id("test")
    assert manifest.data_id("train") == read_manifest(folder).data_id("train")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"format": "other"}', '{"format": "limla-shards-1"}', "\x00"]
)
def test_what_is_no_manifest(folder: Path, text: str) -> None:
    (folder / FILE_NAME).write_text(text)
    with pytest.raises(DataError, match="not a limla manifest"):
        read_manifest(folder)


def test_a_store_that_does_not_answer_is_no_bad_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise DataError(f"{path}: the store cannot be reached")

    monkeypatch.setattr(manifest, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"the store cannot be reached$"):
        read_manifest(folder)


def test_a_manifest_of_another_shape(folder: Path) -> None:
    data = json.loads((folder / FILE_NAME).read_text())
    data["shards"][0]["color"] = 1
    (folder / FILE_NAME).write_text(json.dumps(data))
    with pytest.raises(DataError, match="color"):
        read_manifest(folder)


def test_what_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no such shard folder; there: source"):
        read_manifest(folder.parent / "jpeg-q10")
    with pytest.raises(DataError, match="limla pack"):
        read_manifest(folder.parent / "absent" / "source")
    (folder / FILE_NAME).unlink()
    with pytest.raises(DataError, match="unfinished"):
        read_manifest(folder)


def test_verification_finds_each_kind_of_damage(folder: Path) -> None:
    manifest = read_manifest(folder)
    verify_shards(folder, manifest, "train")
    path = folder / "train-000001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:-512])
    with pytest.raises(DataError, match=r"train-000001\.tar: \d+ bytes, but the manifest says"):
        verify_shards(folder, manifest, "train", contents=False)
    flipped = bytearray(whole)
    flipped[600] ^= 1
    path.write_bytes(flipped)
    verify_shards(folder, manifest, "train", contents=False)
    with pytest.raises(DataError, match=r"train-000001\.tar: altered"):
        verify_shards(folder, manifest, "train")
    verify_shards(folder, manifest, "test")
    path.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar: missing"):
        verify_shards(folder, manifest, "train", contents=False)


def test_variant_names(tmp_path: Path) -> None:
    assert variant_name("source", None) == "source"
    assert parse_variant(variant_name("jpeg", 10)) == ("jpeg", 10)
    assert parse_variant(variant_name("webp-bpp", 250)) == ("webp-bpp", 250)
    for name in ("jpeg", "jpeg-10", "jpeg-q", "JPEG-q1", "a--b-q1", "-q1", ""):
        with pytest.raises(SettingsError, match="not a variant folder"):
            parse_variant(name)
    for name in ("jpeg-q50", "source", "jpeg-q5", "jpeg-q10", "notes", "unfinished-q1"):
        (tmp_path / name).mkdir()
        if not name.startswith("unfinished"):
            (tmp_path / name / FILE_NAME).touch()
    assert list_variants(tmp_path) == ["source", "jpeg-q5", "jpeg-q10", "jpeg-q50"]
    assert list_variants(tmp_path / "absent") == []


def test_differing_settings_are_all_named(tmp_path: Path) -> None:
    check_settings(tmp_path, {"a": 1}, {"a": 1})
    with pytest.raises(SettingsError, match=r"a: 1 there, 2 asked for; b: None there, 3 asked for"):
        check_settings(tmp_path, {"a": 1, "c": 0}, {"a": 2, "b": 3, "c": 0})
