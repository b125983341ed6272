import matplotlib

# Not through MPLBACKEND: the notebooks' kernels would inherit it and draw nothing.
matplotlib.use("Agg")
