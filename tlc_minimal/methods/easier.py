"""EASIER: the activation whose neurons change their state least becomes the identity."""

from torch import nn

from ..collapse import Run
from ..data import Data
from .stages import Task, one_by_one


def easier(model: nn.Module, data: Data, task: Task) -> Run:
    """Quétu, Liao, Tartaglione, "The Simpler The Better", arXiv 2404.18949 (EASIER).

    p_i: share of the training images' pixels at which neuron i is ON, as measured; entropy of a
    layer H_l = mean over i of -p_i log2 p_i - (1 - p_i) log2(1 - p_i). argmin over l of H_l becomes
    the identity (ON or OFF, all channels), the network is trained again, and so on.
    """
    return one_by_one(model, data, task, "entropy", "identity")
