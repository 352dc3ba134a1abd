"""A learned codec with its shards in an object store: its weights travel with them there, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limla.codecs.base import WEIGHTS
from limla.loaders.base import LoaderSettings, open_loader
from limla.paths import AnyPath
from limla.storage import exists, listing, read_bytes
from limla.types import Preprocessing
from tests.catalogue import codec_text
from tests.journey.stored import store, type_in
from tests.object_store import Store
from tests.variants import member, write_variant

__all__ = ["store"]  # fixture

TEXT = codec_text("autoencoder")
VARIANTS = ("autoencoder-q8", "autoencoder-q40")
CODING = ("--codec", TEXT, "--quality", "8,40", "--measure", "all")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset and its re-encodings in a local folder."""
    data_dir = tmp_path_factory.mktemp("learned") / "things"
    samples = [member(number, 40 + number, 50) for number in range(5)]
    write_variant(data_dir / "source", {"test": [samples[:3], samples[3:]]})
    _reencode(data_dir)
    return data_dir


@pytest.fixture(scope="module")
def remote(local: Path, store: Store) -> AnyPath:
    """The same originals in the store, re-encoded there."""
    data_dir = store.folder("things")
    for path in sorted((local / "source").iterdir()):
        (data_dir / "source" / path.name).write_bytes(path.read_bytes())
    _reencode(data_dir)
    return data_dir


def _reencode(data_dir: AnyPath) -> None:
    done = type_in("reencode", data_dir, *CODING)
    assert done.exit_code == 0, done.output


def test_the_store_holds_the_same_bytes(local: Path, remote: AnyPath) -> None:
    for variant in VARIANTS:
        names = listing(remote / variant)
        assert sorted(names) == sorted(path.name for path in (local / variant).iterdir())
        assert WEIGHTS in names
        for name in names:
            assert read_bytes(remote / variant / name) == (local / variant / name).read_bytes(), name


def test_the_loader_reads_the_same_pixels(local: Path, remote: AnyPath) -> None:
    settings = LoaderSettings(preprocessing=Preprocessing(image_size=32), batch_size=2)
    for variant in VARIANTS:
        loaders = [open_loader("cpu", [data_dir / variant], "test", settings) for data_dir in (local, remote)]
        batches = [list(loader) for loader in loaders]
        assert [len(found) for found in batches] == [3, 3]
        for one, other in zip(*batches, strict=True):
            assert one.keys == other.keys
            assert np.array_equal(one.images.numpy(), other.images.numpy())
        for loader in loaders:
            loader.close()


def test_altered_and_lost_weights_are_said_and_put_back(remote: AnyPath) -> None:
    path = remote / VARIANTS[0] / WEIGHTS
    whole = read_bytes(path)
    path.write_bytes(bytes([*whole[:600], whole[600] ^ 1, *whole[601:]]))
    done = type_in("verify", remote)
    assert done.exit_code == 2
    assert f"{path}: altered since it was made" in done.stderr
    assert "; run limla reencode again" in done.stderr
    _reencode(remote)
    assert read_bytes(path) == whole

    path.unlink()
    done = type_in("verify", remote, "--sizes-only")
    assert done.exit_code == 2
    assert f"{path}: missing" in done.stderr
    assert not exists(path)
    _reencode(remote)
    assert read_bytes(path) == whole
    done = type_in("verify", path.parent)
    assert done.exit_code == 0, done.output


def test_an_export_from_the_store_is_decompressed(remote: AnyPath, tmp_path: Path) -> None:
    done = type_in("export", remote, tmp_path / "loose", "--variants", VARIANTS[1])
    assert done.exit_code == 0, done.output
    done = type_in("decompress", tmp_path / "loose" / "q40", "--out", tmp_path / "back")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "back").rglob("*.png"))) == 5
