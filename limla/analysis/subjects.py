"""Who and what is compared: the subjects, attacks and versions of the data that a set of conditions holds.

A *subject* is what is tested: a model with its training condition. Checkpoints of one training condition with
different seeds are one subject.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from limla.analysis.encodings import DataFolder, Variant, quality_order
from limla.errors import DataError
from limla.plans import NO_ATTACK
from limla.results import Condition

ORIGINALS = "originals"
STANDARD, UNKNOWN = "standard", "unknown"
_Base = tuple[str, str, str, str, str, str]
_SPELLINGS = {
    "fgsm": "FGSM",
    "mifgsm": "MI-FGSM",
    "pgd": "PGD",
    "cw": "CW",
    "autoattack": "AutoAttack",
    "square": "Square",
    "uniform-noise": "uniform noise",
    "gaussian-noise": "Gaussian noise",
}
"""Attack → as the papers write it; an attack of someone's own is shown by its name."""
_NUMBERED = ("pgd", "mifgsm")
"""Attacks whose name the papers give with the number of steps."""


@dataclass(frozen=True)
class Subject:
    """A model with its training condition.

    Attributes:
        model, train_codec, train_quality, preprocessing, decoder, train_method: as in `Condition`.
        checkpoint_id: "" when checkpoints of several seeds are one subject.
        label: a text that tells it from the other subjects of its section.
        checkpoints: (checkpoint_id, seed) of its runs.
    """

    model: str
    train_codec: str
    train_quality: str
    preprocessing: str
    decoder: str
    checkpoint_id: str
    label: str
    checkpoints: tuple[tuple[str, int], ...]
    train_method: str = STANDARD

    @property
    def is_clean_trained(self) -> bool:
        """Whether it was trained on the originals, in the standard way."""
        return self.train_quality == "source" and self.train_method == STANDARD

    @property
    def training(self) -> str:
        """ "originals", "jpeg q10", "originals, pgd linf …", "unknown training"."""
        return train_text(self.train_codec, self.train_quality, self.train_method)

    @property
    def who(self) -> str:
        """The label without the training: "MobileNetV2", with whatever else tells it from other subjects."""
        return self.label.replace(f" · {self.training}", "", 1)

    @property
    def trained_on(self) -> str:
        """The training; of several that differ in nothing that is known, with the checkpoint."""
        return f"{self.training} ({self.checkpoint_id})" if self.checkpoint_id else self.training

    @property
    def tested_as(self) -> str:
        """`who` without the checkpoint: what two trainings of a model have in common."""
        return self.who.replace(f" · {self.checkpoint_id}", "", 1) if self.checkpoint_id else self.who


@dataclass(frozen=True)
class Attack:
    """An attack with its settings; `label` reads "PGD-10, ε = 8/255", "targeted PGD-10 (L2), ε = 0.5"."""

    attack: str
    norm: str
    eps: float
    attack_settings: str
    label: str

    @property
    def is_none(self) -> bool:
        """True for the clean pass."""
        return self.attack == NO_ATTACK


def subjects_of(conditions: Sequence[Condition]) -> dict[Condition, Subject]:
    """The subject of each condition; runs are joined only where each has its own known seed."""
    runs: dict[_Base, set[tuple[str, int]]] = defaultdict(set)
    for condition in conditions:
        runs[_base(condition)].add((condition.checkpoint_id, condition.seed))
    keys: dict[tuple[_Base, str], tuple[tuple[str, int], ...]] = {}
    for base, checkpoints in runs.items():
        seeds = [seed for _, seed in checkpoints]
        if len(checkpoints) == 1 or (len(set(seeds)) == len(seeds) and -1 not in seeds):
            keys[base, ""] = tuple(sorted(checkpoints, key=lambda run: (run[1], run[0])))
        else:
            for run in checkpoints:
                keys[base, run[0]] = (run,)
    labels = _subject_labels([(*base, checkpoint) for base, checkpoint in keys])
    subjects = {
        key: Subject(
            model=key[0][0],
            train_codec=key[0][1],
            train_quality=key[0][2],
            train_method=key[0][3],
            preprocessing=key[0][4],
            decoder=key[0][5],
            checkpoint_id=key[1],
            label=label,
            checkpoints=checkpoints,
        )
        for (key, checkpoints), label in zip(keys.items(), labels, strict=True)
    }
    return {
        condition: subjects.get((_base(condition), "")) or subjects[_base(condition), condition.checkpoint_id]
        for condition in conditions
    }


