"""What the library promises of every rule, held against those of mine."""

import mine

from tlc_minimal.lessons import conformance


def test_the_ranking_keeps_its_promises():
    conformance.ranking(mine.rank)


def test_the_line_keeps_its_promises():
    conformance.line(mine.line)
