import matplotlib
import pytest

# Not through MPLBACKEND: the notebooks' kernels would inherit it and draw nothing.
matplotlib.use("Agg")


@pytest.fixture(scope="session")
def digits():
    """All digits, 32x32; tests do not change them."""
    from tlc_minimal import load_data

    return load_data("digits")
