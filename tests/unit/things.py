"""The dataset 'things', photos of uneven sizes with their real re-encodings, and checkpoints for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from limla.models.base import SOURCE_DATA_IDS
from limla.reencoding import ReencodeSettings, reencode
from limla.types import Preprocessing
from tests.toy import source_ids
from tests.unit.animals import write_checkpoint
from tests.variants import CLASS_NAMES, member, write_variant

NUM_THINGS = 11


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos in two test shards, re-encoded at 3 and 40. Read only."""
    folder = tmp_path_factory.mktemp("shards") / "things"
    samples = [member(number, 40 + 7 * (number % 5), 60 - 9 * (number % 4)) for number in range(NUM_THINGS)]
    write_variant(folder / "source", {"test": [samples[:6], samples[6:]]})
    reencode(folder, ReencodeSettings(qualities=(3, 40), measure="none", workers=1))
    return folder


def write_things_checkpoint(path: Path, data_dir: Path, seed: int = 0, image_size: int = 24) -> Path:
    """A made-up network that takes crops of `image_size` and was trained on this packing, it says."""
    return write_checkpoint(
        path,
        seed,
        class_names=CLASS_NAMES,
        dataset="things",
        preprocessing=Preprocessing(image_size=image_size),
        extra={SOURCE_DATA_IDS: source_ids(data_dir)},
    )
