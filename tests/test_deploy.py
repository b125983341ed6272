"""What comes out is an ordinary module: saved, exported, compiled and run elsewhere like any."""

import copy
import io
import pickle

import pytest
import torch
from helpers import drawn, relative_error
from safetensors.torch import load, save
from torch import fx, nn

import tlc_minimal as tlc
from tlc_minimal.modules import LEAVES

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _left(kind: str):
    """What stays behind in a network: every module of the library's own occurs."""
    model = drawn(tlc.resnet18, width=4, stem="strong", dtype=torch.float32)
    g = tlc.statistics(model, X)
    names = ["layer1.0.relu1", "layer1.0.relu2", "layer1.1.relu1", "layer2.1.relu2", "relu"]
    if kind == "projected":
        return tlc.fold(tlc.project(model, names, torch.randn(64, 3, 16, 16)).model, X)
    g["layer1.1.relu1"] = tlc.Gaussian(-g["layer1.1.relu1"].std, g["layer1.1.relu1"].std)
    linear = tlc.linearize(model, names, g).eval()
    return tlc.merge(linear, X, keep="all") if kind == "merged" else linear


@pytest.fixture(scope="module", params=["merged", "linear", "projected"])
def model(request):
    return _left(request.param)


def test_every_module_of_ours_is_among_them():
    found = {type(m) for kind in ("merged", "linear") for m in _left(kind).modules()}
    assert set(LEAVES) <= found


def exported(net: nn.Module) -> nn.Module:
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(net, (X,), dynamic_shapes=({0: batch},))
    torch.export.save(program, file := io.BytesIO())
    return torch.export.load(io.BytesIO(file.getvalue())).module()


def restored(net: nn.Module) -> nn.Module:
    twin = copy.deepcopy(net)
    for parameter in twin.parameters():
        parameter.data.zero_()
    twin.load_state_dict(load(save({k: v.contiguous() for k, v in net.state_dict().items()})))
    return twin


OTHERS = {
    "export": exported,
    "safetensors": restored,
    "symbolic_trace": fx.symbolic_trace,
    "jit.trace": lambda net: torch.jit.trace(net, X),
    "jit.script": torch.jit.script,
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "compile": lambda net: torch.compile(net, backend="aot_eager"),
}


@pytest.mark.filterwarnings("ignore")  # PyTorch's own, about its older tools
@pytest.mark.parametrize("other", OTHERS)
@torch.no_grad()
def test_what_others_make_of_a_result_computes_the_same(model, other):
    made = OTHERS[other](model)
    for x in (X, X[:2]):
        assert relative_error(made(x), model(x)) < 1e-5


@pytest.mark.filterwarnings("ignore")
def test_a_result_can_be_quantised(model):
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear})
    assert 0 < relative_error(quantised(X), model(X)) < 0.1


def test_onnx_gives_the_same(model, tmp_path):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (X,), path, dynamo=True, verbose=False)
    onnx.checker.check_model(path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert relative_error(torch.from_numpy(got), model(X)) < 1e-4


def test_it_goes_on_training(model):
    """Gradients reach every parameter that may learn, through every module of ours."""
    twin = copy.deepcopy(model).train()
    twin(X).square().mean().backward()
    learning = {k: p.grad for k, p in twin.named_parameters() if p.requires_grad}
    assert learning and not [k for k, gradient in learning.items() if gradient is None]
