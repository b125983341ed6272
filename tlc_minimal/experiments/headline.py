"""The headline: how many of its 17 activations a ResNet-18 loses on CIFAR-10, and at what price.

In order of importance: throughput, dense, twelve activations at once and by the published algorithm
beside the control that loses none, projected beside networks of that size from scratch, other
numbers and choices at once, one at a time, one choice changed, the strong stem, the clock.
"""

from functools import partial
from typing import NamedTuple

import torch

from ..collapse import TUNING
from ..methods.published import SCHEDULE
from ..stages import METHODS
from ..train import best_device
from . import work
from .controls import CONTROLS, FRESH_LR, length
from .pieces import Piece
from .throughput import throughput


class Size(NamedTuple):
    """How large a profile runs everything."""

    width: int
    images: int | None
    dense: float  # epochs
    each: float  # epochs of tuning for each removal
    seeds: tuple[int, ...]
    remove: int  # one at a time
    depth: int  # removals of the comparison and of the ablation
    depths: tuple[int, ...]  # others, all at once
    shares: tuple[float, ...]  # of the MACs, that projections leave
    left: float  # of the MACs, when lines and blocks are chosen for them
    strong: tuple[int, int | None]  # width and images of the strong stem
    speed: float  # images a second in training, for the plan's estimates


SHARES = (0.22, 0.28, 0.5)  # the first one as a convolution a stage, the second as all at once has
LAPTOP = Size(16, None, 10, 0.5, (0, 1, 2), 16, 12, (8, 14, 16), SHARES, 0.28, (8, 20_000), 2_500)
PROFILES = {
    "smoke": Size(4, 300, 0.5, 0.34, (0,), 3, 2, (3,), (0.5,), 0.98, (4, 300), 300),
    "laptop": LAPTOP,
    "half": LAPTOP._replace(width=32, dense=12, each=1, strong=(32, None), speed=600),
    "paper": LAPTOP._replace(width=64, dense=30, each=2.5, strong=(64, None), speed=8_000),
}
AT_ONCE = {  # what else goes all at once: how many times as long, and what is chosen otherwise
    "twice as long, all at once": (2, {}),
    "ranked again, all at once": (1, {"again": True}),
    "thrifty, all at once": (1, {"rule": "thrifty"}),
    "random ranking, all at once": (1, {"rank": "random"}),
    "spare ranking, all at once": (1, {"rank": "spare"}),
}
RIVALS = {"easier": 0.02, "layer_folding": 0.02, "lacoot_without_regulariser": 0.1}  # lr
BLOCKS = {  # chosen for multiplications, and the control that may not drop a branch
    "blocks": "lines or blocks, all at once",
    "lines": "lines alone, all at once",
}
LONGER = "ours, projected, tuned as long as from scratch"
UNTAUGHT = "ours, projected, without a teacher"
CLOCKED = ("ours, all at once", "thrifty, all at once", "ours, projected", "published")
ARMS = {  # one choice changed, one at a time
    "random ranking": {"rank": "random"},
    "reference ranking": {"rank": "reference"},
    "closed-form ranking": {"rank": "gaussian"},
    "entropy ranking": {"rank": "entropy"},
    "thrifty": {"rule": "thrifty"},
    "on_off": {"rule": "on_off"},
    "affine": {"rule": "affine"},
    "identity": {"rule": "identity"},
    "not distilled": {"distil": False},
    "larger learning rate": {"lr": METHODS["at_once"].tuning["lr"]},
    "padding first": {"padding": "first"},
}


def prefix(profile: str, width: int) -> str:
    """What the names of records begin with. The paper profile on a CPU has records of its own: from
    the same seed another device makes another network."""
    here = "_cpu" if profile == "paper" and best_device().type == "cpu" else ""
    return f"headline_w{width}{here}"


