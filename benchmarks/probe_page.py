"""The section of docs/results.md about a learned codec's codes, from benchmarks/results/probe.json."""

from __future__ import annotations

from typing import Any

from tables import machine_line, table

_LEVEL = 0.05


def section(data: dict[str, Any] | None) -> list[str]:
    """The section's paragraphs; `data` is None where nothing was measured."""
    title = "## Do binary codes stay useful? Linear probes and Barlow Twins"
    if data is None:
        return [title, "Not measured yet: `benchmarks/probe.py`."]
    counts, settings = data["num_samples"], data["settings"]
    return [
        title,
        f"```\n{data['command']}\n```",
        f"{machine_line(data)}.",
        f"{data['dataset']}: {', '.join(f'{split} {number}' for split, number in counts.items())} images of "
        f"{len(data['class_names'])} classes at {settings['image-size']} pixels; {settings['epochs']} epochs of Barlow "
        f"Twins, seeds {', '.join(map(str, data['seeds']))}. Always naming the largest class is right in "
        f"{100 * data['accuracy_of_largest_class']:.1f}%. It took {sum(data['seconds'].values()) / 60:.0f} min beside "
        "the encoding.",
        "Accuracy on the test images in % and its change against the original pixels in points, with 95% intervals; "
        "p corrected by Holm for all of the table. What the columns mean: [probing.md](probing.md).",
        _found(data["rows"]),
        table(
            ["probe of", "input", "bpp", "values", "accuracy", "against pixels", "detectable", "p (Holm)"],
            map(_line, data["rows"]),
        ),
        "The Barlow Twins check on the test images. The diagonal of the twins' cross-correlation is 1 for values that "
        "do not depend on the view; beside it is 0 for values that each say something of their own, and "
        f"{data['off_diagonal_by_chance']:.3f} by chance with so few images.",
        table(
            ["encoder", "input", "parameters", "loss", "diagonal", "off the diagonal"],
            (_check(row) for row in data["rows"] if row["diagonal"] is not None),
        ),
    ]


def _found(rows: list[dict[str, Any]]) -> str:
    """How many of the codes' comparisons differ, in a sentence."""
    of_codes = [row for row in rows if row["input"] == "codes"]
    different = [row for row in of_codes if row["p_holm"] < _LEVEL]
    names = ", ".join(
        f"{_input(row)} {row['representation']} ({100 * row['difference']:+.1f})" for row in different
    )
    which = f": {names}" if names else ""
    return (
        f"{len(different)} of {len(of_codes)} probes of codes differ from those of the original pixels at the 5% level"
        f"{which}."
    )


def _input(row: dict[str, Any]) -> str:
    return row["input"] if row["quality"] is None else f"{row['input']} q{row['quality']}"


def _line(row: dict[str, Any]) -> list[str]:
    difference = "–"
    if row["difference"] is not None:
        low, high = 100 * row["difference_low"], 100 * row["difference_high"]
        difference = f"{100 * row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
    return [
        row["representation"],
        _input(row),
        "–" if row["rate_bpp"] is None else f"{row['rate_bpp']:.3f}",
        str(row["num_values"]),
        f"{100 * row['accuracy']:.1f} [{100 * row['ci_low']:.0f}, {100 * row['ci_high']:.0f}]",
        difference,
        "–" if row["detectable"] is None else f"{100 * row['detectable']:.1f}",
        "–" if row["p_holm"] is None else f"{row['p_holm']:.3f}",
    ]


def _check(row: dict[str, Any]) -> list[str]:
    return [
        row["representation"],
        _input(row),
        str(row["num_parameters"]),
        f"{row['test_loss']:.1f}",
        f"{row['diagonal']:.3f}",
        f"{row['off_diagonal']:.3f}",
    ]
