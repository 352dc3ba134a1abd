"""Two runs of one command on one folder of a store, which has no locks: neither spoils the other's work."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from limla.engines.base import Item, Result, Share
from limla.manifest import list_variants, read_manifest, verify_shards
from limla.packing import PackSettings, pack
from limla.packing import shard as packing_shard
from limla.paths import AnyPath, open_folder
from limla.reencoding import ReencodeSettings, reencode
from limla.reencoding import shard as reencoding_shard
from limla.storage import listing, read_bytes

PACKING = PackSettings(train=0.5, val=0.25, test=0.25, max_shard_bytes=20_000)
REENCODING = ReencodeSettings(qualities=(10, 50), measure=5)
_numbers = itertools.count()


class OneByOne:
    """An engine in this thread, which stops before the item number `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at = stop_at

    def map(
        self,
        work: Callable[[Item, Share], Result],
        items: Sequence[Item],
        advance: Callable[[int], None] = lambda n: None,
    ) -> Generator[Result, None, None]:
        for number, item in enumerate(items):
            if number == self.stop_at:
                raise KeyboardInterrupt
            yield work(item, Share(advance))


@pytest.fixture
def data_dir() -> AnyPath:
    return open_folder(f"memory://two-runs-{next(_numbers)}/photos")


def before_the_part(module: Any, number: int, other: Callable[[], object], patch: pytest.MonkeyPatch) -> None:
    """Call `other` once, when a run has written a tar and its index and is about to say so in part `number`."""
    write_part, calls = module.write_part, itertools.count()

    def interrupted(*arguments: Any) -> None:
        if next(calls) == number:
            other()
        write_part(*arguments)

    patch.setattr(module, "write_part", interrupted)


def files(data_dir: AnyPath) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for variant in list_variants(data_dir):
        folder = data_dir / variant
        manifest = read_manifest(folder)
        for split in manifest.splits():
            verify_shards(folder, manifest, split)
        found |= {f"{variant}/{name}": read_bytes(folder / name) for name in listing(folder)}
    return found


@pytest.fixture(scope="module")
def expected(photo_folder: Path) -> dict[str, bytes]:
    """What one undisturbed run writes."""
    data_dir = open_folder(f"memory://two-runs-{next(_numbers)}/photos")
    pack(photo_folder, data_dir, PACKING, engine=OneByOne())
    reencode(data_dir, REENCODING, engine=OneByOne())
    return files(data_dir)


def test_a_run_that_starts_later_and_stops_takes_nothing_away(
    data_dir: AnyPath, photo_folder: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other() -> None:
        assert "train-000000.tar" in listing(data_dir / "source")
        with pytest.raises(KeyboardInterrupt):
            pack(photo_folder, data_dir, PACKING, engine=OneByOne(stop_at=0))

    before_the_part(packing_shard, 0, other, monkeypatch)
    pack(photo_folder, data_dir, PACKING, engine=OneByOne())
    assert files(data_dir) == {name: data for name, data in expected.items() if name.startswith("source/")}


@pytest.mark.parametrize("number", [0, 2])
def test_packing_accepts_what_another_run_finished(
    number: int,
    data_dir: AnyPath,
    photo_folder: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before_the_part(
        packing_shard, number, lambda: pack(photo_folder, data_dir, PACKING, engine=OneByOne()), monkeypatch
    )
    result = pack(photo_folder, data_dir, PACKING, engine=OneByOne())
    assert result.manifest == read_manifest(data_dir / "source")
    assert files(data_dir) == {name: data for name, data in expected.items() if name.startswith("source/")}


def test_a_manifest_that_came_after_the_first_look_stays(
    data_dir: AnyPath, photo_folder: Path, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run finishes between this one's look for a manifest and its clearing up; then this one stops."""
    from limla.packing.folder import PackFolder

    begin = PackFolder.begin

    def late(self: PackFolder, *arguments: Any) -> Any:
        monkeypatch.setattr(PackFolder, "begin", begin)
        pack(photo_folder, data_dir, PACKING, engine=OneByOne())
        return begin(self, *arguments)

    monkeypatch.setattr(PackFolder, "begin", late)
    with pytest.raises(KeyboardInterrupt):
        pack(photo_folder, data_dir, PACKING, engine=OneByOne(stop_at=0))
    found = files(data_dir)
    found.pop("source/settings.json")
    assert found == {name: data for name, data in expected.items() if name.startswith("source/")}


@pytest.mark.parametrize("number", [0, 3])
def test_reencoding_accepts_what_another_run_finished(
    number: int,
    data_dir: AnyPath,
    photo_folder: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pack(photo_folder, data_dir, PACKING, engine=OneByOne())
    # one quality after another, so that the other run comes between two of them
    monkeypatch.setattr(reencoding_shard, "in_parallel", map)
    before_the_part(
        reencoding_shard, number, lambda: reencode(data_dir, REENCODING, engine=OneByOne()), monkeypatch
    )
    reencode(data_dir, REENCODING, engine=OneByOne())
    assert files(data_dir) == expected


def test_a_part_that_is_lost_without_a_manifest_is_an_error(
    data_dir: AnyPath, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: Any) -> None:
        """Write no record."""

    monkeypatch.setattr(packing_shard, "write_part", lost)
    with pytest.raises(FileNotFoundError, match=r"part\.json"):
        pack(photo_folder, data_dir, PACKING, engine=OneByOne())
