"""Export: a trial's adapter with everything needed to use it, checked; and predictions with it."""

from __future__ import annotations

from peftsweep.export.exporting import export
from peftsweep.export.manifest import Manifest, read
from peftsweep.export.prediction import Classifier, Prediction
from peftsweep.export.prediction_files import predict_file

__all__ = ["Classifier", "Manifest", "Prediction", "export", "predict_file", "read"]
