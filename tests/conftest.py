import matplotlib
import pytest
import torch

# Not through MPLBACKEND: the notebooks' kernels would inherit it and draw nothing.
matplotlib.use("Agg")
# Sums in one order, here and in a process of its own; and a process for each core needs no more.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    """All digits, 32x32; tests do not change them."""
    from tlc_minimal import load_data

    return load_data("digits")
