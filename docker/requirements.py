"""Print the requirements in a pyproject.toml, so that an image's layer of packages does not change with the code.

python requirements.py pyproject.toml [EXTRA…]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

file, *extras = sys.argv[1:]
project = tomllib.loads(Path(file).read_text(encoding="utf-8"))["project"]
wanted = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
print("\n".join(wanted))
