"""Where the loss comes from: evaluate a chain of conditions that differ by one step each.

Source → decoded by another decoder → resized otherwise → the codec → an attack. Each condition is an ordinary cell of
the results folder; `limla.analysis.breakdown` finds the chain again in its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from limla.analysis.breakdown import Breakdown, breakdown_table, breakdowns
from limla.analysis.columns import write_csv
from limla.analysis.pairs import collect
from limla.errors import SettingsError
from limla.evaluation import EvaluateSettings, evaluate, planned_conditions
from limla.models.checkpoint import read_checkpoint
from limla.paths import AnyPath
from limla.plans import NO_ATTACK, AttackPlan
from limla.progress import SILENT, Progress
from limla.results import prediction_path, read_table, write_table
from limla.types import Reading

TABLE = "breakdown"
"""Name of the table's files in the results folder, without their endings."""


@dataclass(frozen=True)
class BreakdownSettings:
    """What `limla breakdown` is asked for.

    Attributes:
        data_dir: a dataset's shard folder, with the originals and the quality.
        results_dir: where the rows and the table go.
        checkpoints: files that `limla train` wrote; those of one training condition with different seeds are pooled.
        quality: of `codec`, the chain's fourth condition.
        codec: of the catalogue.
        attack: the chain's last step; None ends it with the codec.
        eps: its radius on the [0, 1] scale, where it does not give its own: as in `EvaluateSettings`.
        own_model, split, batch_size, seed, device, verify: as in `EvaluateSettings`.
    """

    data_dir: AnyPath
    results_dir: Path
    checkpoints: tuple[Path, ...]
    quality: int
    codec: str = "jpeg"
    attack: AttackPlan | None = None
    eps: float = 8 / 255
    own_model: str | None = None
    split: str = "test"
    batch_size: int = 32
    seed: int = 0
    device: str = "auto"
    verify: bool = True

    def __post_init__(self) -> None:
        if not self.checkpoints:
            raise SettingsError("no model to evaluate: name a checkpoint that limla train wrote")

    def steps(self, resizes: bool) -> list[EvaluateSettings]:
        """The evaluations that make the chain, in order; `resizes`: whether some model's images are resized."""
        fast, last = Reading("fast"), Reading("fast", antialias=not resizes)
        steps = [self._step(Reading()), self._step(fast)]
        steps += [self._step(last)] if resizes else []
        return [*steps, self._step(last, self.quality, self.attack)]

    def _step(
        self, reading: Reading, quality: int | None = None, attack: AttackPlan | None = None
    ) -> EvaluateSettings:
        return EvaluateSettings(
            data_dir=self.data_dir,
            results_dir=self.results_dir,
            checkpoints=self.checkpoints,
            own_model=self.own_model,
            codec=self.codec,
            qualities=(quality,),
            attacks=(NO_ATTACK if attack is None else attack,),
            eps=(self.eps,),
            split=self.split,
            # the loader that can read in each of these ways: the steps differ in nothing else
            loader="cpu",
            reading=reading,
            batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,
            verify=self.verify,
        )


class _StepProgress(Progress):
    """Reports a step's work under its name; what an earlier step `said` is not said again."""

    def __init__(self, progress: Progress, name: str, said: set[str]) -> None:
        self._progress, self._name, self._said = progress, name, said

    @contextmanager
    def stage(
        self, description: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """See `Progress.stage`."""
        with self._progress.stage(f"{self._name}: {description}", total, unit) as advance:
            yield advance

    def say(self, message: str) -> None:
        """See `Progress.say`."""
        if message not in self._said:
            self._said.add(message)
            self._progress.say(message)


def break_down(settings: BreakdownSettings, progress: Progress = SILENT) -> list[Breakdown]:
    """Evaluate the chain of each model and say how much of the loss comes from each step.

    Cells that are there are kept, so an interrupted chain goes on where it was. The table is also written to
    `results_dir` as CSV and Parquet.

    Raises a `LimlaError` before any work for names, parameters, variants or checkpoints that do not fit.
    """
    resizes = any(read_checkpoint(path)[0].preprocessing.resize != "none" for path in settings.checkpoints)
    steps = settings.steps(resizes)
    conditions = dict.fromkeys(
        condition
        for step in steps
        for path in dict.fromkeys(settings.checkpoints)
        for condition in planned_conditions(step, path)
    )
    said: set[str] = set()
    for number, step in enumerate(steps, 1):
        evaluate(step, _StepProgress(progress, f"step {number} of {len(steps)}", said))
    predictions = [
        (condition, read_table(prediction_path(settings.results_dir, condition))) for condition in conditions
    ]
    found = [chain for evidence in collect(predictions, {}) for chain in breakdowns(evidence)]
    table = breakdown_table(found)
    write_csv(
        settings.results_dir / f"{TABLE}.csv",
        table.column_names,
        (tuple(row.values()) for row in table.to_pylist()),
    )
    write_table(settings.results_dir / f"{TABLE}.parquet", table)
    return found
