"""A study: one grid of datasets, codecs, training conditions, attacks and defences, checked before any work starts."""

from limla.study.lines import EntryError, about_entry
from limla.study.parsing import StudyFile, study_from
from limla.study.plan import (
    CodecPlan,
    DatasetPlan,
    EvaluationPlan,
    SplitPlan,
    Study,
    TrainCondition,
    TrainingPlan,
)
from limla.study.reading import read_settings, read_study

__all__ = [
    "CodecPlan",
    "DatasetPlan",
    "EntryError",
    "EvaluationPlan",
    "SplitPlan",
    "Study",
    "StudyFile",
    "TrainCondition",
    "TrainingPlan",
    "about_entry",
    "read_settings",
    "read_study",
    "study_from",
]
