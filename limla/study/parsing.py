"""Plain values (a parsed TOML file, or options) → `Study`; every mistake is one line that names the entry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from limla.errors import LimlaError, SettingsError
from limla.manifest import SOURCE
from limla.plans import AttackPlan, DefencePlan, Parameter, parse_number, parse_value
from limla.study.kinds import wrong_kind
from limla.study.lines import EntryError, about_entry, line_of
from limla.study.plan import (
    CodecPlan,
    DatasetPlan,
    EvaluationPlan,
    SplitPlan,
    Study,
    TrainCondition,
    TrainingPlan,
    Variant,
)

EntryPath = tuple[str | int, ...]
"""Names of tables and keys, and places in arrays."""
_Plan = TypeVar("_Plan")
_QUALITY = re.compile(r"[0-9]{1,9}")
ONE_DATASET = ("data_dir", "raw")
"""Entries that describe one dataset at the top level, or in a table of `datasets`."""
_ONE_CODEC = ("codec", "qualities", "bpp", "subsampling", "weights")
_KNOWN = (
    *("data_dir", "output_dir", "raw", "datasets", *_ONE_CODEC, "codecs"),
    *(item.name for item in fields(Study) if item.name not in ("datasets", "output_dir", "codecs")),
)
_EXPECTED = {
    "train": 'a quality, "source", or a list of them, for each model, or a table with on = …',
    "test": 'a quality or "source"',
    "measure": 'a number of images, "all" or "none"',
}


@dataclass(frozen=True)
class StudyFile:
    """Where a study was read from.

    Attributes:
        where: begins every message: the file's name, or "options".
        text: of the file; "" for options.
    """

    where: str
    text: str = ""

    def at(self, *path: str | int) -> str:
        """The place of an entry: "study.toml, line 7"."""
        line = line_of(self.text, path) if self.text else None
        return self.where if line is None else f"{self.where}, line {line}"

    @contextmanager
    def naming_lines(self) -> Iterator[None]:
        """An error about an entry, raised inside, becomes a `SettingsError` of one line that begins with its place."""
        try:
            yield
        except EntryError as error:
            raise SettingsError(f"{self.at(*error.path)}: {' '.join(str(error).split())}") from error


def study_from(settings: dict[str, Any], where: str | StudyFile) -> Study:
    """Build a `Study` from plain values; `where` begins every message.

    Raises `SettingsError` naming the first entry that is unknown, of the wrong type or out of range.
    """
    origin = where if isinstance(where, StudyFile) else StudyFile(where)
    with origin.naming_lines():
        for name in settings:
            if name not in _KNOWN:
                raise EntryError((name,), f"unknown entry '{name}'; known: {', '.join(_KNOWN)}")
        return _validated(Study, _expanded(settings), ())


def _expanded(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with short forms written out, and lists of tables as plans."""
    found = {name: value for name, value in settings.items() if name not in (*ONE_DATASET, *_ONE_CODEC)}
    found["datasets"] = _one_or_many(settings, "datasets", ONE_DATASET, DatasetPlan)
    if not found["datasets"]:
        raise EntryError((), "'data_dir' is missing: add it, or 'raw' with a folder of photos")
    found["codecs"] = _one_or_many(settings, "codecs", _ONE_CODEC, CodecPlan) or (CodecPlan(),)
    if "training" in settings:
        found["training"] = _validated(TrainingPlan, settings["training"], ("training",))
    training = found.get("training", TrainingPlan())
    codecs = {codec.name: codec.text for codec in found["codecs"]}
    found["train"] = tuple(
        _train_condition(entry, ("train", place), training, codecs)
        for place, entry in enumerate(_list(settings, "train"))
    )
    found["test"] = tuple(
        _variant(entry, ("test", place), codecs) for place, entry in enumerate(_list(settings, "test"))
    )
    evaluation = settings.get("evaluation")
    if isinstance(evaluation, dict):
        found["evaluation"] = _evaluation(evaluation, codecs)
    return found


def _one_or_many(
    settings: dict[str, Any], many: str, single: Sequence[str], plan: type[_Plan]
) -> tuple[_Plan, ...]:
    """The tables of `many`, or the one that the top-level entries `single` describe."""
    given = {name: settings[name] for name in single if settings.get(name) is not None}
    if many not in settings:
        if not given:
            return ()
        try:
            return (_validated(plan, given, ()),)
        except EntryError as error:
            # the entry stands at the top level
            raise EntryError(error.path or (next(iter(given)),), str(error)) from error
    if given:
        raise EntryError(
            (next(iter(given)),), f"'{next(iter(given))}' and '{many}' are two ways to say it: keep one"
        )
    tables = _list(settings, many)
    if not tables:
        raise EntryError((many,), f"'{many}' is empty: add a [[{many}]] table")
    return tuple(_validated(plan, entry, (many, place)) for place, entry in enumerate(tables))


