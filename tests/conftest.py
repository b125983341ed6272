import helpers
import matplotlib
import pytest
import torch

import tlc_minimal as tlc

# Not through MPLBACKEND: the notebooks' kernels would inherit it and draw nothing.
matplotlib.use("Agg")
# Sums in one order, here and in a process of its own; and a process for each core needs no more.
torch.set_num_threads(1)

LONG = ("test_zoo.py", "test_grammar.py", "06_fair_comparison.ipynb", "test_reproduce.py")


def pytest_collection_modifyitems(items):
    # The longest files first: then all processes are busy until the end.
    items.sort(key=lambda item: [*LONG, item.path.name].index(item.path.name))


def pytest_configure(config):
    # torch warns of a copy; several tests pad an even kernel by "same" on purpose.
    config.addinivalue_line("filterwarnings", "ignore:Using padding='same' with even kernel")


@pytest.fixture(autouse=True)
def seeded():
    """What a test draws does not depend on those before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits():
    """All digits, 32x32; tests do not change them."""
    return tlc.load_data("digits")


@pytest.fixture(scope="module")
def data():
    """A few digits, for what is about a run and not about what it learns."""
    return helpers.digits(64)


@pytest.fixture(scope="module")
def model():
    return helpers.drawn(tlc.simple_cnn, width=4, dtype=torch.float32)
