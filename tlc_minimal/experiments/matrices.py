"""A block of a transformer as one matrix, attention and all, beside the block dropped and its MLP
alone as a matrix: each block before any tuning, then half of them, tuned as long as one another.
"""

import copy
from pathlib import Path

from torch import nn
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.vision_transformer import EncoderBlock

from ..data import Data
from ..graph import find_layers
from ..lessons.transformers import Block
from ..measure import count
from ..project import project
from ..train import evaluate
from . import beyond
from .controls import scores, train
from .pieces import Piece

NETWORKS = ("text", "vit", "swin")
BLOCKS = (Block, EncoderBlock, SwinTransformerBlock)


def dropped(model: nn.Module, blocks: list[str], data: Data) -> nn.Module:
    """What goes into a block comes out of it: nearly all of it is a residual stream."""
    model = copy.deepcopy(model)
    for block in blocks:
        model.set_submodule(block, nn.Identity())
    return model


def mlps(model: nn.Module, blocks: list[str], data: Data) -> nn.Module:
    """Only what lies between two matrices goes; attention stays."""
    inside = tuple(f"{block}." for block in blocks)
    names = [layer.name for layer in find_layers(model, data)]
    return project(model, [name for name in names if name.startswith(inside)], data).model


def matrices(model: nn.Module, blocks: list[str], data: Data) -> nn.Module:
    """Each block is one matrix."""
    return project(model, blocks, data).model


WAYS = {"dropped": dropped, "its MLP one matrix": mlps, "one matrix": matrices}


def plan(profile: str) -> list[Piece]:
    """A piece a network and seed, of the dense networks of study beyond."""
    pieces, config = [], {"study": "matrices", "method": "blocks"}
    for like in beyond.plan(profile):
        if like.config.get("network") in NETWORKS and like.config["method"] == "tuned on":
            what = like.what.replace("beyond", "matrices").replace("_tuned_on", "")
            about = {"what": what, "config": like.config | config, "minutes": 3 * like.minutes}
            pieces.append(like._replace(run=_tried, **about))
    return pieces


def _tried(piece: Piece, data: Data, out: Path) -> tuple[list[dict], float]:
    model, c = beyond.dense_of(piece, data, out), piece.config
    blocks = [name for name, module in model.named_modules() if isinstance(module, BLOCKS)]
    rows, total = [{"way": "dense", "blocks": 0, "removed": 0} | scores(model, data)], 0.0
    all_of_them = rows[0]["activations"]
    for way, change in WAYS.items():
        losses = {}
        for block in blocks:
            small = change(model, [block], data)
            losses[block], accuracy = evaluate(small, data)
            row = {"way": way, "blocks": 1, "layer": block, "val_before": accuracy}
            rows.append(row | scores(small, data, ()))
        half = sorted(blocks, key=losses.get)[: len(blocks) // 2]  # which this way costs least
        small = change(model, half, data)
        row = {"way": way, "blocks": len(half), "layer": ", ".join(half)}
        row["val_before"] = evaluate(small, data).accuracy
        removed = all_of_them - count(small, data)["activations"]
        this = piece._replace(what=f"{piece.what}_{way.replace(' ', '_')}")
        (tuned,), epochs = train(this, small, model, removed, data, out, c["tune_lr"], c["batch"])
        rows, total = [*rows, row | tuned], total + epochs
    return rows, total
