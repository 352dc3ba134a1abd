"""Where the test images of a pass come from: one variant's shards, or the originals re-encoded on the fly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limla.codecs import build_codec, codec_label
from limla.evaluation.settings import EvaluateSettings
from limla.loaders.base import LoaderSettings, open_loader
from limla.loaders.simulation import open_simulation
from limla.manifest import SOURCE, Manifest
from limla.types import Batch


@dataclass(frozen=True)
class Origin:
    """What one stream of a pass holds, as its condition says it.

    Attributes:
        test_codec, test_quality, simulation, decoder: see `Condition`.
        settings: what decides simulated pixels beside these; {} for shards, whose content hash does.
    """

    test_codec: str
    test_quality: int | None
    decoder: str
    simulation: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Streams:
    """Inputs that are open.

    Attributes:
        origins: of each stream.
        batches: called with the numbers of some streams, makes a pass: a batch of each, all of the same images.
        close: release what is open; a later pass opens it again.
    """

    origins: tuple[Origin, ...]
    batches: Callable[[Sequence[int]], Iterator[tuple[Batch, ...]]]
    close: Callable[[], None]


@dataclass(frozen=True)
class Inputs:
    """The images of a pass.

    Attributes:
        variant, manifest: of the shards that are read.
        simulated: qualities of the settings' codec that are made of them on the fly, None for the originals
            themselves; () for the shards as they are.
    """

    variant: str
    manifest: Manifest
    simulated: tuple[int | None, ...] = ()

    def title(self, codec: str) -> str:
        """ "jpeg-q10", or "source as jpeg 1, 10, 50"."""
        numbers = ", ".join(str(quality) for quality in self.simulated if quality is not None)
        return f"{self.variant} as {codec} {numbers}" if numbers else self.variant

    def open(self, settings: EvaluateSettings, loader_settings: LoaderSettings) -> Streams:
        """Open the shards; raises as `open_loader` and `open_simulation` do."""
        folder, manifest = settings.data_dir / self.variant, self.manifest
        if not self.simulated:
            loader = open_loader(settings.loader, [folder], settings.split, loader_settings)
            origin = Origin(manifest.codec, manifest.quality, loader.decoder)
            return Streams((origin,), lambda _: map(_alone, loader), loader.close)
        simulation = open_simulation(
            settings.simulate,
            folder,
            settings.split,
            loader_settings,
            build_codec(settings.codec),
            self.simulated,
        )

        def batches(streams: Sequence[int]) -> Iterator[tuple[Batch, ...]]:
            simulation.select([self.simulated[stream] for stream in streams])
            return iter(simulation)

        # originals are not simulated: their rows are those of the shards, whoever reads these
        codec, pinned = codec_label(settings.codec), simulation.settings()
        origins = tuple(
            Origin(manifest.codec, manifest.quality, simulation.decoder)
            if quality is None
            else Origin(codec, quality, simulation.decoder, settings.simulate, pinned)
            for quality in self.simulated
        )
        return Streams(origins, batches, simulation.close)


def _alone(batch: Batch) -> tuple[Batch, ...]:
    return (batch,)


def inputs_of(settings: EvaluateSettings, manifests: Mapping[str, Manifest]) -> list[Inputs]:
    """The inputs of the grid, from the variants that `read_variants` found."""
    if settings.simulate:
        return [Inputs(SOURCE, manifests[SOURCE], tuple(dict.fromkeys(settings.qualities)))]
    return [Inputs(variant, manifest) for variant, manifest in manifests.items()]
