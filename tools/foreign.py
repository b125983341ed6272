"""The tables of foreign networks on the library's page, from the record of tests/zoo_foreign.py."""

import json
import re
from pathlib import Path

PAGE, RECORD = Path("docs/library.md"), Path("data/results/zoo.json")


def filled() -> str:
    """The page with both tables in it, and its examples without the empty line that ends them."""
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    page = re.sub(r"\n\n```\n", "\n```\n", PAGE.read_text(encoding="utf-8"))
    return page.replace("<!-- foreign -->", f"{merged(rows)}\n\n{refused(rows)}".strip())


def merged(rows: list[dict]) -> str:
    """A line a network that could be merged."""
    lines = [("network", "pixels", "norms seen", "channels cut", "relative error")]
    for row in (row for row in rows if "error" in row):
        seen = f"{row['norms_seen']} of {row['norms']}"
        error = f"{row['error']:.0e}"
        lines.append((row["network"], str(row["size"]), seen, str(row["channels_cut"]), error))
    return table(lines)


def refused(rows: list[dict]) -> str:
    """A line a network that was not, with its sentence; nothing if there is none."""
    lines = [("network", "traced", "why it is not merged")]
    for row in (row for row in rows if "error" not in row):
        why = (row.get("refusal") or row["failure"]).split("Error: ")[-1]
        traced = "yes" if row.get("traced") else ""
        lines.append((row["network"], traced, why.replace("|", "\\|")))
    return table(lines) if len(lines) > 1 else ""


def table(lines: list[tuple]) -> str:
    lines = [lines[0], ("---",) * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