def _base(condition: Condition) -> _Base:
    return (
        condition.model,
        condition.train_codec,
        condition.train_quality,
        condition.train_method,
        condition.preprocessing,
        condition.decoder,
    )


def train_text(train_codec: str, train_quality: str, train_method: str = STANDARD) -> str:
    """ "originals", "jpeg q10", "jpeg q1+10+50", "originals, pgd linf …", "unknown training"."""
    if train_quality == UNKNOWN:
        return "unknown training"
    images = ORIGINALS if train_quality == "source" else f"{train_codec} q{train_quality}"
    return images if train_method == STANDARD else f"{images}, {method_text(train_method)}"


def method_text(train_method: str) -> str:
    """A `train_method` for readers: long decimals as a multiple of 1/255, or with four digits."""
    return re.sub(r"(?<==)\d*\.\d+(?:e-?\d+)?(?![\w./])", lambda found: _short(found[0]), train_method)


def _short(number: str) -> str:
    value = float(number)
    if float(f"{value:.4g}") == value:
        return number
    levels = f"{value * 255:.4g}"
    is_exact = abs(float(levels) - value * 255) < 1e-6 and float(levels) >= 0.1
    return f"{levels}/255" if is_exact else f"{value:.4g}"


def _subject_labels(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Model and training condition, and whatever else differs among the subjects."""
    labels: list[str] = []
    for model, codec, quality, method, *rest in keys:
        parts = [model.rsplit(":", 1)[-1] if ":" in model else model, train_text(codec, quality, method)]
        alike = [key for key in keys if key[:4] == (model, codec, quality, method)]
        parts += [value for place, value in enumerate(rest, 4) if len({key[place] for key in alike}) > 1]
        labels.append(" · ".join(part for part in parts if part))
    if len(set(labels)) < len(labels):  # two functions of one name: their modules tell them apart
        return [f"{key[0]} · {' · '.join(part for part in key[1:] if part)}" for key in keys]
    return labels


def subject_order(subject: Subject) -> tuple[object, ...]:
    """Sort key: by model; trained on the originals, one quality, several, unknown; standard training first."""
    kind = {"source": 0, UNKNOWN: 3}.get(subject.train_quality, 2 if "+" in subject.train_quality else 1)
    quality = subject.train_quality
    number = float(quality) if quality.isdigit() else 0.0
    method = (subject.train_method != STANDARD, subject.train_method)
    return (subject.model, *method, kind, subject.train_codec, number, quality, subject.label)


def attacks_of(conditions: Sequence[Condition]) -> dict[Condition, Attack]:
    """The attack of each condition; settings that alone tell two attacks apart join the label."""
    keys = {(cell.attack, cell.norm, cell.eps, cell.attack_settings) for cell in conditions}
    clean = {key: (NO_ATTACK, "", 0.0, "") for key in keys if key[0] == NO_ATTACK}
    labels: dict[tuple[str, str, float, str], str] = {}
    for key in keys - clean.keys():
        short = _attack_label(key)
        alike = [other for other in keys if _attack_label(other) == short]
        labels[key] = f"{short} {_different_settings(key, alike)}".rstrip()
    found: dict[Condition, Attack] = {}
    for cell in conditions:
        key = (cell.attack, cell.norm, cell.eps, cell.attack_settings)
        found[cell] = Attack(*clean[key], "no attack") if key in clean else Attack(*key, labels[key])
    return found


def _attack_label(key: tuple[str, str, float, str]) -> str:
    attack, norm, eps, settings = key
    parameters = _settings(settings)
    name, steps = _SPELLINGS.get(attack, attack), parameters.get("steps")
    if steps is not None and (attack in _NUMBERED or attack not in _SPELLINGS):
        name += f"-{steps}"
    if norm not in ("linf", ""):
        name += f" ({norm.upper()})"
    if parameters.get("target"):
        name = f"targeted {name}"
    return f"{name}, ε = {eps_text(eps)}"


def _different_settings(key: tuple[str, str, float, str], alike: Sequence[tuple[str, str, float, str]]) -> str:
    mine = _settings(key[3]) | {"norm": key[1]}
    others = [_settings(other[3]) | {"norm": other[1]} for other in alike]
    names = sorted(set().union(*others))
    # a defence is no part of the attack, and has a name of its own
    differing = [
        name for name in names if name != "defence" and len({str(other.get(name)) for other in others}) > 1
    ]
    return f"({', '.join(f'{name} {mine.get(name)}' for name in differing)})" if differing else ""


def _settings(text: str) -> dict[str, object]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {"settings": text}
    return found if isinstance(found, dict) else {"settings": text}


def eps_text(eps: float) -> str:
    """ "0.1" where three decimals say it, "8/255" where eps is a multiple of a quarter of 1/255."""
    scaled = eps * 255
    if abs(eps - round(eps, 3)) > 1e-9 and abs(scaled * 4 - round(scaled * 4)) < 1e-6:
        return f"{scaled:.4g}/255"
    return f"{eps:.4g}"


def attack_order(attack: Attack) -> tuple[object, ...]:
    """Sort key: the clean pass first, then by name, norm and eps."""
    return (not attack.is_none, attack.attack, attack.norm, attack.eps, attack.label)


def one_per_run(conditions: Iterable[Condition]) -> list[Condition]:
    """Of cells that differ only in run, batch size and precision, one per checkpoint, by rising seed: the float32
    cell of the largest batch."""
    best: dict[str, Condition] = {}
    for cell in sorted(
        conditions, key=lambda cell: (cell.precision != "float32", -cell.batch_size, cell.cell_id)
    ):
        best.setdefault(cell.checkpoint_id, cell)
    return sorted(best.values(), key=lambda cell: (cell.seed, cell.checkpoint_id))


def of_one_version(
    conditions: Sequence[Condition], split: str, data: DataFolder | None, notes: list[str]
) -> list[Condition]:
    """The conditions of the data at hand, where a variant was made anew between evaluations.

    What a reader must know is added to `notes`. Raises `DataError` where two versions of a variant meet and `data`
    does not tell which one is meant.
    """
    ids: dict[Variant, set[str]] = defaultdict(set)
    for condition in conditions:
        ids[condition.test_codec, condition.test_quality].add(condition.data_id)
    current = {variant: manifest.data_id(split) for variant, manifest in data.manifests.items()} if data else {}
    wanted: dict[Variant, str] = {}
    changed: list[Variant] = []
    for variant, known in ids.items():
        if len(known) == 1:
            wanted[variant] = next(iter(known))
            if current.get(variant, wanted[variant]) not in known:
                changed.append(variant)
        elif current.get(variant) in known:
            wanted[variant] = current[variant]
        else:
            raise DataError(
                f"the results hold {len(known)} different versions of dataset '{conditions[0].dataset}', "
                f"{split}, {variant_text(variant)}: give --data-dir of the one to report, or evaluate into a new folder"
            )
    if changed:
        names = ", ".join(variant_text(variant) for variant in sorted(changed, key=quality_order))
        notes.append(
            f"The shards of {names} have changed since they were evaluated: what is told of files, such as bits per "
            "pixel, is that of the shards at hand, accuracy that of the earlier ones."
        )
    kept = [cell for cell in conditions if wanted[cell.test_codec, cell.test_quality] == cell.data_id]
    if len(kept) < len(conditions):
        number = len(conditions) - len(kept)
        notes.append(
            f"{number} {'cell' if number == 1 else 'cells'} of an earlier version of the data left out."
        )
    return kept


def variant_text(variant: Variant) -> str:
    """ "the originals", "jpeg q10"."""
    return f"the {ORIGINALS}" if variant[1] is None else f"{variant[0]} q{variant[1]}"
