"""How much of other people's networks this library reads: a table, data/results/zoo.json.

    pip install -c constraints.txt -e ".[zoo]"; python tests/zoo_foreign.py [names …]

Every network has random weights and random batch-norm statistics. Two of its activations behind a
batch norm become linear with every other channel OFF; then all is merged that can be. A row has:
traced, norms seen of those there, activations found, channels cut, the relative error of the merged
network against the linear one in float64, seconds; or, where one is refused, its sentence and what
was known by then. Rows that are in runs/zoo.json already are not measured again; delete it to begin
anew.
"""

import json
import signal
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

import tlc_minimal as tlc
from tlc_minimal.gaussian import Gaussian
from tlc_minimal.graph import trace
from tlc_minimal.nodes import module_of
from tlc_minimal.reading.layers import CONV, NORM
from tlc_minimal.reading.refuse import not_accepted
from tlc_minimal.reading.tracer import first_input

TIMM = [
    "resnet18",
    "resnet50",
    "resnet26d",
    "seresnet18",
    "resnext26ts",
    "resnetv2_50",
    "skresnet18",
    "res2net50_14w_8s",
    "ecaresnet26t",
    "efficientnet_b0",
    "efficientnet_lite0",
    "tf_efficientnet_b0",
    "tf_efficientnetv2_b0",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "tf_mobilenetv3_small_minimal_100",
    "mobilenetv4_conv_small",
    "mnasnet_small",
    "mixnet_s",
    "fbnetc_100",
    "spnasnet_100",
    "semnasnet_075",
    "hardcorenas_a",
    "ghostnet_050",
    "ghostnetv2_100",
    "regnetx_002",
    "regnety_002",
    "densenet121",
    "darknet17",
    "cspresnet50",
    "cspdarknet53",
    "vovnet39a",
    "ese_vovnet19b_dw",
    "repvgg_a0",
    "mobileone_s0",
    "repghostnet_050",
    "lcnet_035",
    "tinynet_e",
    "dla34",
    "dla46_c",
    "hrnet_w18_small",
    "selecsls42b",
    "dpn48b",
    "xception41",
    "inception_v3",
    "nf_resnet26",
    "gernet_s",
    "vgg11_bn",
    "convnext_atto",
    "convnextv2_atto",
    "edgenext_xx_small",
    "fastvit_t8",
    "mobilevit_xxs",
    "poolformer_s12",
    "visformer_tiny",
    "levit_128s",
    "efficientformer_l1",
    "starnet_s1",
    "rdnet_tiny",
    "hgnetv2_b0",
    "mambaout_femto",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "mixer_s32_224",
    "resmlp_12_224",
    "convmixer_768_32",
    "coat_lite_tiny",
    "pit_ti_224",
    "swin_tiny_patch4_window7_224",
    "cait_xxs24_224",
    "crossvit_tiny_240",
    "tresnet_m",
    "botnet26t_256",
    "halonet26t",
    "repvit_m0_9",
    "pvt_v2_b0",
    "maxvit_rmlp_pico_rw_256",
    "resnest14d",
    "gcresnext26ts",
    "eca_nfnet_l0",
    "cs3darknet_s",
    "inception_next_atto",
    "mobilevitv2_050",
    "efficientvit_b0",
    "efficientvit_m0",
    "efficientformerv2_s0",
    "convformer_s18",
    "ghostnetv3_050",
    "fasternet_t0",
    "swiftformer_xs",
    "shvit_s1",
    "tiny_vit_5m_224",
    "davit_tiny",
    "xcit_nano_12_p16_224",
]
SMP = [
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
    "DPT",
]
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1]}
HF = {  # transformers' <name>ForImageClassification, and what makes it small
    "ResNet": STAGES | {"embedding_size": 16},
    "RegNet": STAGES | {"embedding_size": 16, "groups_width": 8},
    "ConvNext": STAGES,
    "ConvNextV2": STAGES,
    "MobileNetV1": {"depth_multiplier": 0.25},
    "MobileNetV2": {"depth_multiplier": 0.35},
    "EfficientNet": {"width_coefficient": 0.5, "depth_coefficient": 0.5, "hidden_dim": 640},
    "ViT": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "intermediate_size": 128, "image_size": 64, "patch_size": 8},
    "Swin": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
             "image_size": 64},
    "Levit": {"hidden_sizes": [64, 96, 128], "num_attention_heads": [2, 3, 4], "depths": [2, 2, 2],
              "key_dim": [16, 16, 16]},
}  # fmt: skip
LIMIT = 200  # seconds of the processor a network


def build(name: str) -> tuple[nn.Module, list[int]]:
    """The network and the sides of images to try."""
    library, _, word = name.partition("/")
    if library == "smp":
        import segmentation_models_pytorch as smp

        encoder = "tu-vit_tiny_patch16_224" if word == "DPT" else "resnet18"  # it takes no other
        return smp.create_model(word, encoder, encoder_weights=None, classes=3), [64, 128, 224]
    if library == "hf":
        import transformers

        config = getattr(transformers, f"{word}Config")(num_labels=10, **HF[word])
        model = getattr(transformers, f"{word}ForImageClassification")(config)
        return model, [64, 128, 224]
    import timm

    model = timm.create_model(word, pretrained=False, num_classes=10)
    size = model.default_cfg["input_size"][1]
    fixed = model.default_cfg.get("fixed_input_size") or word.endswith(("_224", "_240", "_256"))
    return model, [size] if fixed else [64, 128, size]


