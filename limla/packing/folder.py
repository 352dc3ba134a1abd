"""The output folder: what is finished in it, and the step that makes it complete.

An unfinished folder holds `settings.json`, written first, and for every finished shard
`<split>-<nnnnnn>.part.json`, written after its tar and index: its presence means they are whole. When all parts are
there they become `encoding.parquet` and `quarantine.jsonl`, then `manifest.json` appears and the parts go.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any, NamedTuple

from limla.errors import DataError
from limla.files import canonical_json, content_id, remove_unfinished, write_bytes, write_json
from limla.manifest import FILE_NAME, check_settings
from limla.packing.planning import ShardPlan
from limla.packing.reading import UNREADABLE, Prepared, Refused
from limla.paths import AnyPath, is_remote
from limla.pictures.jpeg_history import JpegHistory
from limla.progress import Progress
from limla.shards import ShardEntry, index_path
from limla.storage import in_parallel, listing, read_bytes, remove

SETTINGS = "settings.json"
_SHARD_FILE = re.compile(r"(?P<stem>(train|val|test)-\d{6})\.(tar|idx|part\.json)")


class Packed(NamedTuple):
    """What the manifest and the rows need to know of one packed picture.

    Attributes:
        number: its place among the planned shard's photos.
        height, width: pixels, upright.
        source_format, converted, notes, jpeg: see `Picture`.
        source_num_bytes, source_sha256: of the file as it came.
    """

    number: int
    height: int
    width: int
    source_format: str
    source_num_bytes: int
    source_sha256: str
    converted: tuple[str, ...]
    notes: tuple[str, ...]
    jpeg: JpegHistory | None

    @classmethod
    def of(cls, number: int, prepared: Prepared) -> Packed:
        """The record of one prepared picture."""
        picture = prepared.picture
        return cls(
            number,
            picture.height,
            picture.width,
            picture.source_format,
            prepared.source_num_bytes,
            prepared.source_sha256,
            picture.converted,
            picture.notes,
            picture.jpeg,
        )


@dataclass(frozen=True)
class Part:
    """The record of a finished shard.

    Attributes:
        run_id: of the run that made it.
        entry: of the tar; None when no picture of the shard could be decoded, so that there is none.
        packed, refused: every photo of the plan is in one of them.
    """

    run_id: str
    entry: ShardEntry | None
    packed: tuple[Packed, ...]
    refused: tuple[Refused, ...]


def part_path(tar_path: AnyPath) -> AnyPath:
    """Where the record of a finished shard of an unfinished folder stands."""
    return tar_path.with_suffix(".part.json")


def write_part(tar_path: AnyPath, part: Part) -> None:
    """Say that a shard is finished; its tar and index, if it has them, must be on disk."""
    packed = [one._replace(jpeg=one.jpeg and astuple(one.jpeg)) for one in part.packed]  # type: ignore[arg-type]
    record = {
        "run_id": part.run_id,
        "shard": None if part.entry is None else asdict(part.entry),
        "packed": packed,
        "refused": [astuple(one) for one in part.refused],
    }
    write_bytes(part_path(tar_path), canonical_json(record).encode())


def read_part(tar_path: AnyPath) -> Part:
    """The record of a finished shard.

    Raises `FileNotFoundError` when there is none, `DataError` when it is damaged.
    """
    path = part_path(tar_path)
    try:
        record = json.loads(read_bytes(path))
        packed: list[Packed] = []
        for *fields, converted, notes, jpeg in record["packed"]:
            history = None if jpeg is None else JpegHistory(*jpeg)
            packed.append(Packed._make((*fields, tuple(converted), tuple(notes), history)))
        return Part(
            record["run_id"],
            None if record["shard"] is None else ShardEntry(**record["shard"]),
            tuple(packed),
            tuple(Refused(*one) for one in record["refused"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); remove it and run this again") from error


@dataclass(frozen=True)
class PackFolder:
    """The folder of one run.

    Attributes:
        folder: `<data_dir>/source`.
        settings: everything that decides the bytes, as the manifest will hold it.
        photos_id: content hash of the photos' names, sizes and dates.
        versions: of the libraries that make the bytes.
    """

    folder: AnyPath
    settings: dict[str, Any]
    photos_id: str
    versions: dict[str, str]

    @functools.cached_property
    def run_id(self) -> str:
        """A content hash of all that decides the bytes; parts of another run are not used."""
        return content_id(self._begun())

    def _begun(self) -> dict[str, Any]:
        return {"settings": self.settings, "photos_id": self.photos_id, "versions": self.versions}

    def begin(
        self, plans: Sequence[ShardPlan], there: dict[str, int | None], progress: Progress
    ) -> list[ShardPlan]:
        """Leave in the folder what it is going to be, and clear away what is not part of that.

        `there` is a listing of the folder from before its manifest was judged: what came later is another run's,
        as an object store has no locks, and stays. So do planned tars without a record there: a run that goes on
        at the same time has just written them, or they will be overwritten.

        Returns the shards that are still to be made. Those of an interrupted run are kept when it had the same
        settings, photos and library versions; when only the photos or versions differ, all are made again.

        Raises `SettingsError` when the folder was begun with other settings and holds shards.
        """
        remove_unfinished(self.folder)
        if SETTINGS in there and any(map(_SHARD_FILE.fullmatch, there)):
            self._check_begun(progress)
        # while the manifest of a damaged folder is there, the folder counts as a finished one
        write_json(self.folder / SETTINGS, self._begun())
        finished = in_parallel(lambda plan: self._has(plan, there), plans)
        kept, missing = set[str](), list[ShardPlan]()
        for plan, is_finished in zip(plans, finished, strict=True):
            if is_finished:
                kept.add(plan.name.removesuffix(".tar"))
            else:
                missing.append(plan)
        staying = {plan.name.removesuffix(".tar") for plan in plans} if is_remote(self.folder) else kept
        stale = [
            name for name in there if (match := _SHARD_FILE.fullmatch(name)) and match["stem"] not in staying
        ]
        if FILE_NAME in there:
            stale.append(FILE_NAME)
        remove(self.folder / name for name in stale)
        if kept:
            progress.say(f"{self.folder}: {len(kept)} of {len(plans)} shards are there already")
        return missing

    def _check_begun(self, progress: Progress) -> None:
        path = self.folder / SETTINGS
        try:
            begun = json.loads(read_bytes(path))
            there, photos_id, versions = begun["settings"], begun["photos_id"], begun["versions"]
            input_id = there["input_id"]
        except FileNotFoundError:  # a run that finished meanwhile removed it
            return
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: damaged ({error}); remove the folder {self.folder} and run this again"
            ) from error
        check_settings(self.folder, {**there, "input_id": self.settings["input_id"]}, self.settings)
        if (input_id, photos_id) != (self.settings["input_id"], self.photos_id):
            progress.say(f"{self.folder}: the photos changed since the interrupted run; packing from the start")
        elif versions != self.versions:
            progress.say(f"{self.folder}: begun with other library versions; packing from the start")

    def _has(self, plan: ShardPlan, there: dict[str, int | None]) -> bool:
        """Whether a shard is finished; one with photos that the system did not let us read is tried again."""
        tar = self.folder / plan.name
        if part_path(tar).name not in there:
            return False
        try:
            part = read_part(tar)
        except (DataError, FileNotFoundError):  # a run that finished meanwhile removes them
            return False
        hopeful = {photo.path for photo in plan.photos if photo.num_bytes}
        if part.run_id != self.run_id or any(
            one.reason.startswith(UNREADABLE) and one.path in hopeful for one in part.refused
        ):
            return False
        return part.entry is None or (
            there.get(plan.name) == part.entry.num_bytes and index_path(tar).name in there
        )


def tidy(folder: AnyPath) -> None:
    """Remove from a complete folder what only an unfinished one needs."""
    remove_unfinished(folder)
    names = [name for name in listing(folder) if name == SETTINGS or name.endswith(".part.json")]
    remove(folder / name for name in sorted(names))
