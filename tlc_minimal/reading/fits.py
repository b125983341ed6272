"""Whether a model and data fit together, before anything is traced or trained."""

from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from ..data import Data
from .layers import CONV
from .refuse import check_input, check_loaded, check_model, in_eval, not_accepted
from .tracer import first_input


def data_for(model: nn.Module, data):
    """The data as a model takes them: of grey images one channel, not three, where it takes one
    and not three. What is no Data comes back as it is; ValueError for a tensor that is no batch."""
    if isinstance(data, Tensor):
        return check_batched(data, model)
    if not isinstance(data, Data) or data.train.images.shape[1] > 1 or len(data.mean) == 1:
        return data
    grey, like = replace(data, mean=data.mean[:1], std=data.std[:1]), next(model.parameters(), None)
    takes = lambda some: not not_accepted(model, some.example[:2].to(like))
    return grey if like is not None and not takes(data) and takes(grey) else data


def example_of(data, model: nn.Module | None = None) -> Tensor:
    """An input batch from a tensor, from a Data (in as many channels as ``model`` takes), or from a
    DataLoader. TypeError, ValueError for what is no batch of finite floats."""
    if isinstance(data, Data):
        return (data if model is None else data_for(model, data)).example
    if isinstance(data, Tensor):
        return check_batched(check_input(data), model)
    if not hasattr(data, "__iter__") or hasattr(data, "__array__") or isinstance(data, dict | str):
        raise TypeError(
            f"an example input is needed, not {type(data).__name__}: give a batch of inputs as a "
            "tensor, a DataLoader or a Data."
        )
    if (batch := next(iter(data), None)) is None:
        raise ValueError(
            "the DataLoader yields nothing: give at least one batch; what yields only once (an "
            "iterator) is used up by now, so give a list of its batches."
        )
    x = check_input(batch[0] if isinstance(batch, tuple | list) else batch)
    return check_batched(x, model)


def at_hand(data, model: nn.Module) -> Tensor | None:
    """Inputs that are taken from nobody, and without dice: of a DataLoader the first two of its
    data set, or a batch if workers read it. None for what may yield only once, or puts batches
    together in its own way. Errors are those of :func:`example_of` for a tensor and a Data; all
    else is said by those who need the inputs."""
    if isinstance(data, Tensor | Data):
        return example_of(data, model)
    again = isinstance(data, DataLoader) and data.collate_fn is default_collate
    again = again and not isinstance(data.dataset, IterableDataset)
    try:
        with torch.random.fork_rng([]):
            if again and not data.num_workers:
                first = range(min(2, len(data.dataset)))
                data = [default_collate([data.dataset[i] for i in first])]
            return example_of(data, model) if again or isinstance(data, list | tuple) else None
    except Exception:  # whatever it wants
        return None


def check_batched(x: Tensor, model: nn.Module | None) -> Tensor:
    """The inputs; ValueError for a single one, which the first layer of a traced model would take
    for a batch, or without complaint."""
    for node in model.graph.nodes if isinstance(model, fx.GraphModule) else ():
        layer = model.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(layer, CONV) or node.all_input_nodes[0].op != "placeholder":
            continue
        if x.ndim == 1 + len(getattr(layer, "kernel_size", ())):
            raise ValueError(f"an example is a batch, not one of {tuple(x.shape)}: give x[None].")
    return x


def check_learns(model: nn.Module) -> None:
    """ValueError for a model that cannot be trained: all of it is frozen, or in float16, or
    gradients are switched off."""
    if not torch.is_grad_enabled():
        raise ValueError("gradients are off here: train outside torch.no_grad().")
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not learning:
        raise ValueError("no parameter learns: call model.requires_grad_() first.")
    if coarse := [n for n, p in learning.items() if p.dtype is torch.float16]:
        raise ValueError(f"{coarse[0]} is in float16, where steps are lost: call model.float().")


def check_is_data(data) -> None:
    """TypeError for what is no Data."""
    if not isinstance(data, Data):
        raise TypeError(
            f"data are a Data, as load_data gives it, not {type(data).__name__}: put the images "
            "into train/<class>/ and test/<class>/ of a folder, and load that; of two DataLoaders, "
            "Data.from_loader(train, test) makes one."
        )


def check_data(model: nn.Module, data: Data) -> Data:
    """The data as the model takes them (:func:`data_for`); TypeError for what is no Data,
    ValueError where labels, sizes, channels or classes do not fit: before anything is trained."""
    check_is_data(data)
    classes = len(data.classes)
    for name in ("train", "val", "test"):
        images, labels = getattr(data, name)
        if len(images) != len(labels):
            raise ValueError(f"{name} has {len(images)} images and {len(labels)} labels.")
        if labels.dtype != torch.int64 or labels.ndim != 1:
            got = f"{labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"{name}'s labels are int64, one an image, not {got}: give numbers.")
        if images.shape[1:] != data.train.images.shape[1:]:
            of_train, here = (tuple(x.shape[1:]) for x in (data.train.images, images))
            raise ValueError(f"{name} has images of {here}, train of {of_train}: give one size.")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            worst = max(int(labels.max()), -int(labels.min()), key=abs)
            raise ValueError(
                f"{name} has the label {worst}, and the classes are 0 to {classes - 1}."
            )
    check_model(model)
    check_loaded(model)
    first_input(model)
    data = data_for(model, data)
    like = next(model.parameters(), torch.empty(0))
    x = data.example[:2].to(like.device, like.dtype)
    if why := not_accepted(model, x):
        raise ValueError(why)
    with torch.no_grad(), in_eval(model):
        out = model(x)
    if not isinstance(out, Tensor) or out.shape[1:] != (classes,):
        got = f"of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(
            f"the model's output is {got}, and the data are of {classes} classes: give a model "
            f"with {classes} outputs, or its own data."
        )
    return data


def check_all(models, data: Data) -> Data:
    """:func:`check_data` for several models; ValueError if they take different images."""
    first, *others = [check_data(model, data) for model in models]
    if any(len(fit.mean) != len(first.mean) for fit in others):
        raise ValueError("one model takes grey images, another coloured ones: give models of one.")
    return first
