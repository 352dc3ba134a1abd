"""What the rows say, in plain sentences, the most important first; every sentence comes from rows of `limla.analysis`.

A difference is claimed only where the interval, or the p-value after Holm's correction, carries it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from limla.analysis.comparisons import Comparison
from limla.analysis.defence_table import DefenceRow
from limla.analysis.limits import Limit, sentence
from limla.analysis.masking import CHECKS, MaskingCheck, breaches
from limla.analysis.subjects import variant_text
from limla.pages.shown import bounds, points, probability, share
from limla.reporting.analysed import Analysed
from limla.reporting.evidence import gain, images, measured, points_text

STATIC, ASKS_NOTHING = "static", "none"
_STRENGTHS = {"static": 0, "bpda": 1, "eot-bpda": 1, "differentiable": 2, "eot-differentiable": 2}
"""Threat model → its rank among the kinds of attackers: defences are ranked where the highest one was met."""
LEVEL = 0.05
"""A p-value after Holm's correction below this is called a difference."""
_MAX_SENTENCES, _MAX_UNTOLD = 6, 2


@dataclass(frozen=True)
class Finding:
    """One sentence, and the part of the section that holds its numbers."""

    text: str
    anchor: str


@dataclass(frozen=True)
class Topic:
    """Findings about one question; `num_more` are left to the tables. An alarm warns about the others."""

    title: str
    findings: tuple[Finding, ...]
    num_more: int = 0
    is_alarm: bool = False


def topics(found: Analysed) -> list[Topic]:
    """All topics that have something to say."""
    is_told = any(row.verdict in ("found", "exceeds") for row in found.limits)
    every = (
        Topic(
            "How far images can be compressed",
            *_cut(_limits(found.limits), "limits", _MAX_SENTENCES if is_told else _MAX_UNTOLD),
        ),
        Topic("What training under compression changes", *_cut(_training(found), "training")),
        Topic("Whether compression defends", *_cut(_defences(found), "defence")),
        Topic(
            "Gradient masking suspected",
            *_cut(_alarms(found.checks), "masking"),
            is_alarm=True,
        ),
        Topic("What these images cannot tell", *_cut(_limitations(found), "comparisons")),
    )
    return [topic for topic in every if topic.findings]


def _cut(
    texts: Sequence[str | Finding], anchor: str, most: int = _MAX_SENTENCES
) -> tuple[tuple[Finding, ...], int]:
    """The first findings, and the number of those left out."""
    findings = [text if isinstance(text, Finding) else Finding(text, anchor) for text in texts]
    return tuple(findings[:most]), max(0, len(findings) - most)


def _limits(rows: Sequence[Limit]) -> list[str]:
    """One sentence per model and codec: limits that were found, then the others."""
    order = ("found", "exceeds", "cannot tell", "no originals")
    return [sentence(row) for row in sorted(rows, key=lambda row: order.index(row.verdict))]


def _training(found: Analysed) -> list[str]:
    """Per training condition: the clearest gain and loss on clean images, and under attack."""
    groups: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for row in found.of_kind("training"):
        groups[row.before.subject.label, row.after.subject.label].append(row)
    clear: list[tuple[float, str]] = []
    unclear: list[str] = []
    for rows in groups.values():
        best = _clearest(rows)
        if best:
            clear += [(-abs(row.result.difference), _training_sentence(row)) for row in best]
        else:
            unclear.append(_no_difference(rows))
    return [*(text for _, text in sorted(clear)), *unclear]


def _clearest(rows: Sequence[Comparison]) -> list[Comparison]:
    """The largest significant gain and loss, clean and under attack; each at most once."""
    chosen: dict[int, Comparison] = {}
    sides: tuple[Callable[[float], bool], ...] = (lambda value: value > 0, lambda value: value < 0)
    for is_clean in (True, False):
        for is_side in sides:
            clear = [
                row
                for row in rows
                if row.after.attack.is_none == is_clean
                and is_side(row.result.difference)
                and is_difference(row)
            ]
            if clear:
                best = max(clear, key=lambda row: abs(row.result.difference))
                chosen[id(best)] = best
    return list(chosen.values())


def is_difference(row: Comparison) -> bool:
    """Whether a comparison shows a difference after Holm's correction."""
    return not math.isnan(row.p_holm) and row.p_holm < LEVEL


def _training_sentence(row: Comparison) -> str:
    result, after = row.result, row.after
    under = "" if after.attack.is_none else f" under {after.attack.label}"
    what = "accuracy" if after.attack.is_none else "robust accuracy"
    verb = "raises" if result.difference > 0 else "lowers"
    return (
        f"Training {after.subject.tested_as} on {after.subject.trained_on} instead of {row.before.subject.trained_on} "
        f"{verb} {what} on {variant_text(after.variant)}{under} from {share(row.value_before)} to "
        f"{share(row.value_after)}: {points(result.difference)} points{bounds(result.low, result.high)}, n = "
        f"{images(result.num_images, result.num_seeds)}, p {_equals(row.p_holm)} after Holm’s correction."
    )


