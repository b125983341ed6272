"""Downloads that can be trusted: several sources, resumed where they broke off, SHA-256 checked."""

import errno
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

PATIENCE, SLOW = 15, 200_000  # a source below 200 kB/s after 15 s waits until the others failed


def download(urls: list[str], target: Path, sha256: str) -> None:
    """Fetches one file from the first source that serves it whole; what was begun is resumed.

    ConnectionError if none does, OSError if the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, failures = target.with_name(target.name + ".part"), []
    queue = [(url, True) for url in urls]
    for url, hurry in queue:  # grows while it is read: slow sources come again at the end
        resumed = part.exists()
        try:
            fetch(url, part, hurry)
        except (OSError, HTTPException) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise OSError(errno.ENOSPC, "The disk is full: free some space", part) from error
            if hurry and isinstance(error, TimeoutError):
                queue.append((url, False))
            else:
                failures.append(f"{url} ({error})")
            continue
        with open(part, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                os.replace(part, target)
                return
        part.unlink()
        if resumed:  # the beginning may have been another source's fault
            queue.append((url, hurry))
        failures.append(f"{url} (wrong SHA-256)")
    tried = ", ".join(failures)
    raise ConnectionError(f"No source served {target.name}: {tried}; put it at {target} by hand.")


def fetch(url: str, part: Path, hurry: bool) -> None:
    """Appends to `part` what it lacks; TimeoutError if that is slow and there is hurry."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "Mozilla/5.0 (tlc_minimal)", "Range": f"bytes={have}-"}
    try:
        reply = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is lacking
            return
        raise
    have = have if reply.status == 206 else 0  # without Range support it starts again
    length = int(reply.headers.get("Content-Length") or 0)
    bar = tqdm(
        desc=part.stem, initial=have, total=have + length, unit="B", unit_scale=True, leave=False
    )
    start, got = time.monotonic(), 0
    with reply, bar, open(part, "ab" if have else "wb") as file:
        while block := reply.read(1 << 16):
            file.write(block)
            bar.update(len(block))
            got += len(block)
            seconds = time.monotonic() - start
            if hurry and seconds > PATIENCE and got < SLOW * seconds:
                raise TimeoutError(f"only {got / seconds / 1000:.0f} kB/s")
    if got < length:
        raise ConnectionError(f"broke off after {have + got} of {have + length} bytes")


def unpack(packed: Path, target: Path) -> None:
    """Unpacks a .gz or .tar.gz into its folder; `target` appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=packed.parent) as folder:
        fresh = Path(folder, target.name)
        try:
            if packed.name.endswith(".tar.gz"):
                with tarfile.open(packed) as archive:
                    archive.extractall(folder, filter="data")
            else:
                with gzip.open(packed) as source, open(fresh, "wb") as copy:
                    shutil.copyfileobj(source, copy)
        except (EOFError, zlib.error, tarfile.TarError, gzip.BadGzipFile) as error:
            raise ValueError(f"{packed} is damaged ({error}): delete it and load again.") from error
        os.replace(fresh, target)
