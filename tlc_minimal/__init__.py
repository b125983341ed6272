"""tlc_minimal: collapse deep networks, and see why it works. Start with notebooks/00_tour.ipynb."""

import sys

if getattr(sys, "orig_argv", [])[-3:] == ["-m", "tlc_minimal", "doctor"]:  # with nothing installed
    from .doctor import report

    print(report())
    sys.exit()

from .collapse import Run, collapse, load_run
from .data import Data, load_data
from .fold import fold
from .gaussian import Gaussian
from .graph import Layer, find_layers
from .lessons.checkpoints import load_checkpoint, save_checkpoint
from .linearize import linearize
from .measure import compare, count, latency
from .merge import explain, merge
from .methods import METHODS
from .models import resnet18, simple_cnn
from .project import project
from .rank import rank
from .results import record, results
from .stages import Method, Stage, Task
from .statistics import measured_statistics, statistics
from .train import best_device, evaluate, fit, precision, profile

__version__ = "0.3.0"