def _list(settings: dict[str, Any], name: str, path: EntryPath = ()) -> list[Any]:
    """The list `name` of a table, which stands at `path`; [] where it is missing."""
    entries = settings.get(name, [])
    if not isinstance(entries, list | tuple):
        expected = f" of: {_EXPECTED[name]}" if name in _EXPECTED else ""
        where = (*path, name)
        raise EntryError(where, f"'{_dotted(where)}' is {entries!r}: expected a list{expected}")
    return list(entries)


def _validated(plan: type[_Plan], entry: Any, path: EntryPath) -> _Plan:
    """A plan of plain values, through pydantic. Raises `EntryError` for the first problem."""
    from pydantic import TypeAdapter, ValidationError

    if isinstance(entry, dict) and (wrong := wrong_kind(plan, entry)):
        place = (*path, wrong[0])
        raise EntryError(place, f"'{_dotted(place)}' is {entry[wrong[0]]!r}: expected {wrong[1]}")
    try:
        return TypeAdapter(plan).validate_python(entry)
    except ValidationError as error:
        raise _first_problem(error.errors(), plan, path) from error


def _first_problem(problems: Sequence[Any], plan: type, path: EntryPath) -> EntryError:
    problem = problems[0]
    # a union reports each member it tried ("measure.int"): the entry's own name and number are what the user wrote
    members = ("int", "literal[", "tuple[", "function-", "str")
    inner = tuple(part for part in problem["loc"] if not (isinstance(part, str) and part.startswith(members)))
    place = (*path, *inner)
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, EntryError):
        return EntryError((*path, *cause.path), str(cause))
    if isinstance(cause, LimlaError):
        return EntryError(place, str(cause))
    name = ".".join(map(str, place))
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        tables = {"split": SplitPlan, "training": TrainingPlan, "evaluation": EvaluationPlan}
        owner = tables.get(str(inner[0]), plan) if len(inner) > 1 else plan
        known = ", ".join(item.name for item in fields(owner))
        return EntryError(place, f"unknown entry '{name}'; known: {known}")
    if problem["type"] in ("missing", "missing_argument"):
        return EntryError(place, f"'{name}' is missing: add it")
    expected = _EXPECTED.get(str(place[0])) if place else None
    text = problem["msg"][0].lower() + problem["msg"][1:]
    message = f"expected {expected}" if expected else text.replace("tuple", "list")
    return EntryError(place, f"'{name}' is {problem['input']!r}: {message}")


def _variant(entry: Any, path: EntryPath, codecs: Mapping[str, str]) -> Variant:
    """ "source", 10, or "webp:10"; `codecs` are the study's, name → text."""
    if entry == SOURCE:
        return SOURCE, None
    if isinstance(entry, int) and not isinstance(entry, bool):
        if len(codecs) > 1:
            raise EntryError(
                path, f"'{_dotted(path)}' is {entry}: of which codec? Write {next(iter(codecs))}:{entry}"
            )
        return next(iter(codecs)), entry
    if isinstance(entry, str):
        codec, colon, number = entry.partition(":")
        if colon and codec in codecs and _QUALITY.fullmatch(number):
            return codec, int(number)
    raise EntryError(
        path, f"'{_dotted(path)}' is {entry!r}: expected {_EXPECTED.get(str(path[0]), _EXPECTED['test'])}"
    )


def _train_condition(
    entry: Any, path: EntryPath, training: TrainingPlan, codecs: Mapping[str, str]
) -> TrainCondition:
    table = dict(entry) if isinstance(entry, dict) else {"on": entry}
    on, name = table.pop("on", SOURCE), table.pop("name", "")
    if not isinstance(name, str):
        raise EntryError((*path, "name"), f"'{_dotted((*path, 'name'))}' is {name!r}: expected a word")
    parts = on if isinstance(on, list | tuple) else [on]
    known = [item.name for item in fields(TrainingPlan)]
    for key in table:
        if key not in known:
            raise EntryError(
                (*path, key), f"unknown entry '{_dotted(path)}.{key}'; known: on, name, {', '.join(known)}"
            )
    plan = _validated(TrainingPlan, {**vars(training), **table}, path)
    variants = tuple(_variant(part, path, codecs) for part in parts)
    with about_entry(*path):
        return TrainCondition(variants, plan, name)