def image(model: nn.Module, sides: list[int]) -> torch.Tensor:
    """Two images of the first side that the network takes; of the last one if of none."""
    for side in sides:
        x = torch.rand(2, 3, side, side, dtype=torch.float64)
        if not not_accepted(model, x):
            break
    return x


def randomize(model: nn.Module) -> int:
    """Random statistics and gains in every batch norm; how many there are."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        for tensor, low, high in (
            (norm.running_mean, -0.3, 0.3), (norm.running_var, 0.5, 2.0),
            (norm.weight, 0.5, 1.5), (norm.bias, -0.3, 0.3),
        ):  # fmt: skip
            if tensor is not None:
                tensor.data.uniform_(low, high)
    for parameter in model.parameters():
        if not parameter.any():  # some heads begin at zero, and would hide all that is before them
            torch.nn.init.normal_(parameter, std=0.1)
    return len(norms)


def half_off(channels: int) -> Gaussian:
    mean = torch.ones(channels)
    mean[::2] = -1
    return Gaussian(mean, torch.ones(channels))


def widths(traced) -> int:
    modules = [module_of(traced, n) for n in traced.graph.nodes]
    return sum(len(m.weight) for m in modules if isinstance(m, CONV))


@torch.no_grad()
def measure(name: str, row: dict) -> None:
    """Fill one row of the table."""
    torch.manual_seed(0)
    model, sides = build(name)
    norms = randomize(model.eval())
    x = image(model.double(), sides)
    row |= {"size": x.shape[-1], "norms": norms, "traced": False}
    traced = trace(model, share=True, example=x)
    row["traced"] = True
    row["norms_seen"] = len(
        {n.target for n in traced.graph.nodes if isinstance(module_of(traced, n), NORM)}
    )
    layers = tlc.find_layers(model, x)
    row["activations"] = len(layers)
    able = [layer for layer in layers if layer.norm and not layer.after_sum] or layers
    chosen = {able[len(able) * i // 4] for i in (1, 2)} if able else set()
    gone = {layer.name: half_off(layer.channels) for layer in chosen}
    linear = tlc.linearize(model, list(gone), gone, "on_off") if name_only(model) and gone else None
    if linear is None:
        linear = tlc.linearize(model, [layer.name for layer in chosen], x, "on_off")
    linear = linear.eval()
    row["channels_cut"] = widths(traced) - widths(linear)
    merged = tlc.merge(linear, x, keep="all")
    want, got = (first(m(**{first_input(model): x})) for m in (linear, merged))
    row["error"] = float((got - want).norm() / want.norm())


def name_only(model: nn.Module) -> bool:
    """Whether a model can be read without an example, as ready statistics need."""
    try:
        return trace(model, share=True) is not None
    except ValueError:
        return False


def first(out) -> torch.Tensor:
    out = list(out.values()) if isinstance(out, dict) else out
    return out if isinstance(out, torch.Tensor) else first(out[0])


def limited(name: str) -> dict:
    """The row, as far as it came, and what stopped it."""

    def stop(*_):
        raise TimeoutError(f"not finished in {LIMIT} s")

    signal.signal(signal.SIGPROF, stop)  # what else the machine does is not counted
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    start, row = time.process_time(), {"network": name}
    try:
        measure(name, row)
    except Exception as error:
        kind = "refusal" if isinstance(error, (ValueError, TypeError)) else "failure"
        row[kind] = f"{type(error).__name__}: {error}"[:400]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return row | {"seconds": round(time.process_time() - start, 1)}


def main(names: list[str]) -> None:
    root = Path(__file__).parents[1]
    path = root / "runs/zoo.json"
    path.parent.mkdir(exist_ok=True)
    rows = json.loads(path.read_text()) if path.exists() else []
    there = {"timm": TIMM, "smp": SMP, "hf": HF}
    listed = [f"{library}/{n}" for library in there for n in there[library]]
    for name in names or listed:
        if not any(row["network"] == name for row in rows):
            rows.append(limited(name))
            print(rows[-1], flush=True)
            path.write_text(json.dumps(rows, indent=1) + "\n")
    rows.sort(key=lambda row: [*listed, row["network"]].index(row["network"]))
    data = SimpleNamespace(name="random numbers", sha256="none")
    libraries = "timm", "segmentation-models-pytorch", "transformers"
    config = {n: version(n) for n in libraries} | {"limit_s": LIMIT}
    seconds, command = sum(row["seconds"] for row in rows), "python tests/zoo_foreign.py"
    made = tlc.record("zoo", data, config, 0, rows, seconds, 0, command, path.parent / "record")
    made.replace(root / "data/results/zoo.json")
    print(f"{sum('error' in row for row in rows)} of {len(rows)} merged")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
