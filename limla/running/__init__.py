"""A whole study in one call: pack → re-encode → train → evaluate → report, skipping what is done."""

from limla.running.stages import DatasetStages, dataset_stages
from limla.running.status import StudyStatus, study_status
from limla.running.walk import RunResult, run

__all__ = ["DatasetStages", "RunResult", "StudyStatus", "dataset_stages", "run", "study_status"]
