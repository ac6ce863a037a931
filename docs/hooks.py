"""MkDocs hooks."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the benchmarks' picture, which is in their folder."""
    picture = Path(config.config_file_path).parent / "benchmarks" / "scaling.png"
    files.append(File.generated(config, "images/scaling.png", abs_src_path=str(picture)))
    return files
