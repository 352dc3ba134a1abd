"""What every simulation must do: each image once, in order, at every quality; and an error for damaged ones."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from limla.codecs import build_codec
from limla.codecs.base import Codec
from limla.codecs.jpeg import JpegCodec
from limla.errors import DataError, SettingsError, UnknownNameError
from limla.loaders.base import LoaderSettings, Reencoding, open_loader
from limla.loaders.simulation import Simulation, open_simulation
from limla.registry import SIMULATIONS
from limla.types import Batch, Preprocessing
from tests.variants import CLASS_NAMES, Member, Variant, member, write_variant

SETTINGS = LoaderSettings(preprocessing=Preprocessing(image_size=28), batch_size=4, num_threads=1)
QUALITIES = (None, 5, 90)
EXTENSIONS = ("jpg", "png", "jpg", "bmp", "tif", "webp")

pytestmark = pytest.mark.parametrize("name", SIMULATIONS.names())


def members(numbers: range) -> list[Member]:
    """Samples of uneven sizes in all formats."""
    return [
        member(number, 40 + 7 * (number % 5), 60 - 9 * (number % 4), EXTENSIONS[number % 6])
        for number in numbers
    ]


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    """13 test samples in shards of 6, 1, 0 and 6."""
    folder = tmp_path_factory.mktemp("things") / "source"
    return write_variant(folder, {"test": [members(range(6)), members(range(6, 7)), [], members(range(7, 13))]})


@contextmanager
def opened(
    name: str,
    folder: Path,
    qualities: Sequence[int | None] = QUALITIES,
    codec: Codec | None = None,
    **changes: object,
) -> Iterator[Simulation]:
    """A simulation that is closed in the end."""
    settings = replace(SETTINGS, **changes)
    with closing(open_simulation(name, folder, "test", settings, codec or JpegCodec(), qualities)) as it:
        yield it


def load(
    name: str, folder: Path, qualities: Sequence[int | None] = QUALITIES, **changes: object
) -> list[tuple[Batch, ...]]:
    """All the batches of one pass."""
    with opened(name, folder, qualities, **changes) as simulation:
        found = list(simulation)
        assert len(found) == len(simulation)
        assert sum(len(batches[0].keys) for batches in found) == simulation.num_samples
        return found


def assert_equal(found: Sequence[tuple[Batch, ...]], others: Sequence[tuple[Batch, ...]]) -> None:
    for batches, expected in zip(found, others, strict=True):
        for batch, other in zip(batches, expected, strict=True):
            assert batch.keys == other.keys
            assert torch.equal(batch.images, other.images)
            assert torch.equal(batch.labels, other.labels)


def test_every_image_comes_once_at_every_quality_in_shard_order(name: str, variant: Variant) -> None:
    expected = variant.samples["test"]
    with opened(name, variant.folder) as simulation:
        assert simulation.class_names == CLASS_NAMES
        assert simulation.qualities == QUALITIES
        found = list(simulation)
    assert [len(batches) for batches in found] == [3] * 4
    for stream in range(3):
        batches = [one[stream] for one in found]
        assert [key for batch in batches for key in batch.keys] == [sample.key for sample in expected]
        labels = torch.cat([batch.labels for batch in batches])
        assert labels.tolist() == [int(sample.label) for sample in expected]
        for batch in batches:
            assert batch.images.shape == (len(batch.keys), 3, 28, 28)
            assert batch.images.dtype == torch.float32
            assert batch.images.is_contiguous()
            assert 0 <= batch.images.min() < 0.5 < batch.images.max() <= 1


def test_the_originals_are_its_loaders(name: str, variant: Variant) -> None:
    """Stream None is what the loader of the same name gives, bit for bit, and the decoder is its."""
    with opened(name, variant.folder) as simulation:
        found = [(batches[0],) for batches in simulation]
        decoder = simulation.decoder
    with closing(open_loader(name, [variant.folder], "test", SETTINGS)) as loader:
        assert decoder == loader.decoder
        assert_equal(found, [(batch,) for batch in loader])


def test_lower_quality_is_further_from_the_original(name: str, variant: Variant) -> None:
    found = load(name, variant.folder, (None, 1, 10, 50, 95))
    errors = [
        float(np.mean([((batches[0].images - batches[stream].images) ** 2).mean() for batches in found]))
        for stream in range(1, 5)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[2] > 4 * errors[3] > 0


def test_a_quality_does_not_depend_on_the_others(name: str, variant: Variant) -> None:
    together = load(name, variant.folder, (5, None, 90, 50))
    for stream, quality in enumerate((5, None, 90, 50)):
        if quality is not None:
            alone = load(name, variant.folder, (quality,))
            assert_equal([(batches[stream],) for batches in together], alone)


def test_selected_qualities_are_those_of_a_fresh_one(name: str, variant: Variant) -> None:
    with opened(name, variant.folder) as simulation:
        first = next(iter(simulation))
        simulation.select((90,))
        assert_equal(list(simulation), load(name, variant.folder, (90,)))
        simulation.select(QUALITIES)
        again = list(simulation)
    assert_equal(again, load(name, variant.folder))
    assert_equal([first], again[:1])


def test_two_passes_are_equal_and_batches_stay_valid(name: str, variant: Variant) -> None:
    with opened(name, variant.folder) as simulation:
        first = list(simulation)
        copies = [tuple(replace(one, images=one.images.clone()) for one in batches) for batches in first]
        for position, _ in enumerate(simulation):  # one that is left early
            if position == 1:
                break
        gc.collect()
        assert_equal(first, list(simulation))
    assert_equal(first, copies)


@pytest.mark.parametrize("changes", [{"num_threads": 3}, {"batch_size": 5}, {"batch_size": 50}])
def test_threads_and_batch_size_change_nothing(name: str, variant: Variant, changes: dict[str, object]) -> None:
    expected, found = load(name, variant.folder), load(name, variant.folder, **changes)
    for stream in range(3):
        whole, other = (torch.cat([batches[stream].images for batches in some]) for some in (expected, found))
        assert torch.equal(whole, other)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_share_the_batches_of_one(name: str, variant: Variant, world_size: int) -> None:
    expected = load(name, variant.folder)
    of_ranks = [load(name, variant.folder, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [of_ranks[number % world_size][number // world_size] for number in range(len(expected))]
    assert sum(map(len, of_ranks)) == len(expected)
    assert_equal(together, expected)


@pytest.mark.parametrize("resize_shorter", [0, 28])
def test_the_codec_sees_the_image_at_its_own_size(name: str, variant: Variant, resize_shorter: int) -> None:
    """Resized first, or cropped first, the blocks would lie elsewhere."""
    preprocessing = Preprocessing(image_size=28, resize_shorter=resize_shorter)
    codec = JpegCodec()
    samples = [
        replace(sample, data=codec.encode(codec.decode(sample.data), 10))
        for sample in variant.samples["test"]
        if sample.extension == "jpg"
    ]
    recoded = write_variant(
        variant.folder.parent / f"jpeg-q{10 + resize_shorter}", {"test": [samples]}, "jpeg", 10
    )
    with closing(
        open_loader("cpu", [recoded.folder], "test", replace(SETTINGS, preprocessing=preprocessing))
    ) as loader:
        real = {key: image for batch in loader for key, image in zip(batch.keys, batch.images, strict=True)}
    simulated = {
        key: image
        for (batch,) in load(name, variant.folder, (10,), preprocessing=preprocessing)
        for key, image in zip(batch.keys, batch.images, strict=True)
    }
    assert len(real) == 5
    for key, image in real.items():
        error = (image - simulated[key]).square().mean().item()
        assert error == 0 if name == "cpu" else error < 0.003, key


def test_images_at_their_own_size(name: str, variant: Variant, tmp_path: Path) -> None:
    equal = [member(number, 20, 33) for number in range(5)]
    folder = write_variant(tmp_path / "source", {"test": [equal]}).folder
    own = Preprocessing(resize="none")
    found = load(name, folder, preprocessing=own, batch_size=3)
    assert [tuple(batch.images.shape) for batches in found for batch in batches] == [
        *[(3, 3, 20, 33)] * 3,
        *[(2, 3, 20, 33)] * 3,
    ]
    assert not torch.equal(found[0][0].images, found[0][1].images)
    with pytest.raises(DataError, match="'group0/photo_000' is 60×40, 'group1/photo_001' is 51×47"):
        load(name, variant.folder, preprocessing=own)


@pytest.mark.parametrize("data", [b"no image", b"", b"\xff\xd8\xff\xe0" + bytes(300)])
def test_an_undecodable_image_is_named(name: str, tmp_path: Path, data: bytes) -> None:
    samples = members(range(9))
    samples[6] = replace(samples[6], data=data, extension="jpg")
    folder = write_variant(tmp_path / "source", {"test": [samples]}).folder
    with opened(name, folder, batch_size=2) as simulation:
        with pytest.raises(DataError, match=r"test-000000\.tar.*'group0/photo_006'") as caught:
            list(simulation)
        assert "\n" not in str(caught.value)


def test_a_damaged_shard_is_named_before_the_first_batch(name: str, tmp_path: Path) -> None:
    folder = write_variant(tmp_path / "source", {"test": [members(range(3))]}).folder
    tar = folder / "test-000000.tar"
    tar.write_bytes(tar.read_bytes()[:-1536])
    with pytest.raises(DataError, match="test-000000"):
        open_simulation(name, folder, "test", SETTINGS, JpegCodec(), QUALITIES)


def held() -> tuple[int, int]:
    """Threads, native ones too, and open files of this process."""
    gc.collect()
    threads, files = (len(list(Path(f"/proc/self/{what}").iterdir())) for what in ("task", "fd"))
    return threads, files


def test_closing_ends_its_threads_and_files(name: str, variant: Variant) -> None:
    def use() -> None:
        with opened(name, variant.folder, num_threads=2) as simulation:
            next(iter(simulation))
            list(simulation)

    use()  # what libraries keep for good
    before = held()
    use()
    assert held() == before


def test_a_pass_holds_few_batches_of_each_quality(name: str, variant: Variant) -> None:
    """Whoever drops a batch gives its memory back: it is used again, or freed."""
    with opened(name, variant.folder, batch_size=2) as simulation:
        alive: list[weakref.ref[torch.Tensor]] = []
        places: set[int] = set()
        for batches in simulation:
            places.add(batches[0].images.data_ptr())
            alive = [one for one in alive if one() is not None]
            alive += [weakref.ref(batch.images) for batch in batches]
            assert len(alive) <= 2 * len(QUALITIES)
        if name == "cpu":
            assert len(places) <= 3 < len(simulation)


def test_what_decides_the_pixels_is_recorded(name: str, variant: Variant) -> None:
    with opened(name, variant.folder) as simulation:
        settings = simulation.settings()
    assert any(character.isdigit() for character in str(settings["version"]))
    assert len(settings) > 1


def test_mistakes_are_refused_in_one_line(name: str, variant: Variant) -> None:
    def refused(pattern: str, qualities: Sequence[int | None], **changes: object) -> None:
        settings = replace(SETTINGS, **changes)
        with pytest.raises(SettingsError, match=pattern) as caught:
            open_simulation(name, variant.folder, "test", settings, JpegCodec(), qualities)
        assert "\n" not in str(caught.value)

    refused("choose 1 to 100", (0,))
    refused("choose 1 to 100", (None, 101))
    refused("named twice", (5, 5))
    refused("nothing to simulate", (None,))
    refused("nothing to simulate", ())
    refused("for evaluation", (5,), training=True)
    refused("for evaluation", (5,), reencoding=Reencoding("jpeg", (5,)))
    with pytest.raises(UnknownNameError, match=r"unknown simulation .*known: cpu, dali"):
        open_simulation(f"{name}x", variant.folder, "test", SETTINGS, JpegCodec(), (5,))


def test_other_subsampling_is_simulated_or_refused(name: str, variant: Variant) -> None:
    codec = build_codec("jpeg", subsampling="444")
    if name == "dali":
        with pytest.raises(SettingsError, match=r"4:2:0 only, not jpeg 444: choose --simulate cpu"):
            open_simulation(name, variant.folder, "test", SETTINGS, codec, (5,))
        return
    with opened(name, variant.folder, (5,), codec) as simulation:
        found = [batches[0].images for batches in simulation]
    usual = [batches[0].images for batches in load(name, variant.folder, (5,))]
    assert not any(torch.equal(one, other) for one, other in zip(found, usual, strict=True))
