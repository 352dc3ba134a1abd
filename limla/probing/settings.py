"""What a probe is told, and what it compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from limla.codecs import build_codec, codec_name, codec_scale
from limla.codecs.base import BinaryCodes
from limla.errors import SettingsError
from limla.paths import AnyPath
from limla.types import Preprocessing

Representation = Literal["flat", "pooled", "untrained", "twins"]
REPRESENTATIONS: dict[Representation, str] = {
    "flat": "every value of the input",
    "pooled": "means over a 4 × 4 grid of cells, channel by channel",
    "untrained": "features of the encoder with its first, random weights",
    "twins": "features of the encoder after Barlow Twins training, without labels",
}
"""What the linear probe sees of an input, in the order of the table."""
OF_ENCODERS: tuple[Representation, ...] = ("untrained", "twins")
"""Those that differ from seed to seed."""


@dataclass(frozen=True)
class ProbeInput:
    """What a model may see of an image.

    Attributes:
        kind: "pixels" are the originals', "decoded" those the codec gives back, "codes" its binary codes.
        quality: of the codec; None for "pixels".
    """

    kind: Literal["pixels", "decoded", "codes"]
    quality: int | None = None

    @property
    def text(self) -> str:
        """For people: "codes q16"."""
        return self.kind if self.quality is None else f"{self.kind} q{self.quality}"

    @property
    def file_name(self) -> str:
        """The beginning of its files' names: "codes-q16"."""
        return self.text.replace(" ", "-")


PIXELS = ProbeInput("pixels")


@dataclass(frozen=True)
class ProbeSettings:
    """What `limla codec probe` is asked for.

    Attributes:
        data_dir: a dataset's shard folder with "source"; its splits train, val and test are used as they are.
        output_dir: where parts and tables go; parts that are there are kept.
        codec: text of a codec with `BinaryCodes`: "autoencoder:weights=FILE".
        qualities: of the codec, at least one, each once.
        representations: of `REPRESENTATIONS`, at least one; kept in their order.
        epochs: of Barlow Twins training, at least 1.
        seeds: of the encoders' weights, order and views, at least one, each once.
        image_size: side in pixels of the centre crop that everything starts from.
        device: of the encoders: "auto", "cpu", "cuda", "cuda:1".
    """

    data_dir: AnyPath
    output_dir: Path
    codec: str
    qualities: tuple[int, ...]
    representations: tuple[Representation, ...] = tuple(REPRESENTATIONS)
    epochs: int = 50
    seeds: tuple[int, ...] = (0, 1, 2)
    image_size: int = 96
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, values in (
            ("quality", self.qualities),
            ("representation", self.representations),
            ("seed", self.seeds),
        ):
            if not values:
                raise SettingsError(f"no {name} is given: name at least one")
            if len(set(values)) < len(values):
                raise SettingsError(f"a {name} is named twice in {', '.join(map(str, values))}: name each once")
        for name in self.representations:
            if name not in REPRESENTATIONS:
                raise SettingsError(
                    f"representation '{name}' is unknown: choose {', '.join(REPRESENTATIONS)}, or several"
                )
        if self.epochs < 1:
            raise SettingsError(f"epochs {self.epochs} is out of range: choose at least 1")
        if min(self.seeds) < 0:
            raise SettingsError(f"seed {min(self.seeds)} is out of range: choose 0 or more")
        scale = codec_scale(self.codec)
        for quality in self.qualities:
            scale.check(quality)
        Preprocessing(image_size=self.image_size)
        ordered = tuple(name for name in REPRESENTATIONS if name in self.representations)
        object.__setattr__(self, "representations", ordered)

    def inputs(self) -> Iterator[ProbeInput]:
        """The originals, then the decoded pixels, then the codes, each by quality."""
        yield PIXELS
        for quality in self.qualities:
            yield ProbeInput("decoded", quality)
        for quality in self.qualities:
            yield ProbeInput("codes", quality)

    def build_codec(self) -> BinaryCodes:
        """The codec; raises `SettingsError` for one without binary codes."""
        codec = build_codec(self.codec)
        if not isinstance(codec, BinaryCodes):
            raise SettingsError(
                f"codec '{codec_name(self.codec)}' has no binary codes to probe: "
                "name a learned one, e.g. autoencoder:weights=FILE"
            )
        return codec