def _evaluation(evaluation: dict[str, Any], codecs: Mapping[str, str]) -> dict[str, Any]:
    found = dict(evaluation)
    path: EntryPath = ("evaluation",)
    with about_entry(*path, "eps"):
        if "eps" in evaluation:
            found["eps"] = tuple(map(parse_number, _as_list(evaluation["eps"])))
    with about_entry(*path, "alpha"):
        if "alpha" in evaluation:
            found["alpha"] = parse_number(evaluation["alpha"])
    if "attacks" in evaluation:
        attacks: dict[bool, list[AttackPlan]] = {False: [], True: []}
        for place, entry in enumerate(_list(evaluation, "attacks", path)):
            only_undefended = isinstance(entry, dict) and entry.get("undefended_only") is True
            with about_entry(*path, "attacks", place):
                plans = _attacks(entry)
                if isinstance(entry, dict):
                    _check_parameters(plans)
            attacks[only_undefended] += plans
        found["attacks"], found["undefended"] = tuple(attacks[False]), tuple(attacks[True])
    elif "undefended" in evaluation:
        raise EntryError((*path, "undefended"), "write attacks as tables with undefended_only = true")
    if "defences" in evaluation:
        found["defences"] = _defences(_list(evaluation, "defences", path), (*path, "defences"), codecs)
    for name in ("attacked", "defended"):
        if name in evaluation:
            found[name] = tuple(
                _variant(entry, (*path, name, place), codecs)
                for place, entry in enumerate(_list(evaluation, name, path))
            )
    return found


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _attacks(entry: Any) -> list[AttackPlan]:
    """One entry of `attacks`: a name, or a table with parameters; a list of eps makes one attack of each."""
    if isinstance(entry, str):
        return [AttackPlan(entry)]
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise SettingsError(
            f'{entry!r}: expected an attack\'s name, or a table as {{ name = "pgd", eps = "8/255" }}'
        )
    table = dict(entry)
    name, radii = table.pop("name"), _as_list(table.pop("eps", []))
    if not isinstance(table.pop("undefended_only", False), bool):
        raise SettingsError(f"undefended_only of attack '{name}': expected true or false")
    parameters: dict[str, Parameter] = {}
    for key, value in table.items():
        if not isinstance(value, str | int | float | bool):
            raise SettingsError(
                f"{key} = {value!r} of attack '{name}': expected one number, word, true or false"
            )
        parameters[key] = parse_value(value) if isinstance(value, str) else value
    plan = AttackPlan(name, tuple(parameters.items()))
    return [plan.with_defaults({"eps": parse_number(eps)}) for eps in radii] or [plan]


def _check_parameters(plans: Sequence[AttackPlan]) -> None:
    """Build attacks that bring their own parameters: the entry at fault is known here."""
    from limla.attacks.base import attack_needs_eps, build_attack

    for plan in plans:
        given = dict(plan.parameters)
        shared = {"eps": 0.0} if attack_needs_eps(plan.name) and "eps" not in given else {}
        build_attack(plan.name, {**shared, **given})


def _defences(entries: Sequence[Any], path: EntryPath, codecs: Mapping[str, str]) -> tuple[DefencePlan, ...]:
    """Tables { codec, qualities, threats, random }; entries about one defence are put together."""
    found: dict[str, DefencePlan] = {}
    known = ("codec", "qualities", "threats", "random")
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise EntryError(
                (*path, place),
                f'{entry!r}: expected a table as {{ qualities = [10, 50], threats = ["static"] }}',
            )
        for key in entry:
            if key not in known:
                raise EntryError(
                    (*path, place, key),
                    f"unknown entry '{_dotted((*path, place, key))}'; known: {', '.join(known)}",
                )
        with about_entry(*path, place):
            plans = _defence_plans(entry, codecs)
        for plan in plans:
            there = found.get(plan.label)
            threats = dict.fromkeys([*(there.threats if there else ()), *plan.threats])
            found[plan.label] = replace(plan, threats=tuple(threats))
    return tuple(found.values())


def _defence_plans(entry: dict[str, Any], codecs: Mapping[str, str]) -> list[DefencePlan]:
    codec, random = entry.get("codec", next(iter(codecs))), entry.get("random", False)
    qualities, threats = _as_list(entry.get("qualities", [])), _as_list(entry.get("threats", ["static"]))
    if not isinstance(codec, str) or not isinstance(random, bool):
        raise SettingsError("expected codec = a name, random = true or false")
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in qualities):
        raise SettingsError(f"qualities = {qualities!r}: expected whole numbers")
    if not all(isinstance(name, str) for name in threats):
        raise SettingsError(f"threats = {threats!r}: expected names")
    chosen = [tuple(qualities)] if random or not qualities else [(quality,) for quality in qualities]
    # a codec of the study has its knobs here too
    return [DefencePlan(codecs.get(codec, codec), numbers, tuple(threats)) for numbers in chosen]


def _dotted(path: EntryPath) -> str:
    return ".".join(map(str, path))
