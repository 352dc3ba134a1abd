"""What CONTRIBUTING.md promises: its ten lines are a codec that every stage takes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from limla.codecs import build_codec, decoding
from limla.errors import SettingsError
from limla.loaders.base import LoaderSettings, open_loader
from limla.reencoding import ReencodeSettings, match_rates, reencode
from limla.registry import CODECS
from limla.results import read_encodings
from limla.types import Preprocessing
from tests.variants import member, write_variant

ROOT = Path(__file__).parents[2]
IMPORTS = """
import numpy as np
from limla.codecs.base import QualityScale, check_image
from limla.codecs.container import read_whole, write_container
from limla.codecs.png import PngCodec
"""
LINE = "limla.codecs.bitplanes:BitPlanesCodec"


def ten_lines() -> str:
    """The codec as CONTRIBUTING.md shows it."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert LINE in text
    found = re.search(r"```python\n(class BitPlanesCodec:.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def bitplanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bitplanes_codec.py").write_text(IMPORTS + ten_lines())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bitplanes_codec", raising=False)
    monkeypatch.setitem(CODECS.plugs, "bitplanes", "bitplanes_codec:BitPlanesCodec")
    decoding._by_name.cache_clear()


def test_it_has_ten_lines() -> None:
    assert len(ten_lines().splitlines()) - 1 == 10  # and the class's own


@pytest.mark.slow
def test_it_passes_the_contract_suite(tmp_path: Path) -> None:
    (tmp_path / "bitplanes_codec.py").write_text(IMPORTS + ten_lines())
    (tmp_path / "bitplanes_plugin.py").write_text(
        'from limla.registry import CODECS\nCODECS.plugs["bitplanes"] = "bitplanes_codec:BitPlanesCodec"\n'
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "bitplanes_plugin",
        "-k",
        "bitplanes",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "tests/contracts/test_codecs.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout or re.search(r"^\.{20}", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.usefixtures("bitplanes")
def test_it_goes_through_reencoding_and_the_loaders(tmp_path: Path) -> None:
    shards = [[member(number, 30 + number, 41) for number in numbers] for numbers in (range(3), range(3, 5))]
    write_variant(tmp_path / "source", {"test": shards})
    result = reencode(tmp_path, ReencodeSettings(codec="bitplanes", qualities=(4, 8), measure="all"))
    assert result.made == ("bitplanes-q4", "bitplanes-q8")
    rows = read_encodings(tmp_path, ["bitplanes-q4", "bitplanes-q8"]).to_pylist()
    assert {row["codec"] for row in rows} == {"bitplanes"}
    assert all(row["psnr_db"] == float("inf") for row in rows if row["quality"] == 8)
    assert all(25 < row["psnr_db"] < 40 for row in rows if row["quality"] == 4)

    settings = LoaderSettings(preprocessing=Preprocessing(image_size=16), batch_size=2)
    passes = {}
    for variant in ("source", "bitplanes-q8"):
        loader = open_loader("auto", [tmp_path / variant], "test", settings)
        assert loader.decoder == "cpu"
        passes[variant] = [(batch.keys, batch.images.numpy().copy()) for batch in loader]
        loader.close()
    for (keys, images), (keys_here, images_here) in zip(passes["source"], passes["bitplanes-q8"], strict=True):
        assert keys == keys_here
        assert np.array_equal(images, images_here)


@pytest.mark.usefixtures("bitplanes")
def test_it_is_matched_by_rate(tmp_path: Path) -> None:
    write_variant(tmp_path / "source", {"test": [[member(number, 60, 80) for number in range(3)]]})
    whole = match_rates(tmp_path, "bitplanes", [6.0])[0]
    result = reencode(
        tmp_path, ReencodeSettings(codec="bitplanes-bpp", qualities=(round(1000 * whole.mean_bpp),))
    )
    assert result.variants[0].mean_rate_bpp == pytest.approx(whole.mean_bpp, rel=0.2)


@pytest.mark.usefixtures("bitplanes")
def test_a_knob_the_codec_lacks_is_refused() -> None:
    with pytest.raises(SettingsError, match="'bitplanes' has no setting 'subsampling'"):
        ReencodeSettings(codec="bitplanes", qualities=(1,), subsampling="420")
    with pytest.raises(SettingsError, match="'bitplanes' has no setting 'depth'"):
        build_codec("bitplanes:depth=3")
