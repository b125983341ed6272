"""Prints the floors of pyproject.toml as constraints: `python tools/floors.py`."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
for line in project["dependencies"] + extras["course"] + extras["dev"]:
    print(re.sub(">=", "==", line))
