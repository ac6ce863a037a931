"""The studies' database: an SQLite file or a PostgreSQL database that one sweep per study writes and anybody reads."""

from __future__ import annotations

from peftsweep.safe_text.secrets import masked
from peftsweep.storage.attributes import enqueued_with, write_study, write_trial
from peftsweep.storage.database_errors import explained, guarded
from peftsweep.storage.identity import OWNER, Place, claim, fresh, owner, restore, settle
from peftsweep.storage.optuna_states import in_optuna
from peftsweep.storage.outages import Patience, outage
from peftsweep.storage.record import StudyRecord, TrialRecord
from peftsweep.storage.record_parts import Behind, EvaluationRecord, HeldOutScores, Retrained
from peftsweep.storage.stored_study import StoredStudy
from peftsweep.storage.studies import RETRAINED, Studies, check_there, exists
from peftsweep.storage.sweep_record import StopRequest, SweepRecord, WorkerRecord
from peftsweep.storage.urls import check_apart, lasting, same_place

__all__ = [
    "OWNER",
    "RETRAINED",
    "Behind",
    "EvaluationRecord",
    "HeldOutScores",
    "Patience",
    "Place",
    "Retrained",
    "StopRequest",
    "StoredStudy",
    "Studies",
    "StudyRecord",
    "SweepRecord",
    "TrialRecord",
    "WorkerRecord",
    "check_apart",
    "check_there",
    "claim",
    "enqueued_with",
    "exists",
    "explained",
    "fresh",
    "guarded",
    "in_optuna",
    "lasting",
    "masked",
    "outage",
    "owner",
    "restore",
    "same_place",
    "settle",
    "write_study",
    "write_trial",
]
