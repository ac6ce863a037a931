"""Where are studies and runs stored, unless a command or a call says otherwise? In the working folder."""

from __future__ import annotations

STORAGE, TRACKING = "sqlite:///studies.db", "sqlite:///mlflow.db"
