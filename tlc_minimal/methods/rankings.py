"""Other papers' rankings, and what they read of a network: by states, and by batch norms' gains."""

from torch import Tensor, fx, nn

from ..gaussian import entropy as binary_entropy
from ..graph import trace
from ..nodes import activation_nodes, module_of
from ..reading.layers import NORM, Anew
from ..statistics import measured


def entropy(model, data, names, replacement, seed) -> dict[str, float]:
    """Mean entropy in bits of the neurons' states, ON or OFF, as measured on training images
    (EASIER, arXiv 2404.18949): the layer whose neurons are nearest to one state goes first."""
    rates = firing_rates(model, data)
    return {n: float(binary_entropy(rates[n]).mean()) for n in names}


def magnitude(model, data, names, replacement, seed) -> dict[str, float]:
    """Mean |gamma| of the last batch norm in front (network slimming, Liu et al., arXiv
    1708.06519): what varies least goes first. ValueError where there is no batch norm."""
    traced = trace(model, share=True, example=data)
    nodes = activation_nodes(traced)
    gains = {n: last_norm(traced, nodes[n]).weight for n in names}
    return {n: 1.0 if w is None else float(w.detach().abs().mean()) for n, w in gains.items()}


def firing_rates(model: nn.Module, data) -> dict[str, Tensor]:
    """{name: share of the pre-activations that are positive, (channels,)}, measured everywhere: the
    probability of the state ON, without the Gaussian assumption."""
    rates = measured(trace(model, share=True, example=data).eval(), data, see=lambda z: z > 0)
    return {name: g.mean for name, g in rates.items()}


def last_norm(traced: fx.GraphModule, activation: fx.Node) -> nn.Module:
    """The batch norm that the published code pairs with an activation; ValueError if none."""
    node = activation
    while isinstance(node, fx.Node):
        module = module_of(traced, node)
        if isinstance(module, (*NORM, Anew)):
            return module
        node = node.args[0] if node.args else None  # of a sum: the branch, written first
    raise ValueError(f"{activation.target} follows no batch norm: the published rule needs one.")
