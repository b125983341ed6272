"""nbgrader's configuration of the course: answers are taken out of what comes back, and graded in
the released notebook. Points, cells and checks are the lessons' own (tools/grade.py)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from nbgrader import preprocessors as pp  # noqa: E402
from rebuild import Rebuild  # noqa: E402

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "tlc-minimal"
# Source holds no solutions, so there are none to clear, and stubs stay what the lessons say.
c.GenerateAssignment.preprocessors = [
    pp.IncludeHeaderFooter,
    pp.LockCells,
    pp.ClearOutput,
    pp.CheckCellMetadata,
    pp.ComputeChecksums,
    pp.SaveCells,
    pp.ComputeChecksums,
]
c.Autograde.sanitize_preprocessors = [
    Rebuild,
    pp.ClearOutput,
    pp.OverwriteKernelspec,
    pp.OverwriteCells,
    pp.CheckCellMetadata,
]


def seconds(cell) -> int:
    """A loop without end costs its own check, not the rest; loading torch may take longer."""
    marks = cell.metadata.get("nbgrader", {})
    return 600 if marks.get("grade_id") == "imports" else 60


c.Execute.timeout_func = seconds
c.Execute.interrupt_on_timeout = True
