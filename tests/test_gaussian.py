"""The closed forms of lesson 02: against sums, high precision, and each other."""

import functools
import itertools

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tlc_minimal import gaussian as g

COSTS = {"off": g.cost_off, "on": g.cost_on, "constant": g.cost_constant, "affine": g.cost_affine}
MEANS = st.floats(-50, 50, allow_nan=False)
STDS = st.one_of(st.just(0.0), st.floats(1e-3, 50))
U = torch.linspace(-12, 12, 400_001, dtype=torch.float64)  # of a Riemann sum
BELL = torch.exp(-(U**2) / 2) / torch.exp(-(U**2) / 2).sum()
SOME = (-1.5, 0.8), (0.0, 1.0), (0.7, 2.0)  # mean, std


def tensors(*values):
    return [torch.tensor(v, dtype=torch.float64) for v in values]


@settings(max_examples=300, deadline=None)
@given(MEANS, STDS)
def test_the_state_is_the_cheaper_one_and_the_best_affine_map_never_worse(mean, std):
    mean, std = tensors(mean, std)
    values = {name: cost(mean, std) for name, cost in COSTS.items()}
    assert all(value >= 0 for value in values.values())
    chosen = values["on" if g.Gaussian(mean, std).on else "off"]
    assert chosen <= torch.minimum(values["off"], values["on"])
    rounding = 1e-12 * (mean**2 + std**2)
    assert all(values["affine"] <= value + rounding for value in values.values())
    assert values["constant"] <= values["off"] + rounding


@functools.cache
def exact(r: float) -> dict:
    """Every closed form for std = 1, to 800 digits (the textbook formulas cancel 700 of them)."""
    with mpmath.workdps(800):
        r = mpmath.mpf(r)
        on = mpmath.erfc(-r / mpmath.sqrt(2)) / 2
        phi = mpmath.exp(-r * r / 2) / mpmath.sqrt(2 * mpmath.pi)
        first, second = r * on + phi, (r * r + 1) * on + r * phi
        return {
            "p_on": on, "mean_relu": first, "slope": on, "shift": phi,
            "off": second, "on": (r * r + 1) * (1 - on) - r * phi,
            "constant": second - first**2, "affine": second - first**2 - on**2,
        }  # fmt: skip


FORMS = COSTS | {"p_on": g.p_on, "mean_relu": g.mean_relu}
FORMS |= {"slope": lambda *of: g.best_affine(*of)[0], "shift": lambda *of: g.best_affine(*of)[1]}
UNIT = dict(off=2, on=2, constant=2, affine=2, p_on=0, mean_relu=1, slope=0, shift=1)
RATIOS = [-40.0, -36.5, -25.0, -12.0, -5.0, -1.0, -0.01, 0.0, 0.3, 2.0, 6.0, 9.0, 20.0, 36.5, 40.0]


@pytest.mark.parametrize("form", FORMS)
def test_stable_to_forty_standard_deviations_in_any_unit(form):
    for r, std in itertools.product(RATIOS, (1.0, 2.0**-15, 2.0**15)):
        want = exact(r)[form] * mpmath.mpf(std) ** UNIT[form]
        got = FORMS[form](*tensors(r * std, std)).item()
        if abs(want) < 1e-300:
            assert 0 <= got < 1e-290, r
        else:
            assert abs(mpmath.mpf(got) / want - 1) < 1e-8, (r, got, float(want))


def test_without_spread_everything_is_certain():
    mean, std = torch.tensor([-2.0, 0.0, 3.0]), torch.zeros(3)
    assert g.p_on(mean, std).tolist() == [0, 0, 1]
    assert g.mean_relu(mean, std).tolist() == [0, 0, 3]
    assert g.cost_off(mean, std).tolist() == [0, 0, 9]
    assert g.cost_on(mean, std).tolist() == [4, 0, 0]
    assert g.cost_constant(mean, std).tolist() == g.cost_affine(mean, std).tolist() == [0, 0, 0]
    slope, shift = g.best_affine(mean, std)
    assert (slope * mean + shift).tolist() == [0, 0, 3]
    assert g.Gaussian(mean, std).entropy == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_any_shape_and_dtype(dtype, shape):
    mean, std = torch.randn(shape, dtype=dtype), torch.rand(shape, dtype=dtype)
    outs = [form(mean, std) for form in FORMS.values()] + list(g.best_affine(mean, std, F.gelu))
    assert all(out.shape == shape and out.dtype == dtype for out in outs)
    assert all(out.isfinite().all() for out in outs)


@pytest.mark.parametrize("form", FORMS)
def test_single_precision_agrees_with_double(form):
    mean = torch.linspace(-6, 6, 49)
    wide = FORMS[form](mean.double(), torch.full((49,), 1.5, dtype=torch.float64))
    narrow = FORMS[form](mean, torch.full((49,), 1.5))
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-7)
    whole = [FORMS[form](torch.tensor(n), torch.tensor(1)) for n in (0, 0.0)]
    assert whole[0] == whole[1], "whole numbers give fractions"


def test_entropy_is_one_bit_for_a_fair_coin_and_zero_for_certainty():
    assert g.entropy(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 1, 0]
    layer = g.Gaussian(torch.tensor([0.0, 100.0]), torch.tensor([1.0, 1.0]))
    assert layer.entropy == pytest.approx(0.5)
    assert g.entropy(torch.tensor(0.11)).item() == pytest.approx(0.49992, abs=1e-5)
    zero = g.Gaussian(torch.tensor([-1.0, 0.0, 1e-9]), torch.ones(3))
    assert zero.on.tolist() == [0, 0, 1], "a mean of zero is OFF"


@pytest.mark.parametrize("f", [F.gelu, F.silu, F.hardswish, F.relu6, F.relu])
def test_quadrature_finds_the_affine_map_of_other_activations(f):
    atol = {F.gelu: 1e-8, F.silu: 1e-8, F.relu: 1e-2}.get(f, 5e-3)
    for mean, std in SOME:
        z = mean + std * U
        slope = (f(z) * U * BELL).sum() / std
        shift = (f(z) * BELL).sum() - slope * mean
        got = g.best_affine(*tensors(mean, std), f)
        torch.testing.assert_close(torch.stack(got), torch.stack((slope, shift)), rtol=0, atol=atol)


@pytest.mark.parametrize("std", [0.0, 1e-30, 1e-12, 1e-8])  # a gain that has decayed
def test_quadrature_without_spread_is_the_tangent(std):
    mean = torch.tensor([-1.0, 0.5]).double().requires_grad_()
    (tangent,) = torch.autograd.grad(F.gelu(mean).sum(), mean)
    slope, shift = g.best_affine(mean.detach(), torch.full_like(mean, std), F.gelu)
    torch.testing.assert_close(slope, tangent, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope * mean + shift, F.gelu(mean), rtol=1e-9, atol=0)


@pytest.mark.parametrize("f", [torch.relu, F.gelu, torch.tanh])
def test_the_cost_of_any_line_is_its_expected_squared_error(f):
    a, b = tensors(0.3, -0.2)
    for mean, std in SOME:
        z, of = mean + std * U, tensors(mean, std)
        want = ((a * z + b - f(z)).square() * BELL).sum()
        torch.testing.assert_close(g.cost_line(*of, a, b, f), want, rtol=1e-6, atol=0)
        lines = {"on": tensors(1.0, 0.0), "off": tensors(0.0, 0.0), "affine": g.best_affine(*of)}
        for kind, line in (lines | {"constant": (0 * a, g.mean_relu(*of))}).items():
            torch.testing.assert_close(g.cost_line(*of, *line), COSTS[kind](*of))
