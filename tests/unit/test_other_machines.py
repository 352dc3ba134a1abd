"""Work that another machine does: paths that mean the same there, and a disk that is not shared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limla.engines.base import Share
from limla.errors import SettingsError
from limla.packing import PackSettings, pack
from limla.packing.shard import PackShard
from limla.reencoding import ReencodeSettings, reencode


class Elsewhere:
    """An engine whose tasks run in another working folder, on a machine with the disk `disk` in place of `shared`."""

    def __init__(self, cwd: Path, shared: Path | None = None, disk: Path | None = None) -> None:
        self._cwd = cwd
        self._shared = shared
        self._disk = disk

    def map(
        self, work: Any, items: Sequence[Any], advance: Callable[[int], None] = lambda n: None
    ) -> Generator[Any, None, None]:
        if self._shared and self._disk:
            name = "folder" if isinstance(work, PackShard) else "data_dir"
            work = replace(work, **{name: self._disk / getattr(work, name).relative_to(self._shared)})
        for item in items:
            with pytest.MonkeyPatch.context() as here:
                here.chdir(self._cwd)
                done = work(item, Share(advance))
            yield done


PACKING = PackSettings(max_shard_samples=5)
CODING = ReencodeSettings(qualities=(10, 50), measure="none")


def test_relative_folders_mean_those_of_the_command(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    engine = Elsewhere(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    pack(photo_folder, Path("pets"), PACKING, engine=engine)
    result = reencode(Path("pets"), CODING, engine=engine)
    assert len(result.made) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_disk_that_is_not_shared_is_one_line(photo_folder: Path, tmp_path: Path) -> None:
    shared, disk = tmp_path / "shared", tmp_path / "disk"
    engine = Elsewhere(tmp_path, shared, disk)
    with pytest.raises(
        SettingsError, match=r"every machine must see the folder .*/shared/pets/source under"
    ) as caught:
        pack(photo_folder, shared / "pets", PACKING, engine=engine)
    assert "s3://" in str(caught.value)
    assert len(list(disk.rglob("*.part.json"))) == 1, "the first one is enough to tell"
    pack(photo_folder, shared / "pets", PACKING)
    shutil.copytree(shared / "pets" / "source", disk / "pets" / "source", dirs_exist_ok=True)
    with pytest.raises(SettingsError, match=r"every machine must see the folder .*/shared/pets/jpeg-q10 under"):
        reencode(shared / "pets", CODING, engine=engine)
