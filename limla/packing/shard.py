"""The unit of work: the photos of one planned shard, read, checked and written; its part record last."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limla.engines.base import Share
from limla.errors import DataError
from limla.files import canonical_json
from limla.packing.folder import Packed, Part, write_part
from limla.packing.planning import Photo, ShardPlan
from limla.packing.reading import Prepared, Refused, prepare
from limla.packing.settings import PackSettings
from limla.paths import AnyPath
from limla.pictures.files import pillow_silenced
from limla.pictures.walking import printable
from limla.shards import ShardWriter, open_shard


@dataclass(frozen=True)
class PackShard:
    """Packs shards; picklable, so that an engine can call it anywhere, and more than once for the same shard.

    Attributes:
        source: the folder of photos.
        folder: where the shards go.
        run_id: of the run, for the part records.
        class_names: index = class index.
        settings: of the run.
    """

    source: Path
    folder: AnyPath
    run_id: str
    class_names: Sequence[str]
    settings: PackSettings

    def __call__(self, plan: ShardPlan, share: Share) -> str:
        """Make the shard, its index and its part record; returns its name.

        No picture that can be decoded, no tar. Raises `DataError` when a photo is not what was found at first, or
        the folder of photos cannot be seen from here; `OSError` when the disk is full. What is half done is removed.
        """
        if not os.access(self.source, os.R_OK | os.X_OK):
            raise DataError(
                f"{self.source}: cannot be read on the machine that packs {plan.name}; every machine must see the "
                "photos under this path"
            )
        packed: list[Packed] = []
        refused: list[Refused] = []
        writer: ShardWriter | None = None
        with pillow_silenced(), ExitStack() as stack:
            results = stack.enter_context(closing(share.spread(self._prepare, plan.photos)))
            for number, (photo, result) in enumerate(zip(plan.photos, results, strict=True)):
                if isinstance(result, Refused):
                    refused.append(result)
                else:
                    writer = writer or stack.enter_context(open_shard(self.folder / plan.name))
                    writer.add(photo.key, self._members(photo, result))
                    packed.append(Packed.of(number, result))
                share.advance(1)
        entry = writer.entry(plan.name, plan.split) if writer else None
        write_part(self.folder / plan.name, Part(self.run_id, entry, tuple(packed), tuple(refused)))
        return plan.name

    def _prepare(self, photo: Photo) -> Prepared | Refused:
        return prepare(self.source, photo, self.settings)

    def _members(self, photo: Photo, prepared: Prepared) -> dict[str, bytes]:
        metadata = sample_metadata(photo, prepared, self.class_names[photo.label])
        return {
            prepared.picture.extension: prepared.picture.data,
            "cls": str(photo.label).encode(),
            "json": canonical_json(metadata).encode(),
        }


def sample_metadata(photo: Photo, prepared: Prepared, class_name: str) -> dict[str, Any]:
    """The `json` member of a source sample (docs/packing.md lists the fields)."""
    picture = prepared.picture
    return {
        "key": photo.key,
        "class_name": class_name,
        "source_path": printable(photo.path),
        "source_format": picture.source_format,
        "source_num_bytes": prepared.source_num_bytes,
        "source_sha256": prepared.source_sha256,
        "num_bytes": len(picture.data),
        "height": picture.height,
        "width": picture.width,
        "converted": list(picture.converted),
        "notes": list(picture.notes),
        "jpeg": None if picture.jpeg is None else asdict(picture.jpeg),
    }
