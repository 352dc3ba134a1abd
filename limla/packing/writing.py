"""Prepared pictures → shards of bounded size, one split after the other."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from limla.files import canonical_json
from limla.manifest import SOURCE
from limla.metrics import rate_bpp
from limla.packing.discovery import printable
from limla.packing.reading import Prepared
from limla.packing.splitting import Planned
from limla.results import EncodingRow, encoding_table, write_table
from limla.shards import BLOCK, ShardEntry, ShardWriter, open_shard, shard_name


class ShardSeries:
    """Writes samples, sorted by split, into `<split>-<nnnnnn>.tar` and keeps the manifest entries.

    A context manager: leaving it without an error completes the last shard; with one, removes it.
    """

    def __init__(self, folder: Path, max_bytes: int, max_samples: int) -> None:
        self.entries: list[ShardEntry] = []
        self.num_samples = 0
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_samples = max_samples
        self._stack = ExitStack()
        self._writer: ShardWriter | None = None
        self._split = ""
        self._number = 0
        self._rows: list[EncodingRow] = []
        self._tables: list[pa.Table] = []

    def __enter__(self) -> ShardSeries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._complete()
        else:
            self._stack.__exit__(kind, error, trace)

    def add(self, planned: Planned, prepared: Prepared, class_name: str) -> None:
        """Append one sample, in a new shard where the current one is full or of another split."""
        picture = prepared.picture
        metadata = sample_metadata(planned, prepared, class_name)
        members = {
            picture.extension: picture.data,
            "cls": str(planned.label).encode(),
            "json": canonical_json(metadata).encode(),
        }
        num_bytes = sum(BLOCK + len(data) + -len(data) % BLOCK for data in members.values())
        if self._is_full(planned.split, num_bytes):
            self._complete()
        if self._writer is None:
            self._begin(planned.split)
        assert self._writer is not None
        self._writer.add(planned.key, members)
        self.num_samples += 1
        # what the original costs: a converted picture's PNG is our own choice, and several times as large
        cost = prepared.source_num_bytes
        rate = rate_bpp(cost, picture.height, picture.width)
        self._rows.append(
            EncodingRow(planned.key, planned.split, SOURCE, None, picture.height, picture.width, cost, rate)
        )

    def _is_full(self, split: str, num_bytes: int) -> bool:
        return self._writer is not None and (
            split != self._split
            or self._writer.num_samples >= self._max_samples
            or self._writer.num_bytes + num_bytes + 2 * BLOCK > self._max_bytes
        )

    def _begin(self, split: str) -> None:
        if split != self._split:
            self._split, self._number = split, 0
        self._writer = self._stack.enter_context(open_shard(self._folder / shard_name(split, self._number)))

    def _complete(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        self._stack.close()
        self.entries.append(writer.entry(shard_name(self._split, self._number), self._split))
        self._number += 1
        self._tables.append(encoding_table(self._rows))
        self._rows = []

    def write_encodings(self) -> None:
        """Write `encoding.parquet`: one EncodingRow per sample, in the shards' order."""
        write_table(self._folder / "encoding.parquet", pa.concat_tables(self._tables).combine_chunks())


def sample_metadata(planned: Planned, prepared: Prepared, class_name: str) -> dict[str, Any]:
    """The `json` member of a source sample (docs/packing.md lists the fields)."""
    picture = prepared.picture
    return {
        "key": planned.key,
        "class_name": class_name,
        "source_path": printable(planned.file.path),
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