def plan(profile: str) -> list[Piece]:
    """All pieces of a profile in order of importance."""
    s = PROFILES[profile]
    start, pieces = prefix(profile, s.width), []

    def add(name, seed, method, run, length, width=s.width, images=s.images, **config):
        config = {"study": "headline", "width": width, "method": method} | config
        config["dense_epochs"] = s.dense
        size = images or 45_000
        passes = length * size + (config.get("remove") or 0) * size / 2  # to rank and to test
        what = f"{prefix(profile, width)}_{name}_seed{seed}"
        minutes = max(0.1, passes / s.speed / 60)
        pieces.append(Piece(what, "cifar10", seed, config, run, minutes, images))

    def collapses(name, seed, method, how="at_once", remove=s.depth, each=s.each, dense=start,
                  options=None, lr=None, **sizes):  # fmt: skip
        config = {"dense": f"{dense}_dense_seed{seed}", "how": how, "remove": remove}
        config |= {"epochs": (remove or s.depth) * each, "options": options or {}}
        config["lr"] = lr or (TUNING | METHODS[how].tuning | config["options"])["lr"]
        add(name, seed, method, work.collapsed, config["epochs"], **sizes, **config)

    add("throughput", 0, "throughput", throughput, 4 * s.each)
    for seed in s.seeds:
        add("dense", seed, "dense", work.dense, s.dense, stem="paper")
    for seed in s.seeds:
        collapses(f"once{s.depth:02d}", seed, "ours, all at once")
        collapses("published", seed, "published", "published")
        parent, epochs = f"{start}_dense_seed{seed}", s.depth * s.each
        config = {"dense": parent, "epochs": epochs, "lr": METHODS["at_once"].tuning["lr"]}
        add("tuned_on", seed, "tuned on", work.longer, epochs, **config)
    for share in s.shares:
        percent = f"{100 * share:.0f}"
        for seed in s.seeds:
            size = {"remove": None, "share": share, "options": {"macs": share}}
            collapses(f"project_{percent}", seed, "ours, projected", "project", **size)
            like, config = pieces[-1], {"dense": f"{start}_dense_seed{seed}", "share": share}
            longer = s.each + s.dense / s.depth
            collapses(f"longer_{percent}", seed, LONGER, "project", each=longer, **size)
            size["options"] = {"macs": share, "distil": False}
            collapses(f"untaught_{percent}", seed, UNTAUGHT, "project", **size)
            for control, method in CONTROLS.items():
                run = partial(work.from_scratch, like, control)
                epochs = length(control, s.dense, s.depth * s.each, share)
                about = {"epochs": epochs, "lr": FRESH_LR, **config}
                add(f"{control}_{percent}", seed, method, run, epochs, **about)
    for seed in s.seeds:
        for n in dict.fromkeys((s.depth, max(1, s.depth // 3), *s.depths)):
            collapses(f"project{n:02d}", seed, "ours, projected per activation", "project", n)
        like = next(p for p in pieces if p.config["method"] == "ours, projected" and p.seed == seed)
        config = {"dense": f"{start}_dense_seed{seed}", "share": like.config["share"]}
        add("untuned", seed, "untuned", partial(work.untuned, like), 2, **config)
    for seed in s.seeds:
        for n in s.depths:
            collapses(f"once{n:02d}", seed, "ours, all at once", remove=n)
        for arm, (longer, options) in AT_ONCE.items():
            name = f"once_{arm.split(',')[0].replace(' ', '_')}"
            collapses(name, seed, arm, each=longer * s.each, options=options)
        for name, method in BLOCKS.items():
            options = {"macs": s.left, "constants": name == "blocks"}
            collapses(f"{name}_{100 * s.left:.0f}", seed, method, "blocks", options=options)
        options = {"set_rule": False}
        collapses("published_one", seed, "published, one by one", "published", options=options)
        for rival, rate in RIVALS.items():
            collapses(rival, seed, rival, rival, lr=rate)
    for seed in s.seeds:
        collapses("curve", seed, "ours, one by one", "one_by_one", s.remove)
        wide = {"stem": "paper", "precision": "float32"}
        add("float32", seed, "dense, in float32", work.in_float32, s.dense, **wide)
    for seed in s.seeds:
        for arm, options in ARMS.items():
            collapses(f"ablation_{arm.replace(' ', '_')}", seed, arm, "one_by_one", options=options)
    sizes = dict(zip(("width", "images"), s.strong))
    add("strong_dense", 0, "dense, strong stem", work.dense, s.dense, **sizes, stem="strong")
    strong = {"dense": f"{prefix(profile, s.strong[0])}_strong", **sizes}
    collapses("strong_curve", 0, "ours, one by one, strong stem", "one_by_one", s.remove, **strong)
    for like in [p for p in pieces if p.config["method"] in CLOCKED and p.seed == 0]:
        of = like.what.removeprefix(f"{start}_").removesuffix("_seed0")
        config = {"dense": f"{start}_dense_seed0", "of": like.config["method"]}
        of += "_gpu" * torch.cuda.is_available()
        add(f"clock_{of}", 0, "milliseconds", partial(work.clock, like), 0, **config)
    if profile == "paper":
        own = ("published, its epochs", "published", s.depth, 160)
        collapses("published_long", 0, *own, options=SCHEDULE)
    return pieces
