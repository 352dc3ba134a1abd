"""Photos to pack, and what a packed folder holds, for the suites of packing."""

from __future__ import annotations

import json
from pathlib import Path

import PIL.Image
from click.testing import CliRunner, Result

from limla.cli import limla
from limla.manifest import read_manifest
from limla.packing import PackResult, PackSettings
from limla.packing.discovery import discover
from limla.packing.planning import cut
from limla.packing.splitting import plan
from limla.shard_reader import Sample, ShardReader
from tests.conftest import natural_like


def photo(path: Path, seed: int = 0, quality: int = 90, **options: object) -> Path:
    """Write a picture of 24 × 32 pixels in the format of `path`'s name; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(natural_like(24, 32, seed=seed)).save(path, quality=quality, **options)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """File name → bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def samples(folder: Path) -> dict[str, tuple[str, Sample, bytes]]:
    """Key → (split, sample, image bytes)."""
    found: dict[str, tuple[str, Sample, bytes]] = {}
    for shard in read_manifest(folder).shards:
        with ShardReader(folder / shard.name) as reader:
            for sample in reader:
                assert sample.key not in found
                image = bytes(sample.image)
                sample.image.release()
                found[sample.key] = (shard.split, sample, image)
    return found


def quarantined(result: PackResult) -> dict[str, str]:
    """Path → reason, of what was not packed; every file found was either packed or is among them."""
    lines = result.quarantine.read_text(encoding="utf-8").splitlines()
    found = {entry["path"]: entry["reason"] for entry in map(json.loads, lines)}
    assert len(found) == len(lines) == result.quarantined
    assert result.packed + result.quarantined == result.found
    return found


def type_in(*words: object) -> Result:
    """`limla` with these words."""
    return CliRunner().invoke(limla, [str(word) for word in words])


def broken_photos(raw: Path) -> None:
    """40 photos of two classes; in a seed-0 packing by fives, damaged ones empty one shard and thin out others."""
    for number in range(40):
        photo(raw / ("cat", "dog")[number % 2] / f"{number}.jpg", number)
    planned, _ = plan(discover(raw), PackSettings())
    shards = cut(planned, ("cat", "dog"), PackSettings(max_shard_samples=5))
    assert [len(shard.photos) for shard in shards] == [5, 5, 5, 5, 5, 5, 2, 4, 4]
    for one in (*shards[2].photos, shards[4].photos[0], shards[5].photos[4]):
        path = raw / one.path
        path.write_bytes(b"no picture".ljust(path.stat().st_size))
