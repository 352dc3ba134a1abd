"""The folder of results: what it was made with, what is finished in it, and whose files they are.

limla-<command>.json     settings, versions, totals; "complete" when nothing is missing
limla-<command>.csv      a row for each source: its size and time, what was made of it; path order
limla-<command>.journal  while it is being made, JSON lists: [source] when it is begun, its row when that is finished
quarantine.jsonl         {"path", "reason"} of every source of which nothing could be made
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limla.errors import DataError, SettingsError
from limla.files import (
    TEMPORARY_SUFFIX,
    atomic_open,
    canonical_json,
    exclusive,
    sync_folder,
    write_bytes,
    write_json,
)
from limla.manifest import check_settings
from limla.pictures.walking import printable
from limla.storage import listing
from limla.trees.conversion import SOURCE_COLUMNS, Conversion, Refused, Row, Value

FORMAT = "limla-files-1"
QUARANTINE = "quarantine.jsonl"


class ResultFolder:
    """One folder of results.

    Args:
        folder: need not be there yet.
        command: that makes it ("compress"), in the names of its records.
        conversion: says what is recorded, and which files a source gives.
        settings: everything that decides the bytes, as JSON values.
        versions: of what makes the bytes.
        companions: name → bytes of files that whoever reads the results needs, too.
    """

    def __init__(
        self,
        folder: Path,
        command: str,
        conversion: Conversion,
        settings: dict[str, Any],
        versions: dict[str, str],
        companions: Mapping[str, bytes] | None = None,
    ) -> None:
        self.folder = folder
        self.command = command
        self._conversion = conversion
        self._settings = settings
        self._versions = versions
        self._companions = companions or {}
        self._columns: Mapping[str, type] = {**SOURCE_COLUMNS, **conversion.columns}
        self.manifest, self.table, self._journal, self._lock = (
            folder / name for name in record_names(command)[:-1]
        )
        self.quarantine = folder / QUARANTINE

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder this run's for the block.

        Raises `SettingsError` for a folder with other contents, one made with other settings, and while another
        process is at work on it.
        """
        self._check_manifest()
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self._lock, f"limla {self.command}"):
            yield

    def _check_manifest(self) -> None:
        there = listing(self.folder)
        if self.manifest.name not in there:
            foreign = sorted(
                name for name in there if name != self._lock.name and not name.endswith(TEMPORARY_SUFFIX)
            )
            if foreign:
                raise SettingsError(
                    f"{self.folder} is not empty ({printable(foreign[0])} …) and not made by limla {self.command}: "
                    "choose another folder"
                )
            return
        check_settings(self.folder, self._read_manifest()["settings"], self._settings)

    def _read_manifest(self) -> dict[str, Any]:
        try:
            found = json.loads(self.manifest.read_bytes())
            if found["format"] != FORMAT:
                raise ValueError(f"the format is not {FORMAT}")
            return {"settings": dict(found["settings"]), "versions": dict(found["versions"]), **found}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.manifest}: damaged ({error}); remove the folder {self.folder} and run this again"
            ) from error

    def begin(self) -> None:
        """Leave in the folder what it is going to be. Raises `SettingsError` where other versions began it."""
        if self.manifest.exists():
            check_settings(self.folder, self._read_manifest()["versions"], self._versions)
        self._write_manifest(complete=False, summary={})
        for name, data in self._companions.items():
            write_bytes(self.folder / name, data)

    def is_complete(self) -> bool:
        """Whether an earlier run came to its end, with no file refused."""
        return self.manifest.exists() and self._read_manifest().get("complete") is True

    def _write_manifest(self, complete: bool, summary: Mapping[str, Any]) -> None:
        write_json(
            self.manifest,
            {
                "format": FORMAT,
                "made_by": f"limla {self.command}",
                "settings": self._settings,
                "versions": self._versions,
                "complete": complete,
                "summary": dict(summary),
            },
        )

    def known(self) -> tuple[dict[str, Row], set[str]]:
        """Source → its row, of everything that was finished at some time; and the sources begun since then.

        What stands under the names of a source that was begun is what a killed run left there.
        """
        rows = {str(row["source"]): row for row in self._table_rows()}
        begun: set[str] = set()
        for values in self._journal_lines():
            if len(values) == 1:
                begun.add(str(values[0]))
            elif len(values) == len(self._columns):
                row = dict(zip(self._columns, values, strict=True))
                rows[str(row["source"])] = row
                begun.discard(str(row["source"]))
        return rows, begun

    def _table_rows(self) -> Iterator[Row]:
        try:
            data = self.table.read_bytes()
        except FileNotFoundError:
            return
        text = data.decode("utf-8", "surrogateescape")
        try:
            reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
            if list(reader.fieldnames or ()) != list(self._columns):
                raise ValueError(f"its columns are not {', '.join(self._columns)}")
            for fields in reader:
                yield {
                    name: self._columns[name](value) if value else ("" if self._columns[name] is str else None)
                    for name, value in fields.items()
                }
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise DataError(
                f"{self.table}: damaged ({error}); remove it, and run this again to make the files again"
            ) from error

    def _journal_lines(self) -> Iterator[list[Any]]:
        try:
            lines = self._journal.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                values = json.loads(line)
            except ValueError:
                continue  # the run was killed while it wrote this line: its files are made again
            if isinstance(values, list):
                yield values

    def num_bytes_there(self, source: str, row: Row, there: Mapping[str, int | None]) -> int | None:
        """The bytes of all that was made of a source, None where some is missing; `there` lists its folder."""
        num_bytes = 0
        for name in self._conversion.names(source, row):
            found = there.get(name.rpartition("/")[2])
            if found is None:
                return None
            num_bytes += found
        return num_bytes

    @contextmanager
    def journal(self) -> Iterator[Journal]:
        """The journal, opened to record more."""
        with self._journal.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")  # ends the line in which a run was killed
            sync_folder(self.folder)
            yield Journal(file, tuple(self._columns))

    def finish(self, rows: Iterable[Row], refused: Sequence[Refused], summary: Mapping[str, Any]) -> None:
        """Write the table, the quarantine list and, last, the manifest."""
        with atomic_open(self.table) as file:
            text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
            writer = csv.DictWriter(text, self._columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: str(row["source"])))
            text.flush()
            text.detach()
        lines = sorted(canonical_json({"path": printable(one.path), "reason": one.reason}) for one in refused)
        write_bytes(self.quarantine, "".join(f"{line}\n" for line in lines).encode())
        self._write_manifest(complete=not refused, summary=summary)
        self._journal.unlink(missing_ok=True)


class Journal:
    """Sources that are begun, and rows on their way to the table."""

    def __init__(self, file: Any, columns: tuple[str, ...]) -> None:
        self._file = file
        self._columns = columns

    def begin(self, sources: Iterable[str]) -> None:
        """Say, on disk, that files will be made of these: what stands under their names is this run's from now on."""
        self._write([source] for source in sources)

    def record(self, rows: Iterable[Mapping[str, Value]]) -> None:
        """Bring rows to disk: their files are."""
        self._write([row[name] for name in self._columns] for row in rows)

    def _write(self, values: Iterable[list[Value]]) -> None:
        lines = map(canonical_json, values)
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def record_names(command: str) -> tuple[str, ...]:
    """The names of a command's own files in its folder: manifest, table, journal, lock, quarantine list."""
    return (*(f"limla-{command}.{end}" for end in ("json", "csv", "journal", "lock")), QUARANTINE)
