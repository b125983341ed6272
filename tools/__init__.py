"""What the make targets beside the course need: site, slides, grading, launch. Not installed."""