def _equals(p_value: float | None) -> str:
    text = probability(p_value)
    return text if text.startswith("<") else f"= {text}"


def _no_difference(rows: Sequence[Comparison]) -> str:
    after = rows[0].after.subject
    result = rows[0].result
    size = median(math.inf if math.isnan(row.result.detectable) else row.result.detectable for row in rows)
    below = "of any size" if math.isinf(size) else f"below about {100 * size:.1f} points"
    could = f"; differences {below} would go unseen"
    n = images(result.num_images, result.num_seeds)
    return (
        f"Training {after.tested_as} on {after.trained_on} instead of {rows[0].before.subject.trained_on} shows no "
        f"difference after Holm’s correction, in {_count(len(rows), 'comparison')} (n = {n}){could}."
    )


def _defences(found: Analysed) -> list[str]:
    """Per subject, test quality and attack: the defence that holds best against whoever knows it best."""
    groups: dict[tuple[object, ...], list[DefenceRow]] = defaultdict(list)
    for row in found.defences:
        if row.robust_defended is not None:
            groups[row.subject, row.variant, row.attack].append(row)
    # the originals first; within them the attack that leaves least without a defence
    ordered = sorted(
        groups.values(),
        key=lambda rows: (
            -math.inf if rows[0].variant[1] is None else -rows[0].variant[1],
            rows[0].robust.value if rows[0].robust else 1.0,
        ),
    )
    family = max((row.family_size for row in found.comparisons), default=0)
    return [_defence_sentence(rows, family) for rows in ordered]


def _defence_sentence(rows: Sequence[DefenceRow], family: int) -> str:
    """What the best defence gains against the static attacker, and what is left of it against each adaptive one."""
    by_defence: dict[str, list[DefenceRow]] = defaultdict(list)
    for row in rows:
        by_defence[row.defence].append(row)
    # one that met weaker attackers than another would win for want of an attack
    met = {name: max(_STRENGTHS[row.threat] for row in found) for name, found in by_defence.items()}
    ranked = [name for name in by_defence if met[name] == max(met.values())]
    worst = {name: min(by_defence[name], key=_left) for name in ranked}
    best = max(worst, key=lambda name: _left(worst[name]))
    least = worst[best]
    adaptive = sorted(
        (row for row in by_defence[best] if row.threat != STATIC), key=lambda row: _STRENGTHS[row.threat]
    )
    static = next((row for row in by_defence[best] if row.threat == STATIC), None)
    is_noise = least.knowledge == ASKS_NOTHING
    text = f"{least.subject} on {variant_text(least.variant)}, {least.attack}: "
    if least.robust is not None:
        text += f"{measured(least.robust)}% correct without a defence; "
    text += f"behind {best}{_rank(len(ranked), len(by_defence))}"
    if static is not None:
        knows = "" if is_noise else " against an attacker who does not know of it"
        text += f", {measured(static.robust_defended)}%{knows}"
    if adaptive:
        joint = (
            "; but" if static is not None and least.threat != STATIC and _left(least) < _left(static) else ","
        )
        who = "one who does" if static is not None else "an attacker who knows of it"
        each = " and ".join(f"{measured(row.robust_defended)}% ({row.threat})" for row in adaptive)
        text += f"{joint} {each} against {who}"
    verdict = _verdict(least, [row.threat for row in adaptive], family)
    unranked = _unranked({name: rows for name, rows in by_defence.items() if name not in worst})
    return f"{text} (n = {images(least.num_images, least.num_seeds)}). {verdict}{_price(least)}{unranked}"


def _rank(num_ranked: int, num_evaluated: int) -> str:
    if num_evaluated == 1:
        return ""
    if num_ranked == 1:
        return ", the only one that met an attacker of the strongest kind evaluated"
    kind = "" if num_ranked == num_evaluated else " that met an attacker of the strongest kind"
    return f", the best of {num_ranked}{kind} evaluated"


def _unranked(by_defence: Mapping[str, Sequence[DefenceRow]]) -> str:
    """The defences that are not ranked, with the attackers that they met and what was left against the worst."""
    parts = [
        f"{name} ({', '.join(row.threat for row in rows)}; {measured(min(rows, key=_left).robust_defended)}%)"
        for name, rows in by_defence.items()
    ]
    return f" Met weaker attackers only, so not ranked: {'; '.join(parts)}." if parts else ""


def _left(row: DefenceRow) -> float:
    return row.robust_defended.value if row.robust_defended else 1.0


