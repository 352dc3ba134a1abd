"""The codecs of a study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from limla.codecs import at_rate, build_codec, codec_name, codec_scale
from limla.codecs.matching import THOUSANDTHS, check_rate
from limla.errors import SettingsError
from limla.study.lines import about_entry

Variant: TypeAlias = tuple[str, int | None]
"""(codec, quality); ("source", None) for the originals."""
STRICT: dict[str, Any] = {"extra": "forbid"}
"""Of pydantic, for every plan: an entry that is not known is refused."""


@dataclass(frozen=True)
class CodecPlan:
    """A codec and the qualities to re-encode at.

    Attributes:
        codec: of the catalogue, with knobs as in "jpeg:subsampling=444".
        qualities: on its scale.
        bpp: rates instead, in bits per pixel: each image at the quality that comes nearest to it; the codec is then
            its twin "jpeg-bpp", whose qualities are thousandths of a bit per pixel.
        subsampling: of chroma; None leaves it to the codec.
        weights: file of a learned codec.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    codec: str = "jpeg"
    qualities: tuple[int, ...] = (1, 5, 10, 50, 90)
    subsampling: str | None = None
    weights: Path | None = None
    bpp: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.bpp:
            self._take_rates()
        with about_entry("codec"):
            scale = codec_scale(self.codec)
        with about_entry("qualities"):
            if self.qualities == CodecPlan.qualities and not scale.lowest <= 1 < 90 <= scale.highest:
                raise SettingsError(
                    f"the default qualities, 1 to 90, are not those of codec '{self.codec}': name some as qualities, "
                    f"{scale.knob} {scale.lowest} to {scale.highest}"
                )
            for quality in self.qualities:
                scale.check(quality)
            if not self.qualities:
                raise SettingsError("models, seeds and qualities must each name at least one")
            if len(set(self.qualities)) < len(self.qualities):
                raise SettingsError("qualities names an entry twice: name each once")

        for knob in ("subsampling", "weights"):
            if (value := getattr(self, knob)) is not None:
                with about_entry(knob):
                    build_codec(self.codec, **{knob: str(value)})
        with about_entry("codec"):
            build_codec(self.text)

    def _take_rates(self) -> None:
        with about_entry("bpp"):
            if self.qualities != CodecPlan.qualities:
                raise SettingsError("qualities and bpp are two ways to say how small: keep one")
            rates = [round(THOUSANDTHS * check_rate(rate)) for rate in self.bpp]
        object.__setattr__(self, "qualities", tuple(rates))
        with about_entry("codec"):
            object.__setattr__(self, "codec", at_rate(self.codec))

    @property
    def name(self) -> str:
        """The codec's, as in folders and rows."""
        return codec_name(self.codec)

    @property
    def text(self) -> str:
        """The codec with all its knobs, as the command line writes it."""
        knobs = [
            f"{knob}={value}"
            for knob in ("subsampling", "weights")
            if (value := getattr(self, knob)) is not None
        ]
        before = f"{self.codec}{',' if ':' in self.codec else ':'}" if knobs else self.codec
        return before + ",".join(knobs)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """In the order given."""
        return tuple((self.name, quality) for quality in self.qualities)
