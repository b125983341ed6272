"""The table of foreign networks on the library's page, from the record of tests/zoo_foreign.py."""

import json
from pathlib import Path

PAGE, RECORD = Path("docs/library.md"), Path("data/results/zoo.json")


def filled() -> str:
    """The page with the table in it."""
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    return PAGE.read_text(encoding="utf-8").replace("<!-- foreign -->", table(rows))


def table(rows: list[dict]) -> str:
    """A line a network; those that are not merged come first, with their sentence."""
    head = ("network", "traced", "norms seen", "channels cut", "relative error, or why not merged")
    lines = [head, ("---",) * len(head)]
    for row in sorted(rows, key=lambda row: "error" in row):
        seen = f"{row['norms_seen']} of {row['norms']}" if "norms_seen" in row else ""
        why = row.get("refusal") or row.get("failure") or f"{row['error']:.0e}"
        why = why.split("Error: ")[-1].replace("|", "\\|")
        traced = "yes" if row.get("traced") else ""
        lines.append((row["network"], traced, seen, str(row.get("channels_cut", "")), why))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
