"""Files that appear whole or not at all, and that say so when they are damaged."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn


def write_whole(path: str | Path, content: bytes) -> None:
    """Write ``content`` so that the file appears whole or not at all, whenever this is killed.

    Missing folders are made. OSError (of the system's own kind) names the file; an older one stays.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")  # no two processes share it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def cannot_write(path: Path, error: OSError) -> OSError:
    """The same kind of error, in a sentence that names the file."""
    advice = "make room, or choose a folder that can be written"
    return type(error)(f"{path} cannot be written ({error.strerror}): {advice}.")


def write_json(path: str | Path, content: dict) -> None:
    """Write ``content`` as :func:`write_whole` does."""
    write_whole(path, (json.dumps(content, indent=1, default=lambda n: n.item()) + "\n").encode())


def read_json(path: str | Path, fields: dict[str, type]) -> dict:
    """The content of a JSON file; ValueError names it if one of ``fields`` is not of its type."""
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it, or move it away.") from error
    found = content if isinstance(content, dict) else {}
    if wrong := [k for k, kind in fields.items() if not isinstance(found.get(k), kind)]:
        raise ValueError(f"{path} lacks a valid {', '.join(wrong)}: restore it, or move it away.")
    return content


def save_weights(weights: nn.Module | dict[str, Tensor], path: str | Path, **metadata: str) -> None:
    """Write a model's state dict, or any named tensors, as safetensors with a SHA-256 inside, as
    :func:`write_whole` does."""
    weights = weights.state_dict() if isinstance(weights, nn.Module) else weights
    as_stored = {"memory_format": torch.contiguous_format}  # a copy: safetensors shares no memory
    weights = {k: v.detach().cpu().clone(**as_stored) for k, v in weights.items()}
    write_whole(path, save(weights, metadata | {"sha256": digest(weights, metadata)}))


def load_weights(
    path: str | Path, into: nn.Module | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (on the CPU) and the metadata that :func:`save_weights` wrote.

    ``into``: a network that takes the weights over, on its own device. FileNotFoundError if there
    is no such file; ValueError if it is damaged, not ours, or of another network than ``into``.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: restore it, or make it again.")
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, to make it again.") from error
    if metadata.pop("sha256", None) != digest(weights, metadata):
        raise ValueError(f"{path} is damaged (wrong SHA-256): delete it, to make it again.")
    if into is not None:
        try:
            into.load_state_dict(weights)
        except RuntimeError as error:
            message = f"{path} holds the weights of another network: give the one it was saved from"
            raise ValueError(f"{message}, or delete it.") from error
    return weights, metadata


def digest(weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """SHA-256 of names, types, shapes and bytes, in any order, and of the metadata."""
    sha256 = hashlib.sha256(repr(sorted((metadata or {}).items())).encode())
    for name, x in sorted(weights.items()):
        sha256.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        sha256.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()
