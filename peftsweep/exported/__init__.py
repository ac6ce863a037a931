"""A finished adapter, to be taken away: exported with all that it takes to use it, checked, and used."""

from __future__ import annotations

from peftsweep.exported.files import predict_file
from peftsweep.exported.manifest import Manifest, read
from peftsweep.exported.predicting import Classifier, Prediction
from peftsweep.exported.writing import export

__all__ = ["Classifier", "Manifest", "Prediction", "export", "predict_file", "read"]
