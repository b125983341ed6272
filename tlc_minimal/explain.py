"""Says what taking activations out would do to a network, before anything is done."""

import pandas as pd
from torch import nn

from .graph import example_of, trace
from .linearize import linearize
from .merge import plan
from .statistics import statistics


def explain(
    model: nn.Module, data, remove=(), rule: str = "on_off_affine", padding: str = "as_trained"
) -> pd.DataFrame:
    """What would be removed, cut, merged and left, and why: one row a linear segment.

    ``data``: a tensor, DataLoader or Data, for shapes and statistics; ``remove``, ``rule`` and
    ``padding`` as in :func:`linearize` (without ``remove``: what merging would find in ``model`` as
    it is). Columns: segment (its first and last convolution), layers (convolutions) and MACs per
    image now, and once everything is merged that can be (``merge(keep="all")``; the default asks
    the clock), norms (that fold), cut (channels that are gone), why (what stays apart, and the
    reason). Nothing is changed. Errors as in ``linearize`` and ``merge``.
    """
    if not remove:
        return plan(trace(model).eval(), example_of(data))
    found = statistics(model, data)
    linear = linearize(model, remove, found, rule, padding).eval()
    whole = linearize(model, remove, found, "identity").eval()
    return plan(linear, example_of(data), whole)
