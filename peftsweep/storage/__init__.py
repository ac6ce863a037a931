"""The studies' database: an SQLite file or a PostgreSQL database that one sweep per study writes and anybody reads."""

from __future__ import annotations

from peftsweep.safe_text.secrets import masked
from peftsweep.storage.database_errors import guarded
from peftsweep.storage.identity import Place, claim, fresh, settle
from peftsweep.storage.record import Evaluation, StudyRecord, TrialRecord
from peftsweep.storage.stored_study import StoredStudy
from peftsweep.storage.studies import RETRAINED, Studies, check_there, exists
from peftsweep.storage.urls import check_apart, lasting, same_place

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
