"""Loaders leave nothing behind: threads, open files, growing memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import torch

from limla.loaders.base import LoaderSettings, open_loader
from limla.types import Preprocessing
from tests.variants import member, write_variant

SETTINGS = LoaderSettings(preprocessing=Preprocessing(image_size=32), batch_size=3, num_threads=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = [[member(10 * shard + number, 50, 70) for number in range(8)] for shard in range(3)]
    return write_variant(tmp_path_factory.mktemp("data") / "source", {"test": shards}).folder


def held() -> tuple[int, int, int]:
    """Python threads, all threads, and open files of this process."""
    count = [len(list(Path(f"/proc/self/{what}").iterdir())) for what in ("task", "fd")]
    return threading.active_count(), count[0], count[1]


@pytest.mark.parametrize("name", ["cpu", "dali"])
def test_closing_frees_threads_and_files(name: str, folder: Path) -> None:
    def use() -> None:
        with closing(open_loader(name, [folder], "test", SETTINGS)) as loader:
            for _ in loader:
                break
            list(loader)

    use()  # what libraries keep for good
    gc.collect()
    before = held()
    for _ in range(3):
        use()
    gc.collect()
    assert held() == before


def test_an_abandoned_loader_ends_its_threads(folder: Path) -> None:
    before = threading.active_count()
    loader = open_loader("cpu", [folder], "test", SETTINGS)
    iterator = iter(loader)
    next(iterator)
    assert threading.active_count() == before + 2
    del iterator, loader
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith("limla-loader"):
            thread.join(timeout=5)
    assert threading.active_count() == before


@pytest.mark.parametrize("name", ["cpu", "dali"])
def test_batches_outlive_their_loader_and_a_closed_one_opens_again(name: str, folder: Path) -> None:
    loader = open_loader(name, [folder], "test", SETTINGS)
    first = list(loader)
    loader.close()
    second = list(loader)
    loader.close()
    gc.collect()
    assert all(torch.equal(one.images, two.images) for one, two in zip(first, second, strict=True))


_COUNT_THREADS = """
import os, sys
from pathlib import Path
import torch
from limla.loaders.base import LoaderSettings, open_loader
torch.set_num_threads(4)
before = len(os.listdir("/proc/self/task"))
loader = open_loader("cpu", [Path(sys.argv[1])], "test", LoaderSettings(num_threads=2, batch_size=8))
for _ in loader:
    pass
print(len(os.listdir("/proc/self/task")) - before, torch.get_num_threads())
loader.close()
"""


def test_loader_threads_start_no_threads_of_torch(folder: Path) -> None:
    """Their barriers made a resize of 0.3 ms take 7 ms on a busy machine."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNT_THREADS, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "4"]


def test_a_pass_uses_the_memory_of_three_batches(folder: Path) -> None:
    settings = LoaderSettings(preprocessing=Preprocessing(image_size=32), batch_size=4, num_threads=2)
    with closing(open_loader("cpu", [folder], "test", settings)) as loader:
        # on a busy machine a thread may hold a batch's memory for an instant after its task is done
        counts = [len({batch.images.data_ptr() for batch in loader}) for _ in range(5)]
        assert min(counts) <= 3 < len(loader)
        assert max(counts) < len(loader)
        kept = list(loader)
        assert len({batch.images.data_ptr() for batch in kept}) == len(loader)
