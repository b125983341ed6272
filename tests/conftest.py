import matplotlib
import torch

# Not through MPLBACKEND: the notebooks' kernels would inherit it and draw nothing.
matplotlib.use("Agg")
# Sums in one order, here and in a process of its own; and a process for each core needs no more.
torch.set_num_threads(1)
