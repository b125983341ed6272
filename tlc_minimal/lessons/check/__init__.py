"""The exercises' checks, one file a lesson; ``check.name(my_function)`` in the notebooks."""

from .lesson00 import macs, one_layer_for_a_run, share_off, two_linear_layers
from .lesson01 import batch_norm, biased_variance, merge_tallies, output_std, residual_sum
from .lesson02 import best_line, layer_entropy, line_price, on_is_cheaper, p_on
from .lesson03 import (
    break_even,
    composed_bias,
    composed_geometry,
    composed_kernel,
    dirac,
    folded_batch_norm,
    merged_inside,
)
from .lesson04 import (
    activations_left,
    against_state,
    layer_score,
    over_seeds,
    paired_difference,
    spared_order,
)
from .lesson05 import least_price, paired_claim, undominated, within_budget
from .lesson06 import holm, paired_t, seeds_needed, sign_flip, state_entropy
from .lesson07 import between_positions, block_left, layer_norm, mean_gelu, one_matrix
from .lesson08 import auroc, beyond_chance, calibration_error, paired_speedup
