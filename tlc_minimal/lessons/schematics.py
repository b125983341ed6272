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


def cut() -> Figure:
    """Two layers as matrices, and what leaves them with the OFF channels between them."""
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.6), width_ratios=(4, 1.6, 6))
    off, names = (1, 4), ("first kernel", "channels", "second kernel")
    for ax, name, (rows, columns) in zip(axes, names, ((6, 4), (6, 1), (4, 6))):
        for i in range(rows):
            for j in range(columns):
                gone = (j if name == names[2] else i) in off
                look = (
                    dict(fc="white", ec=COLOURS[0], hatch="////") if gone else dict(fc=COLOURS[0])
                )
                ax.add_patch(plt.Rectangle((j, i), 0.9, 0.9, alpha=0.6, **look))
        ax.set(xlim=(-0.1, columns), ylim=(rows, -0.1), title=name, aspect="equal")
        ax.set_axis_off()
    for i in range(6):
        axes[1].text(1.1, i + 0.5, "OFF" if i in off else "ON", va="center", fontsize=9)
    axes[0].text(2, 6.5, "one row per output", ha="center")
    axes[2].text(3, 4.5, "one column per input", ha="center")
    return figure


def border() -> Figure:
    """The end of a map, in one dimension: the zeros that two layers see, and those of one layer."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True)
    titles = ("two layers, zeros between them", "one layer, zeros in front")
    for ax, title, lines in zip(axes, titles, ((0, 1, 2), (0, 2))):
        for y in lines:
            for x in range(-2 if y == 0 and len(lines) == 2 else -1, 6):
                zero = x < 0 and y < 2
                if x < 0 and y == 2:
                    continue
                look = dict(fc="white", ec=COLOURS[1]) if zero else dict(fc=COLOURS[0], alpha=0.5)
                ax.add_patch(plt.Rectangle((x - 0.4, -y - 0.3), 0.8, 0.6, **look))
                ax.text(x, -y, "0" if zero else "", ha="center", va="center", color=COLOURS[1])
        reach = 1 if len(lines) == 3 else 2
        for lower, upper in zip(lines[1:], lines):
            for x in range(-reach, reach + 1):
                ax.plot([0, x], [-lower + 0.3, -upper - 0.3], color="black", linewidth=0.8)
        ax.set(xlim=(-3, 6), ylim=(-2.5, 0.5), title=title)
        ax.set_axis_off()
    for y, word in enumerate(("input", "middle", "output")):
        axes[0].text(-1.7, -y, word, ha="right", va="center")
    return figure


def loop() -> Figure:
    """The four words of the loop, and which images each of them may look at."""
    figure, ax = plt.subplots(figsize=(8, 1.9))
    ax.set(xlim=(-0.6, 4.9), ylim=(-0.9, 1.2))
    ax.set_axis_off()
    words = {"rank": "validation", "linearise": "training", "tune": "training", "merge": "a clock"}
    for x, (word, images) in enumerate(words.items()):
        x = x + 0.5 * (word == "merge")
        box = dict(boxstyle="round,pad=0.5", fc="white", ec=COLOURS[x == 3.5])
        ax.text(1.2 * x, 0, word, ha="center", va="center", bbox=box, zorder=2)
        ax.text(1.2 * x, -0.6, images, ha="center", va="center", fontsize=9)
    way = dict(arrowstyle="->", color="black")
    ax.annotate("", (3.75, 0), (0, 0), arrowprops=way, zorder=1)
    ax.plot([2.9, 2.9, 0], [0, 0.8, 0.8], color="black", linewidth=1)
    ax.annotate("", (0, 0.3), (0, 0.82), arrowprops=way)
    ax.text(1.45, 0.92, "until enough is gone", ha="center", fontsize=9)
    return figure
