"""Rows → metrics with intervals and paired evidence → one self-contained HTML page, CSV and Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from limla.paths import AnyPath
from limla.progress import SILENT, Progress


def report(
    results_dir: Path,
    data_dir: AnyPath | Sequence[AnyPath] | None,
    output: Path,
    progress: Progress = SILENT,
    margin: float = 0.01,
) -> Path:
    """Write the report of a results folder; returns `output`.

    Args:
        results_dir: a folder that evaluation wrote.
        data_dir: the dataset folder(s) that were evaluated, for rate, PSNR, SSIM, class names and settings;
            None leaves these out, and the page says so.
        output: the HTML file. Beside it every table is written as CSV and Parquet: metrics, matrix, classes, with
            a data folder encoding, and the paired evidence in `tables/`. Existing files are replaced, whole or not
            at all.
        progress: told what is missing and what was written.
        margin: the loss of accuracy that is accepted, as a share of the images, above 0, below 1: 0.01 is one point.

    Raises `DataError` when there are no predictions, a file is damaged, cells of one split hold different images, or
    results of two versions of one dataset meet; `SettingsError` for a margin out of range. Equal rows and folders
    give equal bytes.
    """
    # matplotlib and jinja2 are imported only when a report is made
    from limla.reporting.page import write_report

    data_dirs = [] if data_dir is None else list(data_dir) if isinstance(data_dir, Sequence) else [data_dir]
    return write_report(results_dir, data_dirs, output, progress, margin)
