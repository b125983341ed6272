"""Pictures of what the course talks about, drawn and not measured."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .plots import COLOURS


def block() -> Figure:
    """A residual block, left to right, and what is known about its two rectifiers."""
    figure, ax = plt.subplots(figsize=(8, 2.5))
    ax.set(xlim=(-0.9, 8.3), ylim=(-1.3, 1.5))
    ax.set_axis_off()
    parts = ["conv1", "bn1", "relu1", "conv2", "bn2", "+", "relu2"]
    for x, part in enumerate(parts):
        colour = COLOURS[1] if part.startswith("relu") else COLOURS[0]
        box = dict(boxstyle="circle" if part == "+" else "round,pad=0.5", fc="white", ec=colour)
        box["linewidth"] = 2.5 if part.startswith("relu") else 1
        ax.text(x, 0, part, ha="center", va="center", bbox=box, zorder=2)
    way = dict(arrowstyle="->", color="black")
    ax.annotate("", (7.6, 0), (-0.8, 0), arrowprops=way, zorder=1)
    ax.plot([-0.6, -0.6, 5], [0, 1.1, 1.1], color="black", linewidth=1)
    ax.annotate("", (5, 0.3), (5, 1.12), arrowprops=way)
    ax.text(2.2, 1.2, "shortcut: x itself, or a 1x1 convolution with its norm", ha="center")
    known = {2: "bn1 knows its mean\nand its spread", 6: "nobody knows:\nmeasure"}
    for x, words in known.items():
        ax.text(x, -0.5, words, ha="center", va="top", fontsize=9, color=COLOURS[1])
    ax.text(-0.9, 0, "x", ha="right", va="center")
    return figure
