"""What every loader must do: the same batches from the same shards, and an error for damaged ones."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limla.codecs.decoding import decode_image
from limla.codecs.jpeg import JpegCodec
from limla.errors import DataError, SettingsError, UnknownNameError
from limla.loaders.base import Loader, LoaderSettings, Reencoding, open_loader
from limla.registry import LOADERS
from limla.shards import index_path
from limla.types import Batch, Preprocessing
from tests.variants import CLASS_NAMES, Member, Variant, member, write_variant

SMALL = Preprocessing(image_size=28)
SETTINGS = LoaderSettings(preprocessing=SMALL, batch_size=4, num_threads=1)
EXTENSIONS = ("jpg", "png", "jpg", "bmp", "tif", "webp")

pytestmark = pytest.mark.parametrize("name", LOADERS.names())


def members(numbers: range, quality: int = 90) -> list[Member]:
    """Samples of uneven sizes in all formats."""
    return [
        member(number, 40 + 7 * (number % 5), 60 - 9 * (number % 4), EXTENSIONS[number % 6], quality)
        for number in numbers
    ]


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    """13 test samples in shards of 6, 1, 0 and 6; 11 training samples; no validation split."""
    folder = tmp_path_factory.mktemp("things") / "source"
    return write_variant(
        folder,
        {
            "test": [members(range(6)), members(range(6, 7)), [], members(range(7, 13))],
            "train": [members(range(20, 27)), members(range(27, 31))],
        },
    )


@pytest.fixture(scope="module")
def recoded(variant: Variant) -> Variant:
    """The same keys at another quality, sharded otherwise."""
    return write_variant(
        variant.folder.parent / "jpeg-q5",
        {"test": [members(range(13), 5)], "train": [members(range(20, 24), 5), members(range(24, 31), 5)]},
        "jpeg",
        5,
    )


@contextmanager
def opened(
    name: str, folders: Path | list[Path], split: str = "test", settings: LoaderSettings = SETTINGS
) -> Iterator[Loader]:
    """A loader that is closed in the end."""
    with closing(open_loader(name, [folders] if isinstance(folders, Path) else folders, split, settings)) as it:
        yield it


def load(name: str, folders: Path | list[Path], split: str = "test", **changes: object) -> list[Batch]:
    """All the batches of one pass."""
    with opened(name, folders, split, replace(SETTINGS, **changes)) as loader:
        batches = list(loader)
        assert len(batches) == len(loader)
        assert sum(len(batch.keys) for batch in batches) == loader.num_samples
        return batches


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def assert_equal(batches: list[Batch], others: list[Batch]) -> None:
    assert [batch.keys for batch in batches] == [batch.keys for batch in others]
    for batch, other in zip(batches, others, strict=True):
        assert torch.equal(batch.images, other.images)
        assert torch.equal(batch.labels, other.labels)


def test_evaluation_gives_each_sample_once_in_shard_order(name: str, variant: Variant) -> None:
    expected = variant.samples["test"]
    batches = load(name, variant.folder)
    assert keys(batches) == [sample.key for sample in expected]
    assert [len(batch.keys) for batch in batches] == [4, 4, 4, 1]
    labels = torch.cat([batch.labels for batch in batches])
    assert labels.tolist() == [int(sample.label) for sample in expected]


@pytest.mark.parametrize("batch_size", [1, 5, 13, 50])
def test_any_batch_size_gives_the_same_images(name: str, variant: Variant, batch_size: int) -> None:
    whole = torch.cat([batch.images for batch in load(name, variant.folder)])
    batches = load(name, variant.folder, batch_size=batch_size)
    assert max(len(batch.keys) for batch in batches) == min(batch_size, 13)
    assert torch.equal(torch.cat([batch.images for batch in batches]), whole)


def test_a_batch_is_as_the_contract_says(name: str, variant: Variant) -> None:
    with opened(name, variant.folder) as loader:
        assert loader.class_names == CLASS_NAMES
        assert loader.num_samples == 13
        assert loader.decoder
        for batch in loader:
            assert batch.images.shape == (len(batch.keys), 3, 28, 28)
            assert batch.images.dtype == torch.float32
            assert batch.images.is_contiguous()
            assert 0 <= batch.images.min() < 0.5 < batch.images.max() <= 1
            assert batch.labels.shape == (len(batch.keys),)
            assert batch.labels.dtype == torch.int64


def test_images_are_those_of_their_keys(name: str, variant: Variant, tmp_path: Path) -> None:
    """Alone in a shard, each sample gives the image it gave among the others."""
    among = {
        key: image
        for batch in load(name, variant.folder)
        for key, image in zip(batch.keys, batch.images, strict=True)
    }
    sample = variant.samples["test"][8]
    alone = load(name, write_variant(tmp_path / "source", {"test": [[sample]]}).folder)
    assert torch.equal(alone[0].images[0], among[sample.key])
    assert len({image.numpy().tobytes() for image in among.values()}) == 13


def test_two_passes_are_equal_and_batches_stay_valid(name: str, variant: Variant) -> None:
    with opened(name, variant.folder) as loader:
        first = list(loader)
        copies = [replace(batch, images=batch.images.clone()) for batch in first]
        second = list(loader)
    assert_equal(first, second)
    assert_equal(first, copies)


def test_a_pass_that_is_left_early_does_not_shift_the_next(name: str, variant: Variant) -> None:
    expected = load(name, variant.folder)
    with opened(name, variant.folder) as loader:
        for number in (0, 2):
            for position, _ in enumerate(loader):
                if position == number:
                    break
            gc.collect()
        assert_equal(list(loader), expected)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_evaluation_ranks_share_the_batches_of_one(name: str, variant: Variant, world_size: int) -> None:
    expected = load(name, variant.folder)
    of_ranks = [load(name, variant.folder, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [of_ranks[number % world_size][number // world_size] for number in range(len(expected))]
    assert sum(map(len, of_ranks)) == len(expected)
    assert_equal(together, expected)


def test_training_shuffles_by_seed_and_epoch(name: str, variant: Variant) -> None:
    def run(seed: int, epoch: int) -> list[Batch]:
        settings = replace(SETTINGS, training=True, seed=seed)
        with opened(name, variant.folder, "train", settings) as loader:
            loader.set_epoch(epoch)
            return list(loader)

    first = run(seed=3, epoch=1)
    assert_equal(first, run(seed=3, epoch=1))
    assert sorted(keys(first)) == sorted(sample.key for sample in variant.samples["train"])
    orders = [
        keys(first),
        keys(run(3, 2)),
        keys(run(4, 1)),
        [sample.key for sample in variant.samples["train"]],
    ]
    assert len({tuple(order) for order in orders}) == 4
    labels = {sample.key: int(sample.label) for sample in variant.samples["train"]}
    for batch in first:
        assert batch.labels.tolist() == [labels[key] for key in batch.keys]


def test_epochs_of_one_loader_are_those_of_fresh_ones(name: str, variant: Variant) -> None:
    settings = replace(SETTINGS, training=True, augment=True)
    with opened(name, variant.folder, "train", settings) as loader:
        loader.set_epoch(1)
        list(loader)
        loader.set_epoch(2)
        second = list(loader)
    with opened(name, variant.folder, "train", settings) as loader:
        loader.set_epoch(2)
        assert_equal(second, list(loader))


@pytest.mark.parametrize("world_size", [2, 4, 16])
def test_training_ranks_have_equal_counts_and_drop_nothing(
    name: str, variant: Variant, world_size: int
) -> None:
    of_ranks = [
        keys(load(name, variant.folder, "train", training=True, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    per_rank = -(-11 // world_size)
    assert [len(rank) for rank in of_ranks] == [per_rank] * world_size
    counts = Counter(key for rank in of_ranks for key in rank)
    assert len(counts) == 11
    assert max(counts.values()) - min(counts.values()) <= 1


def test_augmentation_changes_images_by_seed_and_epoch_only(name: str, variant: Variant) -> None:
    def run(epoch: int = 0, **changes: object) -> dict[str, bytes]:
        settings = replace(SETTINGS, training=True, **{"augment": True, **changes})
        with opened(name, variant.folder, "train", settings) as loader:
            loader.set_epoch(epoch)
            return {
                key: image.numpy().tobytes()
                for batch in loader
                for key, image in zip(batch.keys, batch.images, strict=True)
            }

    first, plain = run(), run(augment=False)
    assert run() == first
    assert run(num_threads=2) == first
    for other in (plain, run(epoch=1), run(seed=1)):
        assert all(other[key] != first[key] for key in first)


def test_reencoded_images_are_those_of_stored_shards(name: str, variant: Variant, tmp_path: Path) -> None:
    """The codec sees each image at its own size, before resize and augmentation, in training and evaluation."""
    codec = JpegCodec()
    stored = {
        split: [
            [
                replace(it, data=codec.encode(decode_image(it.data, it.extension), 7), extension="jpg")
                for it in samples
            ]
        ]
        for split, samples in variant.samples.items()
    }
    folder = write_variant(tmp_path / "jpeg-q7", stored, "jpeg", 7).folder
    for split, training in (("test", False), ("train", True)):
        # one shard and no order across shards: the reference loader shuffles by shard
        settings = replace(SETTINGS, training=training, augment=training)
        with opened(name, folder, split, settings) as loader:
            expected = images_by_key(loader)
        plain = replace(settings, reencoding=Reencoding("jpeg", (7,)))
        with opened(name, variant.folder, split, plain) as loader:
            found = images_by_key(loader)
        assert found.keys() == expected.keys()
        if name == "webdataset" and training:
            continue  # its crops are drawn by place in the stream, which other shards change
        assert found == expected


def test_qualities_are_drawn_by_key_epoch_and_seed_alone(name: str, variant: Variant) -> None:
    def run(epoch: int = 1, training: bool = True, **changes: object) -> dict[str, bytes]:
        settings = replace(SETTINGS, training=training, reencoding=Reencoding("jpeg", (None, 3, 9)), **changes)
        with opened(name, variant.folder, "train", settings) as loader:
            loader.set_epoch(epoch)
            return images_by_key(loader)

    first = run()
    assert run(num_threads=3) == first
    assert run(batch_size=5) == first
    halves = [run(rank=rank, world_size=2) for rank in (0, 1)]
    assert {**halves[0], **halves[1]} == first
    others = run(epoch=2), run(seed=1)
    assert all(0 < sum(other[key] != first[key] for key in first) < len(first) for other in others)
    measured = run(training=False)
    assert run(training=False, epoch=2, seed=1) == measured, "what is measured stays the same"


def images_by_key(loader: Loader) -> dict[str, bytes]:
    """The pixels of one pass."""
    return {
        key: image.numpy().tobytes()
        for batch in loader
        for key, image in zip(batch.keys, batch.images, strict=True)
    }


def test_a_mix_has_every_image_once_per_variant(name: str, variant: Variant, recoded: Variant) -> None:
    mix = load(name, [variant.folder, recoded.folder])
    apart = [load(name, folder, batch_size=13)[0] for folder in (variant.folder, recoded.folder)]
    assert keys(mix) == [*apart[0].keys, *apart[1].keys]
    images = torch.cat([batch.images for batch in mix])
    assert torch.equal(images, torch.cat([batch.images for batch in apart]))
    assert not torch.equal(images[0], images[13])
    shuffled = Counter(keys(load(name, [variant.folder, recoded.folder], "train", training=True)))
    assert set(shuffled.values()) == {2}
    assert len(shuffled) == 11


def test_a_mix_of_different_datasets_is_refused(name: str, variant: Variant, tmp_path: Path) -> None:
    other_keys = write_variant(tmp_path / "jpeg-q1", {"test": [members(range(1, 14))]}).folder
    with pytest.raises(DataError, match="different 'test' samples"):
        open_loader(name, [variant.folder, other_keys], "test", SETTINGS)
    other_classes = write_variant(tmp_path / "jpeg-q2", {"test": [members(range(13))]}, class_names=("a", "b"))
    with pytest.raises(DataError, match="different class names"):
        open_loader(name, [variant.folder, other_classes.folder], "test", SETTINGS)
    with pytest.raises(SettingsError, match="named twice"):
        open_loader(name, [variant.folder, variant.folder], "test", SETTINGS)
    with pytest.raises(SettingsError, match="at least one"):
        open_loader(name, [], "test", SETTINGS)


def test_an_empty_split_says_which_there_are(name: str, variant: Variant) -> None:
    with pytest.raises(DataError, match=r"'val'; splits with samples: train, test"):
        open_loader(name, [variant.folder], "val", SETTINGS)


def test_images_at_their_own_size(name: str, variant: Variant, tmp_path: Path) -> None:
    equal = [member(number, 20, 33) for number in range(5)]
    folder = write_variant(tmp_path / "source", {"test": [equal], "train": [equal]}).folder
    own = Preprocessing(resize="none")
    batches = load(name, folder, preprocessing=own, batch_size=3)
    assert [tuple(batch.images.shape) for batch in batches] == [(3, 3, 20, 33), (2, 3, 20, 33)]
    trained = load(name, folder, "train", preprocessing=own, training=True, augment=True)
    assert [tuple(batch.images.shape) for batch in trained] == [(4, 3, 20, 33), (1, 3, 20, 33)]

    with pytest.raises(DataError) as caught:
        load(name, variant.folder, preprocessing=own)
    assert "'group0/photo_000' is 60×40, 'group1/photo_001' is 51×47" in str(caught.value)


def _damage_truncate(tar: Path) -> None:
    tar.write_bytes(tar.read_bytes()[:-1536])


def _damage_flip(tar: Path) -> None:
    data = bytearray(tar.read_bytes())
    data[1000] ^= 1
    tar.write_bytes(data)


def _damage_index(tar: Path) -> None:
    path = index_path(tar)
    version, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"v1.2 {len(lines) - 1}", *lines[:-1]]) + "\n")
    assert version == f"v1.2 {len(lines)}"


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_damage_truncate, ".tar: "),
        (_damage_flip, "altered since"),
        (Path.unlink, ".tar: missing"),
        (lambda tar: index_path(tar).unlink(), ".idx: missing"),
        (_damage_index, ".idx: does not list"),
    ],
    ids=["truncated", "altered", "missing", "no-index", "short-index"],
)
def test_a_damaged_shard_is_named_before_the_first_batch(name: str, tmp_path: Path, damage, named: str) -> None:
    folder = write_variant(tmp_path / "source", {"test": [members(range(3)), members(range(3, 6))]}).folder
    damage(folder / "test-000001.tar")
    with pytest.raises(DataError, match="test-000001") as caught:
        open_loader(name, [folder], "test", SETTINGS)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [{}, {"training": True}, {"reencoding": Reencoding("jpeg", (5,))}],
    ids=["test", "train", "reencoded"],
)
@pytest.mark.parametrize("data", [b"no image", b"", b"\xff\xd8\xff\xe0" + bytes(300)])
def test_an_undecodable_image_is_named(name: str, tmp_path: Path, data: bytes, changes: dict[str, Any]) -> None:
    samples = members(range(9))
    samples[6] = replace(samples[6], data=data, extension="jpg")
    folder = write_variant(tmp_path / "source", {"test": [samples]}).folder
    with opened(name, folder, "test", replace(SETTINGS, batch_size=2, **changes)) as loader:
        with pytest.raises(DataError, match=r"test-000000\.tar.*'group0/photo_006'") as caught:
            list(loader)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [b"3", b"-1", b"bee", b""])
def test_a_label_out_of_range_is_named(name: str, tmp_path: Path, label: bytes) -> None:
    samples = members(range(5))
    samples[4] = replace(samples[4], label=label)
    folder = write_variant(tmp_path / "source", {"test": [samples]}).folder
    with opened(name, folder) as loader, pytest.raises(DataError, match="photo_004"):
        list(loader)


def test_unknown_names_and_devices(name: str, variant: Variant) -> None:
    with pytest.raises(UnknownNameError, match=name):
        open_loader(f"{name}x", [variant.folder], "test", SETTINGS)


def test_more_threads_change_nothing(name: str, variant: Variant) -> None:
    assert_equal(load(name, variant.folder, num_threads=3), load(name, variant.folder))


def test_metadata_matches(variant: Variant, name: str) -> None:
    """The key that travels in the json member is the one every loader gives."""
    from limla.shard_reader import ShardReader

    inside = []
    for number in (0, 1, 3):
        with ShardReader(variant.folder / f"test-{number:06d}.tar") as reader:
            inside += [json.loads(bytes(reader.member(i, "json")))["key"] for i in range(len(reader))]
    assert keys(load(name, variant.folder)) == inside
