"""Sources → results: what is missing is planned, spread over an engine, recorded as it is finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from limla.engines.base import Engine
from limla.errors import DataError
from limla.files import check_visible, remove_unfinished
from limla.pictures.walking import printable
from limla.progress import Progress
from limla.storage import listing
from limla.trees.conversion import Conversion, ConvertFiles, Job, Refused, Row
from limla.trees.folder import ResultFolder
from limla.trees.sources import Sources

MIN_FILES, MAX_FILES = 8, 32
"""In a unit of work: enough for the threads of one process, few enough that a kill costs little."""
_UNITS = 64
"""So many at least, where there are the files, so that many workers have work."""
_SHOWN = 100
"""Refused files named on the console; all of them are in the quarantine list."""

_SHOWN_CLASHES = 5

Item = TypeVar("Item")
Summarise = Callable[[Sequence[Row]], Mapping[str, Any]]


@dataclass(frozen=True)
class TreeResult:
    """What is in the folder of results now.

    Attributes:
        rows: of every source of which there are results, by path.
        summary: of these rows.
        num_made: sources converted by this run; the others were finished.
        refused: sources of which nothing could be made.
        skipped: reason → number of entries that are no sources.
        quarantine: the list of the refused.
    """

    rows: tuple[Row, ...]
    summary: Mapping[str, Any]
    num_made: int
    refused: tuple[Refused, ...]
    skipped: Counter[str]
    quarantine: Path

    def check_whole(self) -> None:
        """Raise `DataError` where files were refused, for an exit code that tells."""
        check_none_refused(self.refused, len(self.rows), self.quarantine)


def check_none_refused(refused: Sequence[Refused], num_done: int, quarantine: Path) -> None:
    """Raise `DataError` naming the list of the refused, where there are some."""
    if refused:
        num = len(refused)
        raise DataError(f"{num} of {num + num_done} files refused, the others are done; reasons: {quarantine}")


def convert_tree(
    sources: Sources,
    target: ResultFolder,
    conversion: Conversion,
    summarise: Summarise,
    progress: Progress,
    engine: Engine,
    title: str,
) -> TreeResult:
    """Make what is missing of the sources' results, and complete the folder's records.

    Run again after an interruption, a full disk or a change of the sources, it makes only what is missing or changed,
    and the bytes are those of one run. A source whose size and time are those recorded, and whose results have their
    sizes, is finished. What stands under the name of a result and is not limla's, or has no longer the size that was
    recorded, is left as it is and the source is refused.

    Raises `DataError` where a result would have the name of a folder; as `ResultFolder.held` and `begin`; `OSError` for
    a full disk.
    """
    _check_names(sources, target, conversion)
    with target.held():
        known, begun = target.known()
        folders = sorted({source.path.rpartition("/")[0] for source in sources.files})
        _clear(target, folders)
        jobs, clear, finished = _plan(sources, target, conversion, known, begun, folders)
        num_finished, refused = len(finished), list[Refused]()
        if jobs:
            if num_finished:
                progress.say(f"{num_finished} files are finished already")
            target.begin()
            try:
                for result in _run(sources, target, conversion, jobs, clear, progress, engine, title):
                    if isinstance(result, Refused):
                        refused.append(result)
                    else:
                        finished[str(result["source"])] = result
            finally:
                _clear(target, folders)
        else:
            progress.say(f"nothing to do: {target.folder} is complete")
        rows = tuple(finished[source.path] for source in sources.files if source.path in finished)
        kept = [row for path, row in known.items() if path not in finished]
        summary = dict(summarise(rows)) if rows else {}
        if jobs or not target.is_complete():
            target.finish([*rows, *kept], refused, summary)
    num_gone = len(kept) - sum(one.path in known for one in refused)
    _tell(refused, num_gone, target, progress)
    made = len(rows) - num_finished
    return TreeResult(rows, summary, made, tuple(refused), sources.skipped, target.quarantine)


def _clear(target: ResultFolder, folders: Iterable[str]) -> None:
    """Remove what a killed run, or worker, left half-written."""
    for folder in folders:
        remove_unfinished(target.folder / folder)


def _check_names(sources: Sources, target: ResultFolder, conversion: Conversion) -> None:
    folders: set[str] = set()
    for folder in {source.path.rpartition("/")[0] for source in sources.files}:
        above = folder
        while above and above not in folders:
            folders.add(above)
            above = above.rpartition("/")[0]
    clashes = [
        f"{printable(source.path)} and {printable(name)}/"
        for source in (sources.files if folders else ())
        for name in conversion.names(source.path, {})
        if name in folders
    ]
    if clashes:
        more = f"; and {len(clashes) - _SHOWN_CLASHES} more" if len(clashes) > _SHOWN_CLASHES else ""
        raise DataError(
            f"{sources.root or target.folder}: what is made of a file would have the name of a folder: "
            f"{'; '.join(clashes[:_SHOWN_CLASHES])}{more}; rename one of each"
        )


def _plan(
    sources: Sources,
    target: ResultFolder,
    conversion: Conversion,
    known: Mapping[str, Row],
    begun: Collection[str],
    folders: Iterable[str],
) -> tuple[list[Job], list[str], dict[str, Row]]:
    """What is to be done; of this, what has nothing foreign in its way; and the rows of what is finished."""
    there = {folder: listing(target.folder / folder) for folder in folders}
    jobs: list[Job] = []
    clear: list[str] = []
    finished: dict[str, Row] = {}
    for source in sources.files:
        path = source.path
        beside = there[path.rpartition("/")[0]]
        row = known.get(path)
        num_bytes = None if row is None else target.num_bytes_there(path, row, beside)
        as_recorded = row is not None and num_bytes == row["num_bytes"]
        if row is not None and as_recorded and (row["source_num_bytes"], row["source_mtime_ns"]) == source[1:]:
            finished[path] = row
            continue
        is_ours = path in begun or as_recorded or (row is not None and num_bytes is None)
        jobs.append(Job(source, is_ours))
        if is_ours or not any(name.rpartition("/")[2] in beside for name in conversion.names(path, {})):
            clear.append(path)
    return jobs, clear, finished


def _run(
    sources: Sources,
    target: ResultFolder,
    conversion: Conversion,
    jobs: list[Job],
    clear: list[str],
    progress: Progress,
    engine: Engine,
    title: str,
) -> Iterator[Row | Refused]:
    root = None if sources.root is None else sources.root.absolute()
    work = ConvertFiles(root, target.folder.absolute(), conversion)
    with target.journal() as journal:
        journal.begin(clear)
        with (
            progress.stage(title, len(jobs), "images") as advance,
            closing(engine.map(work, units_of(jobs), advance)) as results,
        ):
            for unit in results:
                rows = [result for result in unit if not isinstance(result, Refused)]
                for row in rows[:1]:
                    for name in conversion.names(str(row["source"]), row):
                        check_visible(target.folder / name)
                journal.record(rows)
                yield from unit


def units_of(jobs: Sequence[Item]) -> list[tuple[Item, ...]]:
    """`jobs` cut into units of work."""
    length = min(max(len(jobs) // _UNITS, MIN_FILES), MAX_FILES)
    return [tuple(jobs[start : start + length]) for start in range(0, len(jobs), length)]


def _tell(refused: list[Refused], num_gone: int, target: ResultFolder, progress: Progress) -> None:
    for one in refused[:_SHOWN]:
        progress.say(f"{printable(one.path)}: {one.reason}")
    if len(refused) > _SHOWN:
        progress.say(f"… and {len(refused) - _SHOWN} more: {target.quarantine}")
    if num_gone:
        progress.say(
            f"warning: {target.folder} holds what was made of {num_gone} files that are no longer there; it is kept"
        )
