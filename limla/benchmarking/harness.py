"""Contenders in turn: A B C A B C …, each pass in a fresh process; medians, and ratios within each round.

Ratios are taken within a round because other work on the machine disturbs neighbours in time alike. Before the
rounds each contender makes one pass that is not timed: there its memory is sampled and its facts are collected, so
neither disturbs the clock. In every round a fresh process makes a first pass, where the contender has one, and then
the timed pass.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limla.benchmarking.machine import describe_machine
from limla.benchmarking.memory import Memory, MemorySampler
from limla.benchmarking.passes import Facts, PartTime, Pass
from limla.errors import BenchmarkError
from limla.progress import SILENT, Progress

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from limla.benchmarking.passes import serve; serve()"
)
_SHOWN_ERROR_LINES = 12


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: in the tables.
        work: "module:function", see `limla.benchmarking.passes`.
        setup: one line: how it is set up, for the tables' readers.
        arguments: of the work, plain JSON values; the harness adds `check`.
        warm_up: what differs in the arguments of the first pass of the process, before the timed one ({}: nothing);
            None means that the timed pass is the first.
        optional: whether its failing is a reason to go on without it.
    """

    name: str
    work: str
    setup: str
    arguments: Mapping[str, Any]
    warm_up: Mapping[str, Any] | None = None
    optional: bool = False


@dataclass(frozen=True)
class PassRow:
    """One timed pass of one part of a contender's work; times in seconds, processor time in ms."""

    contender: str
    part: str
    round: int
    num_images: int
    seconds: float
    images_per_s: float
    cpu_ms_per_image: float
    first_batch_s: float
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class ContenderRow:
    """One part of a contender over all rounds: medians, and the range of its speed.

    `first_batch_s` and `first_pass_images_per_s` are of the first pass in a fresh process, the other times of the
    pass after it; the latter is None for a part that the first pass left out. The peaks are in MB (10^6 bytes), see
    `Memory`, over all parts, child processes included; None where the kernel does not tell.
    """

    contender: str
    part: str
    setup: str
    num_images: int
    images_per_s: float
    images_per_s_low: float
    images_per_s_high: float
    first_pass_images_per_s: float | None
    cpu_ms_per_image: float
    first_batch_s: float
    peak_memory_mb: float | None
    peak_private_mb: float | None


@dataclass(frozen=True)
class RatioRow:
    """Speed of a contender over that of a reference, within each round: median, range, and each round's."""

    contender: str
    part: str
    reference: str
    median: float
    low: float
    high: float
    per_round: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """What a benchmark found.

    Attributes:
        contenders, ratios, passes: the rows.
        skipped: contender → why it did not run.
        agreement: what the check of the contenders' facts found.
    """

    contenders: tuple[ContenderRow, ...]
    ratios: tuple[RatioRow, ...]
    passes: tuple[PassRow, ...]
    skipped: dict[str, str]
    agreement: dict[str, Any]

    def row(self, contender: str, part: str = "") -> ContenderRow:
        """The row of one contender's part; raises `KeyError` for one that did not run."""
        for row in self.contenders:
            if (row.contender, row.part) == (contender, part):
                return row
        raise KeyError((contender, part))


def compare(
    contenders: Sequence[Contender],
    references: Sequence[str],
    rounds: int,
    check: Callable[[Mapping[str, Facts]], dict[str, Any]] = lambda facts: {},
    progress: Progress = SILENT,
    title: str = "measuring",
) -> Comparison:
    """Run the contenders in turn.

    Args:
        references: contenders that the others' speeds are divided by; one that is skipped gives no ratios. A
            contender is skipped when an optional package that it needs is not there, an optional one also when it
            fails.
        rounds: timed passes of each; 0 times the pass in which memory is sampled instead.
        check: gets contender → facts of the untimed pass, returns what it found and raises `BenchmarkError` when
            they did not do the same work. That all finished the same number of images is checked always.

    Raises `BenchmarkError` when a contender that is not optional fails.
    """
    skipped: dict[str, str] = {}
    running = list(contenders)
    memory: dict[str, Memory | None] = {}
    facts: dict[str, Facts] = {}
    first_passes: dict[str, list[Pass]] = {one.name: [] for one in contenders}
    rows: list[PassRow] = []

    def measure(one: Contender, number: int) -> None:
        peak, first, timed = _run(one, is_timed=number > 0)
        if number == 0:
            memory[one.name], facts[one.name] = peak, timed.facts
            if rounds:
                return
        first_passes[one.name].append(first or timed)
        rows.extend(_pass_rows(one.name, max(1, number), timed))

    with progress.stage(title, (1 + rounds) * len(running), "passes") as advance:
        for number in range(1 + rounds):
            for one in tuple(running):
                try:
                    measure(one, number)
                except (_UnavailableError, BenchmarkError) as error:
                    if isinstance(error, BenchmarkError) and not one.optional:
                        raise
                    progress.say(f"{title}: going on without {one.name}: {error}")
                    skipped[one.name] = str(error)
                    running.remove(one)
                    facts.pop(one.name, None)
                    rows[:] = [row for row in rows if row.contender != one.name]
                advance(1)
    _check_counts(rows)
    agreement = check(facts)
    return Comparison(
        tuple(_contender_rows(running, rows, memory, first_passes)),
        tuple(_ratio_rows(running, references, rows)),
        tuple(rows),
        skipped,
        agreement,
    )


def _run(one: Contender, is_timed: bool) -> tuple[Memory | None, Pass | None, Pass]:
    """In a fresh process: its peak memory where it is not timed, its first pass where it makes two, and its last."""
    os.sync()  # what the one before left unwritten is not this one's burden
    with _Child(one) as child:
        if is_timed:
            return None, child.warmed_up(), child.measured()
        peak, done = child.checked()
        return peak, None, done


