"""Do confusion matrices have the right numbers, and are they drawn as readable files?"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from numpy.typing import NDArray

from peftsweep.charts import LONGEST_TITLE, confusion_png, count_text, heat_maps, row_shares, shortened

ROOT = Path(__file__).parents[1]
ODD = ["$x_1$ and $y", "two\nlines", "a name that goes on and on beyond any reason", "愛 🎉", ""]


def names(count: int) -> list[str]:
    return (ODD + [f"label {i}" for i in range(count)])[:count]


def counts(*shape: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 2000, size=shape)


def size(picture: Path) -> tuple[int, int]:
    """Width and height from the header of a PNG file."""
    head = picture.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:])
    return width, height


def test_shares_are_of_the_true_class_and_zero_for_a_class_without_rows() -> None:
    assert row_shares(np.array([[3, 1], [0, 0]])).tolist() == [[0.75, 0.25], [0.0, 0.0]]


def test_classes_share_one_map_and_each_label_has_its_own() -> None:
    (one,) = heat_maps(np.array([[2, 2], [0, 4]]), ["no", "yes"])
    assert (one.title, one.names, one.texts) == ("", ("no", "yes"), (("2", "2"), ("0", "4")))
    assert one.shares.tolist() == [[0.5, 0.5], [0.0, 1.0]]
    many = heat_maps(np.array([[[5, 5], [1, 3]], [[9, 0], [0, 0]]]), ["joy", "anticipation of more"])
    assert [heat.title for heat in many] == ["joy", shortened("anticipation of more", LONGEST_TITLE)]
    assert many[0].names == ("off", "on") and many[0].shares.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert many[1].texts == (("9", "0"), ("0", "0"))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (99_999, "99999"), (100_000, "100k"), (999_499, "999k"), (999_500, "1.0M"), (120_000_000, "120M")],
)
def test_a_count_fits_its_cell(count: int, text: str) -> None:
    assert count_text(count) == text


def test_a_long_label_keeps_both_ends() -> None:
    assert shortened("joy", 24) == "joy"
    assert shortened("two\n lines ", 24) == "two lines"
    assert shortened("emotion_category_17", 12) == "emotion_…_17"


@pytest.mark.parametrize("count", [2, 3, 11, 28])
@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_chart_has_a_readable_size_and_leaves_no_other_files(tmp_path: Path, count: int, kind: str) -> None:
    matrix = counts(count, count) if kind == "single" else counts(count, 2, 2)
    matrix[1] = 0
    picture = tmp_path / "confusion_matrix.png"
    picture.write_text("an older one")
    confusion_png(matrix, names(count), picture)
    width, height = size(picture)
    assert 300 < width < 1800 and 200 < height < 1800
    assert width > 30 * np.sqrt(matrix.size)
    assert list(tmp_path.iterdir()) == [picture]


def test_a_hundred_classes_are_drawn_without_numbers(tmp_path: Path) -> None:
    confusion_png(counts(100, 100), names(100), tmp_path / "c.png")
    assert max(size(tmp_path / "c.png")) < 3000


def test_a_failed_chart_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        confusion_png(counts(3, 2, 2), names(2), tmp_path / "c.png")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        confusion_png(counts(2, 2), names(2), tmp_path / "file" / "c.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


DRAWN = """
import sys
from pathlib import Path
import numpy as np
from peftsweep.charts import confusion_png
confusion_png(np.eye(2, dtype=int), ["no", "yes"], Path("c.png"))
import matplotlib
assert matplotlib.rcParams["axes.facecolor"] == "white"
"""


def test_a_chart_is_the_same_whatever_matplotlib_s_settings(tmp_path: Path) -> None:
    """An unreadable settings file in the working folder, an unknown backend, and the caller's own settings."""
    (tmp_path / "matplotlibrc").write_bytes(b"axes.facecolor: black\n# \xff\n")
    done = subprocess.run(
        [sys.executable, "-c", DRAWN], cwd=tmp_path, env=os.environ | {"MPLBACKEND": "none", "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0
    with matplotlib.rc_context({"text.usetex": True, "font.family": "absent", "figure.subplot.left": 0.8}):
        confusion_png(np.eye(2, dtype=int), ["no", "yes"], tmp_path / "own.png")
        assert matplotlib.rcParams["text.usetex"]
    confusion_png(np.eye(2, dtype=int), ["no", "yes"], tmp_path / "plain.png")
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "own.png").read_bytes()
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "own.png").read_bytes()
