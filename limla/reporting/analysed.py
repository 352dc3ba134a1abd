"""What `limla.analysis` says of one section, computed once; nothing of it is computed here."""

from __future__ import annotations

from dataclasses import dataclass, field

from limla.analysis.breakdown import Breakdown, breakdowns
from limla.analysis.calibration import CalibrationRow, calibration_rows
from limla.analysis.classes import RecallRow, recall_rows
from limla.analysis.comparisons import Comparison, Kind, comparisons
from limla.analysis.defence_table import DefenceRow, defence_rows
from limla.analysis.flips import FlipRow, flip_rows
from limla.analysis.limits import Limit, limits
from limla.analysis.masking import MaskingCheck, masking_checks
from limla.analysis.pairs import Evidence
from limla.analysis.rate_curves import CurveDifference, RateCurve, curve_differences, rate_curves


@dataclass(frozen=True)
class Analysed:
    """The paired evidence of one split of one dataset; every list may be empty.

    Attributes:
        margin: the loss of accuracy that is accepted, as a share of the images.
        comparisons, limits, curves, differences, defences, checks, calibration, recalls, flips, breakdowns: rows of the
            modules of `limla.analysis`.
    """

    margin: float
    comparisons: list[Comparison] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    curves: list[RateCurve] = field(default_factory=list)
    differences: list[CurveDifference] = field(default_factory=list)
    defences: list[DefenceRow] = field(default_factory=list)
    checks: list[MaskingCheck] = field(default_factory=list)
    calibration: list[CalibrationRow] = field(default_factory=list)
    recalls: list[RecallRow] = field(default_factory=list)
    flips: list[FlipRow] = field(default_factory=list)
    breakdowns: list[Breakdown] = field(default_factory=list)

    def of_kind(self, *kinds: Kind) -> list[Comparison]:
        """The comparisons of some kinds."""
        return [row for row in self.comparisons if row.kind in kinds]


def analyse(evidence: Evidence | None, margin: float) -> Analysed:
    """All evidence of a section; nothing where every result is simulated (`evidence` is None).

    Raises `SettingsError` for a margin that is not between 0 and 1.
    """
    if evidence is None:
        return Analysed(margin)
    compared = comparisons(evidence)
    return Analysed(
        margin=margin,
        comparisons=compared,
        limits=limits(evidence, margin),
        curves=rate_curves(evidence),
        differences=curve_differences(evidence),
        defences=defence_rows(evidence, compared),
        checks=masking_checks(evidence),
        calibration=calibration_rows(evidence),
        recalls=recall_rows(evidence),
        flips=flip_rows(evidence),
        breakdowns=breakdowns(evidence),
    )
