"""The studies' database: an SQLite file or a PostgreSQL database that one sweep per study writes and anybody reads."""

from __future__ import annotations

from peftsweep.masking import masked
from peftsweep.storage.addresses import check_apart, lasting, same_place
from peftsweep.storage.faults import guarded
from peftsweep.storage.identity import Place, claim, fresh, settle
from peftsweep.storage.record import Evaluation, StudyRecord, TrialRecord
from peftsweep.storage.stored import StoredStudy
from peftsweep.storage.studies import RETRAINED, Studies, check_there, exists

__all__ = [
    "RETRAINED",
    "Evaluation",
    "Place",
    "StoredStudy",
    "Studies",
    "StudyRecord",
    "TrialRecord",
    "check_apart",
    "check_there",
    "claim",
    "exists",
    "fresh",
    "guarded",
    "lasting",
    "masked",
    "same_place",
    "settle",
]