def _verdict(row: DefenceRow, adaptive: Collection[str], family: int) -> str:
    """What `row`, that of the attacker who leaves least, says of the defence; `adaptive` attackers were tried."""
    if row.difference is None or row.p_holm is None:
        return "Whether it defends is not known: the same attack on the undefended model was not evaluated."
    if row.knowledge == ASKS_NOTHING:
        against = "noise, which is no attack"
    else:
        against = f"the strongest attacker evaluated ({row.threat})"
    if row.p_holm >= LEVEL:
        return (
            f"Against {against}: {gain(row.difference)} points by the defence, p {_equals(row.p_value)}; after Holm’s "
            f"correction over {_count(family, 'comparison')} that is not shown to be a difference "
            f"(p {_equals(row.p_holm)})."
        )
    if row.difference.value < 0:
        return f"It makes the model weaker against {against}: {gain(row.difference)} points."
    if row.knowledge == ASKS_NOTHING:
        return f"It gains {gain(row.difference)} points against {against}."
    if not adaptive:
        return (
            f"It gains {gain(row.difference)} points, against a static attacker only: no attacker who knows of the "
            "defence was evaluated, so this is no evidence that it defends."
        )
    text = f"Against {against} it gains {gain(row.difference)} points."
    if row.defence_codec == "jpeg" and not any("differentiable" in threat for threat in adaptive):
        text += " An attacker with a differentiable model of the codec was not evaluated."
    return text


def _price(row: DefenceRow) -> str:
    if row.clean is None or row.clean_defended is None:
        return ""
    return f" Clean accuracy: {measured(row.clean)}% without, {measured(row.clean_defended)}% behind it."


def _alarms(checks: Sequence[MaskingCheck]) -> list[str]:
    """How many checks are breached, then those that are breached most clearly."""
    found = breaches(checks)
    if not found:
        return []
    tested = sum(check.verdict != "not tested" for check in checks)
    kinds = Counter(CHECKS[check.name] for check in found)
    told = "; ".join(f"{kind} ({number})" for kind, number in kinds.items())
    first = (
        f"{len(found)} of {_count(tested, 'check')} for gradient masking {'is' if len(found) == 1 else 'are'} "
        f"breached; expected was that {told}. There robust accuracy may be too high: a better attack could leave less."
    )
    clearest = sorted(found, key=lambda check: -abs(check.difference or 0.0))
    return [first, *(check.sentence for check in clearest)]


def _limitations(found: Analysed) -> list[str | Finding]:
    texts: list[str | Finding] = []
    untold = [row for row in found.limits if row.verdict == "cannot tell"]
    if untold:
        text = (
            f"No limit within {points_text(found.margin)} could be told for {len(untold)} of "
            f"{_count(len(found.limits), 'pair')} of model and codec."
        )
        texts.append(Finding(text, "limits"))
    if found.comparisons:
        texts.append(_power(found.comparisons))
        texts += _few_seeds(found.comparisons)
    not_tested = [check for check in found.checks if check.verdict == "not tested"]
    if not_tested:
        texts.append(Finding(_not_tested(found.checks, not_tested), "masking"))
    refused = [row for row in found.differences if row.bd_rate_percent is None and row.bd_accuracy is None]
    if refused:
        texts.append(
            Finding(
                f"{_count(len(refused), 'pair')} of rate curves of {len(found.differences)} cannot be compared at "
                "equal rate or accuracy; the table gives each reason.",
                "rates",
            )
        )
    return texts


def _power(rows: Sequence[Comparison]) -> str:
    clear = sum(map(is_difference, rows))
    sizes = [row.result.detectable for row in rows if not math.isnan(row.result.detectable)]
    numbers = {images(row.result.num_images, row.result.num_seeds) for row in rows}
    text = (
        f"Paired comparisons that show a difference after Holm’s correction: {clear} of {len(rows)} (n = "
        f"{' and '.join(sorted(numbers))})."
    )
    if sizes:
        ends = dict.fromkeys(f"{100 * size:.1f}" for size in (min(sizes), max(sizes)))
        text += (
            " The smallest difference that one of them would find with 80% power is "
            f"{' to '.join(ends)} points, without a correction."
        )
    if len(sizes) < len(rows):
        none = f"{len(rows) - len(sizes)} of them" if sizes else "None of them"
        text += f" {none} would find {'no ' if sizes else 'a '}difference of any size with 80% power."
    return text


def _few_seeds(rows: Sequence[Comparison]) -> list[str]:
    """What few seeds that differ do to intervals and tests, in no sentence or one."""
    short = [row.result.num_seeds for row in rows if row.result.is_short_of_seeds]
    if not short:
        return []
    seeds = " or ".join(map(str, sorted(set(short))))
    return [
        f"{len(short)} of {_count(len(rows), 'comparison')} {'rests' if len(short) == 1 else 'rest'} on {seeds} seeds "
        f"that differ: the interval is then about other trainings, and {'very ' if 2 in short else ''}wide; more seeds "
        "narrow it, more images do not."
    ]


def _not_tested(checks: Sequence[MaskingCheck], not_tested: Sequence[MaskingCheck]) -> str:
    names = dict.fromkeys(CHECKS[check.name] for check in not_tested)
    return (
        f"{len(not_tested)} of {_count(len(checks), 'check')} for gradient masking could not be made, for want of an "
        f"attack to compare: {'; '.join(names)}."
    )


def _count(number: int, what: str, many: str = "") -> str:
    return f"{number} {what if number == 1 else many or what + 's'}"
