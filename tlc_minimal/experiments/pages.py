"""The pages that show the records: README.md and data/results/README.md, filled with tables."""

import pandas as pd

from .elsewhere import beyond, matrices, zoo
from .sized import few, ladder, predicts, projected, rates, recipes, stronger, untuned, widest
from .tables import ablation, baseline, chain, fair, headline, raced, speed

ALL = (headline, projected, untuned, rates, recipes, few, ladder, predicts, ablation)
ALL += (baseline, stronger, fair, chain, beyond, matrices, raced, speed, zoo, widest)
TABLES = {table.__name__: table for table in ALL}


def fill(page: str) -> str:
    """A page with the tables that it marks (<!-- headline --> … <!-- /headline -->) made anew."""
    for name, make in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if begin in page:
            before, rest = page.split(begin, 1)
            page = f"{before}{begin}\n\n{markdown(make())}\n\n{end}{rest.split(end, 1)[1]}"
    return page


def markdown(table: pd.DataFrame) -> str:
    """A table of text as GitHub reads it."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
