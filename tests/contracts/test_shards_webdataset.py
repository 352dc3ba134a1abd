"""Our tars are what the world's tools read: webdataset, Python's and GNU tar; the index is DALI's own."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from limla.manifest import read_manifest
from limla.packing import PackSettings, pack
from limla.shard_reader import ShardReader
from limla.shards import index_path


@pytest.fixture(scope="module")
def shards(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = pack(photo_folder, tmp_path_factory.mktemp("shards"), PackSettings(max_shard_samples=8)).folder
    return [folder / shard.name for shard in read_manifest(folder).shards]


def ours(path: Path) -> list[tuple[str, bytes, int]]:
    with ShardReader(path) as reader:
        return [
            (place.key, bytes(reader.member(number, place.extension)), reader.label(number))
            for number, place in enumerate(reader.locations)
        ]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_them(shards: list[Path]) -> None:
    import webdataset

    for path in shards:
        dataset = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False)
        found = [(one["__key__"], one["jpg"], int(one["cls"])) for one in dataset]
        assert found == ours(path)
        for sample in dataset:
            assert json.loads(sample["json"])["key"] == sample["__key__"]
    gc.collect()  # webdataset leaves its files to the collector: let it come while that is no error


def test_tarfile_reads_them(shards: list[Path]) -> None:
    for path in shards:
        with tarfile.open(path) as tar:
            members = {one.name: tar.extractfile(one) for one in tar}
            for key, image, label in ours(path):
                image_file, label_file = members[f"{key}.jpg"], members[f"{key}.cls"]
                assert image_file is not None
                assert label_file is not None
                assert image_file.read() == image
                assert int(label_file.read()) == label


@pytest.mark.skipif(shutil.which("tar") is None, reason="no tar on this machine")
def test_gnu_tar_reads_them(shards: list[Path], tmp_path: Path) -> None:
    for path in shards:
        done = subprocess.run(["tar", "-xf", str(path), "-C", str(tmp_path)], capture_output=True, check=True)
        assert done.stderr == b""
        for key, image, _ in ours(path):
            assert (tmp_path / f"{key}.jpg").read_bytes() == image


def test_the_index_is_byte_for_byte_that_of_wds2idx(shards: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    tool = Path(sys.executable).parent / "wds2idx"
    if not tool.exists():
        pytest.skip(f"DALI's wds2idx is not in {tool.parent}")
    for path in shards:
        theirs = tmp_path / f"{path.stem}.idx"
        subprocess.run([sys.executable, str(tool), str(path), str(theirs)], capture_output=True, check=True)
        assert index_path(path).read_bytes() == theirs.read_bytes()