class _UnavailableError(Exception):
    """A contender lacks an optional package; the message says which and how to get it."""


class _Child:
    """A fresh process that makes one or two passes of a contender's work."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed on leaving
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            process_group=0,  # Ctrl-C is the parent's to handle, which ends all that the work has started
        )

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()

    def checked(self) -> tuple[Memory | None, Pass]:
        """The untimed pass over everything, with its peak memory and its facts."""
        with MemorySampler(self._process.pid) as sampler:
            self._send({**self._contender.arguments, "check": True}, False)
            done = self._receive()
        return sampler.peak, done

    def warmed_up(self) -> Pass | None:
        """The first pass before the timed one, if there is one."""
        changed = self._contender.warm_up
        untimed = None if changed is None else {**self._contender.arguments, **changed, "check": False}
        self._send(untimed, True)
        return None if untimed is None else self._receive()

    def measured(self) -> Pass:
        """The timed pass."""
        return self._receive()

    def _send(self, untimed: dict[str, Any] | None, measure: bool) -> None:
        job = {
            "work": self._contender.work,
            "arguments": {**self._contender.arguments, "check": False},
            "warm_up": untimed,
            "measure": measure,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job).encode())
        self._process.stdin.close()

    def _receive(self) -> Pass:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").splitlines()[-_SHOWN_ERROR_LINES:]
            raise BenchmarkError(
                f"the contender '{self._contender.name}' ended with code {code}: {' | '.join(lines)}"
            )
        answer = json.loads(line)
        if "unavailable" in answer:
            raise _UnavailableError(answer["unavailable"])
        parts = {name: PartTime(**times) for name, times in answer.pop("parts").items()}
        return Pass(parts=parts, **answer)


def _pass_rows(contender: str, number: int, done: Pass) -> list[PassRow]:
    if not any(times.num_images for times in done.parts.values()):
        raise BenchmarkError(f"the contender '{contender}' finished no image: give it at least one")
    return [
        PassRow(
            contender=contender,
            part=part,
            round=number,
            num_images=times.num_images,
            seconds=times.seconds,
            images_per_s=times.num_images / times.seconds,
            cpu_ms_per_image=1000 * times.cpu_s / times.num_images,
            first_batch_s=done.first_batch_s,
            facts=done.facts,
        )
        for part, times in done.parts.items()
    ]


def _check_counts(rows: Sequence[PassRow]) -> None:
    expected: dict[str, PassRow] = {}
    for row in rows:
        first = expected.setdefault(row.part, row)
        if row.num_images != first.num_images:
            raise BenchmarkError(
                f"'{row.contender}' finished {row.num_images} images where '{first.contender}' finished "
                f"{first.num_images}: they did not do the same work"
            )


def _contender_rows(
    running: Sequence[Contender],
    rows: Sequence[PassRow],
    memory: Mapping[str, Memory | None],
    first_passes: Mapping[str, list[Pass]],
) -> list[ContenderRow]:
    found: list[ContenderRow] = []
    for one in running:
        peak = memory[one.name]
        for part, passes in _by_part([row for row in rows if row.contender == one.name]).items():
            speeds = [row.images_per_s for row in passes]
            first = [done.parts[part] for done in first_passes[one.name] if part in done.parts]
            found.append(
                ContenderRow(
                    contender=one.name,
                    part=part,
                    setup=one.setup,
                    num_images=passes[0].num_images,
                    images_per_s=statistics.median(speeds),
                    images_per_s_low=min(speeds),
                    images_per_s_high=max(speeds),
                    first_pass_images_per_s=(
                        statistics.median(times.num_images / times.seconds for times in first)
                        if first
                        else None
                    ),
                    cpu_ms_per_image=statistics.median(row.cpu_ms_per_image for row in passes),
                    first_batch_s=statistics.median(done.first_batch_s for done in first_passes[one.name]),
                    peak_memory_mb=peak.total_mb if peak else None,
                    peak_private_mb=peak.private_mb if peak else None,
                )
            )
    return found


def _ratio_rows(
    running: Sequence[Contender], references: Sequence[str], rows: Sequence[PassRow]
) -> list[RatioRow]:
    speeds = {(row.contender, row.part, row.round): row.images_per_s for row in rows}
    found: list[RatioRow] = []
    for part, passes in _by_part(rows).items():
        numbers = sorted({row.round for row in passes})
        for one in running:
            for reference in references:
                if one.name == reference or (reference, part, numbers[0]) not in speeds:
                    continue
                per_round = tuple(
                    speeds[one.name, part, number] / speeds[reference, part, number] for number in numbers
                )
                found.append(
                    RatioRow(
                        one.name,
                        part,
                        reference,
                        statistics.median(per_round),
                        min(per_round),
                        max(per_round),
                        per_round,
                    )
                )
    return found


def _by_part(rows: Sequence[PassRow]) -> dict[str, list[PassRow]]:
    found: dict[str, list[PassRow]] = {}
    for row in rows:
        found.setdefault(row.part, []).append(row)
    return found


def as_record(found: Mapping[str, Any], what: str, command: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What was found (rows as plain values, as of `dataclasses.asdict`), how and where, as JSON values."""
    return {
        "what": what,
        "command": command,
        "machine": describe_machine(),
        "settings": dict(settings),
        **_rounded(dict(found)),
    }


def _rounded(value: Any) -> Any:
    """Floats to 5 significant digits: more of them is noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
