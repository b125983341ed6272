"""What comes out is an ordinary module: saved, exported, compiled and run elsewhere like any."""

import copy

import pytest
import torch
from helpers import drawn, relative_error
from safetensors.torch import load_file, save_file

import tlc_minimal as tlc
from tlc_minimal.modules import LEAVES

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _collapsed(merged: bool):
    """A network in which every module that the library leaves behind occurs."""
    model = drawn(tlc.resnet18, width=4, stem="strong", dtype=torch.float32)
    g = tlc.statistics(model, X)
    names = ["layer1.0.relu1", "layer1.0.relu2", "layer1.1.relu1", "layer2.1.relu2", "relu"]
    g["layer1.1.relu1"] = tlc.Gaussian(-g["layer1.1.relu1"].std, g["layer1.1.relu1"].std)
    linear = tlc.linearize(model, names, g).eval()
    return tlc.merge(linear, X, keep="all") if merged else linear


@pytest.fixture(scope="module", params=[True, False], ids=["merged", "linear"])
def model(request):
    return _collapsed(request.param)


def test_every_module_of_ours_is_among_them():
    found = {type(m) for made in (True, False) for m in _collapsed(made).modules()}
    assert set(LEAVES) <= found


def test_weights_are_saved_and_loaded_without_pickle(model, tmp_path):
    twin = copy.deepcopy(model)
    for parameter in twin.parameters():
        parameter.data.zero_()
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors"
    )
    twin.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert torch.equal(twin(X), model(X))


def test_the_whole_network_is_exported_saved_and_loaded(model, tmp_path):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (X,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    again = torch.export.load(tmp_path / "model.pt2").module()
    assert relative_error(again(X), model(X)) < 1e-6
    assert relative_error(again(X[:2]), model(X[:2])) < 1e-6


def test_onnx_gives_the_same(model, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (X,), path, dynamo=True, verbose=False)
    onnx.checker.check_model(path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert relative_error(torch.from_numpy(got), model(X)) < 1e-4


def test_it_compiles():
    model = _collapsed(True)
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager")
        assert relative_error(compiled(X), model(X)) < 1e-5


def test_it_goes_on_training(model):
    """Gradients reach every parameter that may learn, through every module of ours."""
    twin = copy.deepcopy(model).train()
    twin(X).square().mean().backward()
    learning = {k: p for k, p in twin.named_parameters() if p.requires_grad}
    silent = [k for k, p in learning.items() if p.grad is None]
    assert learning and not silent
