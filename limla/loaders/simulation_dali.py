"""Qualities simulated by DALI's `jpeg_compression_distortion`: one pipeline, one output per quality.

On the CPU that is OpenCV's JPEG encoder and decoder, on the GPU a kernel that transforms and quantises without making
a bitstream (NVIDIA/DALI pull request 2823). Neither makes limla's pixels: `limla simulation` measures by how much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import nvidia.dali
import nvidia.dali.fn

from limla.codecs.base import Codec
from limla.errors import SettingsError
from limla.loaders.base import LoaderSettings
from limla.loaders.dali_streams import DaliStreams
from limla.loaders.source import ShardSource
from limla.types import Batch

_OPERATOR = "jpeg_compression_distortion"
fn: Any = nvidia.dali.fn


class DaliSimulation(DaliStreams):
    """Decodes an original once, distorts it at each quality, and resizes each as the `dali` loader does."""

    def __init__(
        self, source: ShardSource, settings: LoaderSettings, codec: Codec, qualities: Sequence[int | None]
    ) -> None:
        self.check(codec)
        super().__init__(source, settings)
        self.qualities = tuple(qualities)

    @staticmethod
    def check(codec: Codec) -> None:
        """Raise `SettingsError` for anything but JPEG with halved chroma, all that the operator knows."""
        subsampling = codec.settings().get("subsampling")
        if (codec.name, subsampling) != ("jpeg", "420"):
            named = f"{codec.name} {subsampling}" if codec.name == "jpeg" else codec.name
            raise SettingsError(
                f"DALI's {_OPERATOR} knows jpeg with chroma 4:2:0 only, not {named}: choose --simulate cpu, which "
                "takes every codec"
            )

    def settings(self) -> dict[str, str | int | bool]:
        """See `Simulation.settings`."""
        return {"operator": _OPERATOR, "version": f"nvidia-dali {nvidia.dali.__version__}"}

    def select(self, qualities: Sequence[int | None]) -> None:
        """See `Simulation.select`."""
        if tuple(qualities) != self.qualities:
            self.qualities = tuple(qualities)
            self._pipeline = None  # one is built for its outputs

    def __iter__(self) -> Iterator[tuple[Batch, ...]]:
        return self.batches()

    def _streams(self, images: Any) -> list[Any]:
        return [
            images if quality is None else fn.jpeg_compression_distortion(images, quality=quality)
            for quality in self.qualities
        ]
