"""Taps that see nothing but padding: those of a kernel that is larger than its map."""

import torch
from torch import Tensor, nn

from ..padding import left_padding
from .layers import CONV
from .refuse import in_eval


@torch.no_grad()
def hold_idle_taps(model: nn.Module, x: Tensor) -> list:
    """Hooks that hold the gradient of such taps at 0, what it is: in bfloat16 on a CPU it came back
    as NaN (torch 2.15). ``x``: an input, (N, …). Returns the hooks' handles."""
    used = {}

    def look(conv: nn.Module, inputs: tuple, out: Tensor) -> None:
        seen = torch.ones(1, dtype=torch.bool)
        sizes = zip(inputs[0].shape[2:], out.shape[2:], left_padding(conv))
        for axis, (size, count, padding) in enumerate(sizes):
            taps = torch.arange(conv.kernel_size[axis]) * conv.dilation[axis] - padding
            at = torch.arange(count)[:, None] * conv.stride[axis] + taps
            inside = (at >= 0) & (at < size) | (conv.padding_mode != "zeros")
            seen = seen[..., None] & inside.any(0)
        used[conv] = used.get(conv, False) | seen[0]

    looks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, CONV[:-1])]
    try:
        with in_eval(model), torch.random.fork_rng():
            model(x)
    finally:
        for handle in looks:
            handle.remove()
    idle = {conv.weight: seen.to(x.device) for conv, seen in used.items() if not seen.all()}
    hold = lambda seen: lambda gradient: gradient.where(seen, 0)
    return [w.register_hook(hold(seen)) for w, seen in idle.items() if w.requires_grad]
