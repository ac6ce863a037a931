"""The studies' database: an SQLite file or a PostgreSQL database that one sweep per study writes and anybody reads."""

from __future__ import annotations

from peftsweep.masking import masked
from peftsweep.storage.addresses import check_apart, lasting, same_place
from peftsweep.storage.faults import guarded
from peftsweep.storage.studies import RETRAINED, Studies, check_there, exists

__all__ = ["RETRAINED", "Studies", "check_apart", "check_there", "exists", "guarded", "lasting", "masked", "same_place"]
