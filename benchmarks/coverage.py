#!/usr/bin/env python3
"""How often do limla's paired intervals hold the truth, and how often do its tests see what is not there?

    python benchmarks/coverage.py

writes benchmarks/results/coverage.json, and from it the tables between the marks in docs/statistics.md. Studies with a
known truth are drawn again and again; no photos needed. Of each image a latent difficulty is shared by all training
seeds (share `image_share` of the variance), before and after are correlated so that the wanted share of the outcomes
flips, and each seed may shift the accuracy "after" by a normal deviation of `seed_sd`. The null hypothesis is that the
mean over seeds and images does not change; with one seed it is about that one model.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm
from tables import table

from limla.benchmarking.machine import describe_machine, usable_cores
from limla.files import write_bytes, write_json
from limla.statistics import bd_interval, bd_metrics, expected_calibration_error, non_inferiority

ROOT = Path(__file__).parents[1]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """A study that is drawn again and again.

    Attributes:
        num_seeds, num_images: training seeds S × source images N.
        accuracy: before, in (0, 1).
        flip_rate: share of outcomes that differ, where there is no effect and no seed variance.
        effect: true mean difference of accuracy.
        seed_sd: its standard deviation over trainings.
        image_share: of the latent variance, what an image keeps under all seeds.
        num_views: rows per source image (they share `image_share` too).
    """

    num_seeds: int
    num_images: int
    accuracy: float
    flip_rate: float
    effect: float = 0.0
    seed_sd: float = 0.0
    image_share: float = 0.6
    num_views: int = 1


def settings() -> list[Setting]:
    """What is simulated: without an effect, and with a loss of a quarter of the flip rate."""
    found = []
    for num_seeds in (1, 3, 5):
        for num_images in (120, 600):
            for accuracy in (0.6, 0.9):
                for flip_rate in (0.02, 0.05, 0.15):
                    # a shift of the whole flip rate is no shift any more: seeds differ by half of it at most
                    for seed_sd in (0.0,) if num_seeds == 1 else (0.0, min(0.01, flip_rate / 4)):
                        for effect in (0.0, -flip_rate / 4):
                            found.append(Setting(num_seeds, num_images, accuracy, flip_rate, effect, seed_sd))
    for num_seeds in (1, 3):
        found += [Setting(num_seeds, 120, 0.9, flip_rate, num_views=3) for flip_rate in (0.02, 0.15)]
    found += [Setting(2, 600, 0.9, 0.05, seed_sd=seed_sd) for seed_sd in (0.0, 0.01)]
    found += [Setting(3, 600, 0.9, 0.05, seed_sd=0.03)]
    return found


@functools.cache
def latent_correlation(accuracy: float, flip_rate: float, effect: float) -> float:
    """The correlation of the latent scores before and after that makes `flip_rate` of the outcomes differ."""
    before, after = norm.ppf(accuracy), norm.ppf(accuracy + effect)

    normal: Any = multivariate_normal

    def excess(correlation: float) -> float:
        both = normal.cdf([before, after], mean=[0, 0], cov=[[1, correlation], [correlation, 1]])
        return 2 * accuracy + effect - 2 * float(both) - flip_rate

    solve: Any = brentq
    return float(solve(excess, -0.9, 1 - 1e-9))


def draw(setting: Setting, generator: np.random.Generator) -> tuple[Bools, Bools]:
    """Before and after, (S, N · views) bool each; the views of an image are neighbours."""
    correlation = latent_correlation(setting.accuracy, setting.flip_rate, setting.effect)
    shape = 2, setting.num_seeds, setting.num_images * setting.num_views
    shared = np.repeat(generator.standard_normal((2, 1, setting.num_images)), setting.num_views, axis=2)
    latent = np.sqrt(setting.image_share) * shared + np.sqrt(1 - setting.image_share) * generator.normal(
        size=shape
    )
    latent[1] = correlation * latent[0] + np.sqrt(1 - correlation**2) * latent[1]
    wanted = norm.ppf(setting.accuracy + setting.effect)
    spread = setting.seed_sd / norm.pdf(wanted)
    # over the seeds' spread, the mean accuracy stays the wanted one
    limits = wanted * np.sqrt(1 + spread**2) + spread * generator.standard_normal((setting.num_seeds, 1))
    return latent[0] < norm.ppf(setting.accuracy), latent[1] < limits


def judge(setting: Setting, num_trials: int) -> dict[str, Any]:
    """Coverage of the interval, false alarms of interval and test, and the non-inferiority verdicts that were wrong.

    The margin lies at the true loss, or at a quarter of the flip rate where there is none: "within" is then wrong for
    the first, "exceeds" for both.
    """
    generator = np.random.default_rng([round(100_000 * abs(value)) for value in asdict(setting).values()])
    groups = np.repeat(np.arange(setting.num_images), setting.num_views) if setting.num_views > 1 else None
    margin = -setting.effect or setting.flip_rate / 4
    held = excluded = rejected = within = exceeds = too_high = 0
    width = np.empty(num_trials)
    for trial in range(num_trials):
        before, after = draw(setting, generator)
        limit = non_inferiority(before, after, margin, groups=groups, seed=trial, num_resamples=1000)
        found = limit.comparison
        held += found.low <= setting.effect <= found.high
        too_high += found.low > setting.effect
        excluded += found.low > 0 or found.high < 0
        rejected += found.p_value < 0.05
        within += limit.verdict == "within"
        exceeds += limit.verdict == "exceeds"
        width[trial] = found.high - found.low
    return {
        **asdict(setting),
        "coverage": held / num_trials,
        "above_truth": too_high / num_trials,
        "interval_excludes_0": excluded / num_trials,
        "p_below_0.05": rejected / num_trials,
        "margin": margin,
        "within": within / num_trials,
        "exceeds": exceeds / num_trials,
        "median_width": round(float(np.median(width)), 5),
    }


NUM_BINS = 15


def judge_calibration(num_images: int, overconfidence: float, num_trials: int) -> dict[str, Any]:
    """Coverage of the calibration error's interval: confidences as of a trained network, each too high by so much."""
    generator = np.random.default_rng([num_images, round(1000 * overconfidence)])

    def sample(number: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        sure = generator.beta(5, 1.2, number)
        return sure, np.clip(sure - overconfidence, 0, 1)

    sure, chance = sample(2_000_000)
    # the same bins as the library's, with the true probabilities instead of outcomes
    index = np.clip(np.ceil(sure * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    truth = float(np.abs(np.bincount(index, weights=chance - sure)).sum() / len(sure))
    low = high = 0
    values = np.empty(num_trials)
    for trial in range(num_trials):
        sure, chance = sample(num_images)
        right = generator.random(num_images) < chance
        found = expected_calibration_error(sure, right, NUM_BINS, seed=trial, num_resamples=1000)
        low, high = low + (found.low > truth), high + (found.high < truth)
        values[trial] = found.value
    return {
        "num_images": num_images,
        "overconfidence": overconfidence,
        "truth": round(truth, 5),
        "mean_value": round(float(values.mean()), 5),
        "coverage": 1 - (low + high) / num_trials,
        "above_truth": low / num_trials,
    }


RATES = np.array([0.2, 0.4, 0.8, 1.6, 3.2])
ACCURACIES = np.array([0.55, 0.72, 0.82, 0.87, 0.89])


def judge_deltas(num_seeds: int, num_images: int, seed_sd: float, num_trials: int) -> dict[str, Any]:
    """Coverage of the deltas' intervals: curve b has the accuracies of a at 0.85 of the rates."""
    generator = np.random.default_rng([num_seeds, num_images, round(10_000 * seed_sd)])
    limits = norm.ppf(ACCURACIES)[:, None, None]
    truth = bd_metrics(RATES, ACCURACIES, 0.85 * RATES, ACCURACIES)
    assert truth.bd_rate_percent is not None
    assert truth.bd_score is not None
    held, shown = np.zeros(2), np.zeros(2)
    for trial in range(num_trials):
        difficulty = generator.standard_normal(num_images)
        curves = []
        for _ in "ab":
            noise = generator.standard_normal((len(RATES), num_seeds, num_images))
            # seed_sd points of accuracy where accuracy is 0.85, the same at all qualities
            shifts = generator.standard_normal((num_seeds, 1)) * seed_sd / norm.pdf(norm.ppf(0.85))
            wanted = limits * np.sqrt(1 + (seed_sd / norm.pdf(norm.ppf(0.85))) ** 2)
            curves.append(np.sqrt(0.9) * difficulty + np.sqrt(0.1) * noise < wanted + shifts)
        found = bd_interval(RATES, curves[0], 0.85 * RATES, curves[1], seed=trial, num_resamples=300)
        for number, (interval, value) in enumerate(
            ((found.bd_rate_percent, truth.bd_rate_percent), (found.bd_score, truth.bd_score))
        ):
            shown[number] += np.isfinite(interval.low)
            held[number] += interval.low <= value <= interval.high
    rate, score = (float(part / whole) if whole else None for part, whole in zip(held, shown, strict=True))
    return {
        "num_seeds": num_seeds,
        "num_images": num_images,
        "seed_sd": seed_sd,
        "shown_rate": float(shown[0]) / num_trials,
        "coverage_rate": rate,
        "shown_score": float(shown[1]) / num_trials,
        "coverage_score": score,
    }


def markdown(data: dict[str, Any]) -> str:
    """The tables for docs/statistics.md."""
    versions = data["machine"]["versions"]
    known_to = 196 * (0.95 * 0.05 / data["num_trials"]) ** 0.5
    return "\n\n".join(
        [
            f"Simulated with `{data['command']}`\n(numpy {versions['numpy']}, scipy {versions['scipy']}, "
            f"statsmodels {versions['statsmodels']}).",
            f"Paired differences: how often of {data['num_trials']:,} studies each, in % (a true 95 shows as such "
            f"± {known_to:.1f}). The loss is a\nquarter of the flip rate; power is the share of p-values below 0.05 "
            "when there is that loss.",
            _paired_table(data["paired"]),
            f"Calibration error in {NUM_BINS} bins, {data['num_trials']:,} samples each:",
            _calibration_table(data["calibration"]),
            f"Bjøntegaard's deltas of two curves of five points, {data['num_curves']:,} pairs each, in %; of those "
            "with an interval, whose share\nis in the column before:",
            _deltas_table(data["deltas"]),
        ]
    )


def _paired_table(rows: list[dict[str, Any]]) -> str:
    """One line per setting: without an effect, and with the loss where that was simulated."""
    keys = ("num_seeds", "num_images", "num_views", "accuracy", "flip_rate", "seed_sd")
    lines: dict[tuple[Any, ...], dict[bool, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(tuple(row[key] for key in keys), {})[row["effect"] != 0] = row
    return table(
        [
            *("seeds", "images", "accuracy", "flips", "seeds' sd"),
            *("no effect: interval holds 0", "p < 0.05", "loss: interval holds it", "power"),
        ],
        [
            [
                str(num_seeds),
                str(num_images) + (f" × {num_views} views" if num_views > 1 else ""),
                f"{accuracy:g}",
                f"{flip_rate:.0%}",
                f"{seed_sd:g}",
                *(
                    _percent(found[has_effect][name]) if has_effect in found else ""
                    for has_effect in (False, True)
                    for name in ("coverage", "p_below_0.05")
                ),
            ]
            for (num_seeds, num_images, num_views, accuracy, flip_rate, seed_sd), found in lines.items()
        ],
    )


def _calibration_table(rows: list[dict[str, Any]]) -> str:
    return table(
        ["images", "overconfident by", "true error", "mean of the value", "interval holds the truth, %"],
        [
            [
                str(row["num_images"]),
                f"{row['overconfidence']:g}",
                f"{row['truth']:.4f}",
                f"{row['mean_value']:.4f}",
                _percent(row["coverage"]),
            ]
            for row in rows
        ],
    )


def _deltas_table(rows: list[dict[str, Any]]) -> str:
    names = ("shown_rate", "coverage_rate", "shown_score", "coverage_score")
    return table(
        ["seeds", "images", "seeds' sd", "BD-rate: has one", "holds", "BD-accuracy: has one", "holds"],
        [
            [
                str(row["num_seeds"]),
                str(row["num_images"]),
                f"{row['seed_sd']:g}",
                *(_percent(row[name]) for name in names),
            ]
            for row in rows
        ],
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


MARK = "<!-- made by benchmarks/coverage.py -->"


def write_tables(data: dict[str, Any], page: Path) -> None:
    """Put the tables between the two marks of `page`."""
    before, _, after = page.read_text(encoding="utf-8").split(MARK)
    write_bytes(page, f"{before}{MARK}\n\n{markdown(data)}\n\n{MARK}{after}".encode())


Task: TypeAlias = tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]


def run(tasks: list[Task], num_jobs: int) -> list[dict[str, Any]]:
    """The rows of all tasks, in their order; each has its own random numbers, so it does not matter who draws them."""
    if num_jobs == 1:
        return [work(*arguments) for work, arguments in tasks]
    with concurrent.futures.ProcessPoolExecutor(num_jobs) as pool:
        futures = [pool.submit(work, *arguments) for work, arguments in tasks]
        for number, _ in enumerate(concurrent.futures.as_completed(futures), start=1):
            click.echo(f"{number} of {len(futures)} settings", err=True)
    return [future.result() for future in futures]


@click.command()
@click.option("--trials", type=click.IntRange(1), default=1000, show_default=True, help="Studies per setting.")
@click.option(
    "--curves", type=click.IntRange(1), default=60, show_default=True, help="Pairs of curves per setting."
)
@click.option("--jobs", type=click.IntRange(1), default=usable_cores(), help="Processes.  [default: all cores]")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "benchmarks/results/coverage.json")
@click.option("--page", type=click.Path(path_type=Path, exists=True), default=ROOT / "docs/statistics.md")
def main(trials: int, curves: int, jobs: int, output: Path, page: Path) -> None:
    """Simulate, and write the JSON and the tables."""
    tasks: list[Task] = [
        (judge_deltas, (num_seeds, num_images, seed_sd, curves))
        for num_seeds, seed_sd in ((1, 0.0), (3, 0.0), (3, 0.01))
        for num_images in (120, 600)
    ]
    tasks += [
        (judge_calibration, (num_images, overconfidence, trials))
        for num_images in (120, 600, 3000)
        for overconfidence in (0.0, 0.05)
    ]
    tasks += [(judge, (setting, trials)) for setting in settings()]
    rows = list(zip([work for work, _ in tasks], run(tasks, jobs), strict=True))
    deltas, calibration, paired = (
        [row for judged_by, row in rows if judged_by is work]
        for work in (judge_deltas, judge_calibration, judge)
    )
    machine = describe_machine()
    machine["versions"] |= {
        name: importlib.metadata.version(name) for name in ("bjontegaard", "scipy", "statsmodels")
    }
    data = {
        "command": f"python benchmarks/coverage.py --trials {trials} --curves {curves}",
        "machine": machine,
        "num_trials": trials,
        "num_curves": curves,
        "paired": paired,
        "calibration": calibration,
        "deltas": deltas,
    }
    write_json(output, data)
    write_tables(json.loads(output.read_text(encoding="utf-8")), page)
    click.echo(f"written: {output}, and the tables in {page}")


if __name__ == "__main__":
    main()
