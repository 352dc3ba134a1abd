"""Qualities drawn for images inside the loaders: how often, of what they depend, and what the codec makes of images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from limla.codecs.jpeg import JpegCodec
from limla.errors import LimlaError, SettingsError
from limla.loaders.base import LoaderSettings, Reencoding, open_loader
from limla.loaders.reencoding import Reencoder
from limla.registry import CODECS
from tests.conftest import natural_like
from tests.toy import make_toy

KEYS = [f"group/photo_{number}" for number in range(3000)]


def draws(reencoder: Reencoder, epoch: int) -> list[int | None]:
    return [reencoder.quality(key, epoch) for key in KEYS]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("qualities", [(10, 20, 30, 40, 50, 60, 70), (None, 50)])
def test_every_quality_is_drawn_equally_often(qualities: tuple[int | None, ...], training: bool) -> None:
    found = draws(Reencoder(Reencoding("jpeg", qualities), seed=0, training=training), 1)
    counts = [found.count(quality) for quality in qualities]
    assert sum(counts) == len(KEYS)
    assert chisquare(counts).pvalue > 0.01


def test_epochs_and_seeds_draw_independently() -> None:
    asked = Reencoding("jpeg", (10, 30, 50, 70))
    first = draws(Reencoder(asked, seed=0, training=True), 1)
    assert draws(Reencoder(asked, seed=0, training=True), 1) == first
    for other in (
        draws(Reencoder(asked, seed=0, training=True), 2),
        draws(Reencoder(asked, seed=1, training=True), 1),
        draws(Reencoder(asked, seed=0, training=False), 1),
    ):
        places = asked.qualities.index
        pairs = [4 * places(one) + places(two) for one, two in zip(first, other, strict=True)]
        assert chisquare(np.unique(pairs, return_counts=True)[1]).pvalue > 0.01, "all 16 pairs equally often"
    measured = [draws(Reencoder(asked, seed, training=False), epoch) for seed, epoch in ((0, 1), (5, 9))]
    assert measured[0] == measured[1], "what is measured is the same in every epoch and for every seed"


def test_images_go_through_the_real_codec_or_stay() -> None:
    reencoder, codec = Reencoder(Reencoding("jpeg", (None, 5, 60)), seed=3, training=True), JpegCodec()
    image = natural_like(41, 67)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda key: reencoder.image(image, key, 1), KEYS[:60]))
    seen: set[int | None] = set()
    for key, result in zip(KEYS, results, strict=False):
        quality = reencoder.quality(key, 1)
        seen.add(quality)
        expected = image if quality is None else codec.decode(codec.encode(image, quality))
        assert np.array_equal(result, expected)
    assert seen == {None, 5, 60}


@pytest.mark.parametrize(
    ("codec", "qualities", "message"),
    [
        ("jpg", (50,), "unknown codec 'jpg'"),
        ("jpeg", (50, 101), "quality 101 is out of range"),
        ("jpeg", (), "name at least one"),
        ("jpeg", (50, None, 50), "each once"),
    ],
)
def test_what_cannot_be_drawn_is_refused(codec: str, qualities: tuple[int | None, ...], message: str) -> None:
    with pytest.raises(LimlaError, match=message):
        Reencoding(codec, qualities)


class _Unheard(JpegCodec):
    extension = "unheard"


def test_dali_refuses_what_it_cannot_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nvidia.dali", reason="optional")
    monkeypatch.setitem(CODECS.plugs, "unheard", f"{__name__}:_Unheard")
    folder = make_toy(tmp_path / "toy")
    settings = LoaderSettings(reencoding=Reencoding("unheard", (50,)))
    with pytest.raises(SettingsError, match=r"DALI does not decode \.unheard files: choose the cpu loader"):
        open_loader("dali", [folder], "test", settings)
