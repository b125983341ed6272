"""Loading data: what comes out, what is refused and in which words, and downloads that go wrong."""

import gzip
import hashlib
import http.server
import itertools
import pickle
import shutil
import socket
import tarfile
import threading
import warnings
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import make_folder, refused
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import tlc_minimal as tlc
from tlc_minimal.data import Data, channel_statistics, input_batches, load_data
from tlc_minimal.files import load_weights
from tlc_minimal.reading import download as fetching
from tlc_minimal.reading import images as readers

PAYLOAD = bytes(range(256)) * 2000
DEAD = "http://127.0.0.1:9/"
grey = lambda values: torch.tensor(values, dtype=torch.uint8).expand(3, 32, 32)


@pytest.fixture
def serve():
    """serve({path: bytes}, cut=None, silent=0) starts a local server and returns its address."""
    servers, done = [], threading.Event()

    def start(files, cut=None, silent=0):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = files.get(self.path.lstrip("/"))
                if body is None:
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:cut])
                done.wait(silent)

            log_message = lambda *args: None

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    done.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def test_digits_have_the_promised_shapes_and_are_normalised(digits):
    assert (digits.train.size, digits.val.size, digits.test.size) == (1221, 216, 360)
    assert digits.train.images.shape == (1221, 1, 32, 32)
    assert digits.train.images.dtype == torch.uint8 and digits.train.labels.dtype == torch.int64
    assert digits.train.images.max() > 200
    assert digits.classes == tuple("0123456789") and (digits.flip, digits.crop) == (False, 2)
    assert digits.example.shape == (8, 3, 32, 32) and digits.example.dtype == torch.float32
    assert repr(digits) == "Data(digits: 1221 train, 216 val, 360 test images, 10 classes)"
    counts = digits.test.labels.bincount()
    assert counts.min() >= 34 and counts.max() <= 38
    assert load_data("digits", size=16).train.images.shape[1:] == (1, 16, 16)
    x = digits.normalize(digits.train.images)
    assert x.shape[1] == 3 and torch.equal(x[:, 0], x[:, 2])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    # The seed alone decides the splits.
    again, other = load_data("digits"), load_data("digits", seed=1)
    assert all(map(torch.equal, (*digits.train, *digits.val), (*again.train, *again.val)))
    assert not torch.equal(digits.train.labels, other.train.labels)
    assert torch.equal(digits.test.images, other.test.images)
    assert digits.sha256 == again.sha256 == other.sha256 and len(digits.sha256) == 64
    assert digits.identity == again.identity != other.identity


def test_subset_keeps_the_first_images_and_all_classes_and_to_moves_all(digits, tmp_path):
    small = digits.subset(100)
    assert torch.equal(small.train.images, digits.train.images[:100])
    assert (small.val.size, small.test.size) == (18, 29) and torch.equal(small.mean, digits.mean)
    assert torch.equal(digits.subset(1221).test.images, digits.test.images)
    data = load_data(make_folder(tmp_path, classes=("a", "b", "c"), count=20))
    assert data.subset(10).test.labels.unique().tolist() == [0, 1, 2], "though sorted by class"
    keys = [{x.numpy().tobytes() for x in s.images} for s in (data.train, data.val, data.test)]
    assert [len(k) for k in keys] == [54, 6, 60]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]
    moved = digits.to("meta")
    tensors = (*moved.train, *moved.val, *moved.test, moved.mean, moved.std)
    assert {x.device.type for x in tensors} == {"meta"} and moved.classes == digits.classes


# ---- image folders ----


def test_a_folder_is_read_in_order_and_as_rgb(tmp_path):
    folder = make_folder(tmp_path / "pets", mode="L", kind="bmp")
    data = load_data(folder)
    assert data.name == "pets" and data.classes == ("cat", "dog")
    assert data.train.images.shape == (11, 3, 32, 32) and (data.flip, data.crop) == (True, 4)
    expected = torch.from_numpy(np.asarray(Image.open(folder / "test" / "dog" / "2.bmp")).copy())
    assert torch.equal(data.test.images[8], expected.expand(3, 32, 32))
    assert data.test.labels.tolist() == [0] * 6 + [1] * 6
    for file in list(folder.glob("*/*/*.bmp")):  # numbered through, they are read by number
        number = 2 * int(file.stem) + (file.parent.name == "dog")
        file.rename(file.with_name(f"{number:05d}.bmp"))
    assert load_data(folder).test.labels.tolist() == [0, 1] * 6


def test_the_second_load_reads_the_cache_and_a_changed_folder_does_not(tmp_path, monkeypatch):
    folder = make_folder(tmp_path)
    first, calls, decode = load_data(folder), [], readers.decode
    monkeypatch.setattr(readers, "decode", lambda *args: calls.append(args) or decode(*args))
    second = load_data(folder)
    assert not calls and second.sha256 == first.sha256
    assert torch.equal(first.train.images, second.train.images)
    Image.new("RGB", (32, 32)).save(folder / "train" / "cat" / "new.png")
    third = load_data(folder)
    assert calls and third.train.size == 12 and third.sha256 != first.sha256
    calls.clear()
    monkeypatch.setattr(readers, "RULES", "others")  # as a later release may decode
    load_data(folder)
    assert calls


def test_a_damaged_cache_is_mended_and_without_room_for_one_it_still_loads(tmp_path, monkeypatch):
    first = load_data(make_folder(tmp_path))
    (cache,) = tmp_path.glob(".tlc_cache_*")
    flipped = bytearray(cache.read_bytes())
    flipped[-5000] ^= 4
    for damaged in (flipped, flipped[:100]):
        cache.write_bytes(damaged)
        assert load_data(tmp_path).sha256 == first.sha256
        assert list(tmp_path.glob(".tlc_cache_*")) == [cache]
        assert torch.equal(load_weights(cache)[0]["images"][12:], first.test.images)

    cache.unlink()
    monkeypatch.setattr(readers, "save_weights", Mock(side_effect=PermissionError("read-only")))
    assert load_data(tmp_path).train.size == 11 and not list(tmp_path.glob(".tlc_cache_*"))


def first_image(folder, image, name="0.png", **how):
    """What is read of an image that takes the place of the first one of the test split."""
    (folder / "test" / "cat" / "0.png").unlink(missing_ok=True)
    image.save(folder / "test" / "cat" / name, **how)
    return load_data(folder).test.images[0]


@pytest.mark.parametrize("name", ["0.png", "0.tif"])
def test_16_bits_are_scaled_and_32_refused_by_name(name, tmp_path):
    deep = np.full((32, 32), 40_000, np.uint16)
    deep[0] = 1000, *[65535] * 31
    want = grey([[4, *[255] * 31], *[[156] * 32] * 31])
    folder = make_folder(tmp_path)
    assert torch.equal(first_image(folder, Image.fromarray(deep), name), want)
    with pytest.raises(ValueError, match=r"0\.tif cannot be read \(32 bits .*mode F.*: replace o"):
        first_image(folder, Image.fromarray(deep / np.float32(1)), "0.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_exif_says(orientation, tmp_path):
    exif, pixels = Image.Exif(), np.zeros((32, 32), np.uint8)
    exif[0x0112], pixels[:8, :16] = orientation, 255
    turns = (pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1], pixels.T,
             np.rot90(pixels, -1), pixels[::-1, ::-1].T, np.rot90(pixels))  # fmt: skip
    got = first_image(make_folder(tmp_path), Image.fromarray(pixels), exif=exif)
    assert torch.equal(got, grey(turns[orientation - 1].tolist()))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L", "CMYK"])
def test_white_lies_behind_what_is_transparent_and_every_mode_is_right(mode, tmp_path):
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 255))
    unseen = (9, 200, 9, 0) if mode in ("RGBA", "LA", "P") else (255, 255, 255, 255)
    image.paste(unseen, (0, 0, 32, 16))
    want = torch.tensor([255] * 16 + [0] * 16)
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    got = first_image(make_folder(tmp_path), image, "0.tif" if mode == "CMYK" else "0.png")
    assert torch.equal(got, grey(want[:, None].expand(32, 32).tolist()))


@pytest.mark.parametrize("kind", ["jpg", "jpeg", "JFIF", "webp", "tif", "tiff", "gif"])
def test_every_ending_is_read(kind, tmp_path, recwarn):
    folder = make_folder(tmp_path)
    Image.new("RGB", (32, 32)).save(folder / "train" / "dog" / f"more.{kind}")
    assert load_data(folder).train.size == 12 and not recwarn


def left_out(folder):
    with pytest.warns(UserWarning) as caught:
        data = load_data(folder)
    (warning,) = caught
    assert "\n" not in str(warning.message) and str(folder) in str(warning.message)
    return data, str(warning.message).removeprefix(f"{folder}: ")


def test_what_is_left_out_is_counted_in_one_line_and_the_cache_hides_nothing(tmp_path):
    folder = make_folder(tmp_path)
    for name in ("train/cat/x.heic", "train/cat/y.HEIC", "train/dog/._0.png", "train/notes",
                 "test/cat/deep/0.png", "test/loose.png", "val/cat/0.png", "README.md",
                 "docs/help.txt"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"?")
    (folder / "train" / "cat" / "again").symlink_to(folder)
    for _ in range(2):
        data, said = left_out(folder)
        assert data.train.size == 11 and said.startswith("files left out: 7 (")
        kinds = ("2 .heic", "1 hidden", "1 without an", "2 images not directly in", "1 in val/")
        assert all(words in said for words in kinds)


@pytest.mark.parametrize("name", ["val", "valid"])
def test_val_is_the_test_set_where_there_is_none_and_that_is_said(name, tmp_path):
    folder = make_folder(tmp_path)
    want = load_data(folder).test.images
    (folder / "test").rename(folder / name)
    data, said = left_out(folder)
    assert torch.equal(data.test.images, want)
    assert said == f"{name}/ is the test set, for there is no test/<class>/."


def test_size_scales_the_short_side_crops_the_centre_and_is_needed_for_two_sizes(tmp_path):
    folder = make_folder(tmp_path, size=(60, 40))
    for name, size in itertools.product(("digits", folder), (0, -3, 2.5, "32")):
        with refused(ValueError, f"size is a number of pixels.*, not {size!r}", folder):
            load_data(name, size=size)  # before anything is cached
    stripe = np.zeros((40, 60, 3), np.uint8)
    stripe[:, :10], stripe[:, 10:50] = 255, 100
    Image.fromarray(stripe).save(folder / "test" / "cat" / "0.png")
    data = load_data(folder, size=20)
    assert data.test.images.shape[1:] == (3, 20, 20) and data.crop == 2
    assert (data.test.images[0, :, :, 1:-1] == 100).all()
    Image.new("RGB", (20, 30)).save(folder / "train" / "dog" / "3.png")
    with pytest.raises(ValueError, match=r"0\.png is 60 x 40 .* .*3\.png 20 x 30: .* size=64, say"):
        load_data(folder)
    assert load_data(folder, size=16).train.images.shape[1:] == (3, 16, 16)


@pytest.mark.parametrize("trouble", ["truncated", "no image", "empty", "link", "huge"])
def test_an_image_that_cannot_be_read_is_named(trouble, tmp_path, monkeypatch):
    folder = make_folder(tmp_path, kind="jpg")
    file = folder / "test" / "dog" / "4.jpg"
    content = {"truncated": file.read_bytes()[:700], "no image": b"text", "empty": b""}
    if trouble in content:
        file.write_bytes(content[trouble])
    elif trouble == "link":
        file.unlink()
        file.symlink_to(folder / "nowhere.jpg")
    else:
        Image.new("RGB", (640, 640)).save(file)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    with refused(ValueError, r"dog.4\.jpg cannot be read \(.+\): replace or delete it"):
        load_data(folder)


def test_folders_that_cannot_be_used(tmp_path):
    there = tmp_path / "empty"
    for part in ("", "train", "train/cat", "train/cat/0.png", "test/cat"):
        (there / part).mkdir(parents=True)
        with refused(FileNotFoundError, "empty has no .jpg, .* in train/<class>/: split the im"):
            load_data(there)
    make_folder(tmp_path / "flat").joinpath("test", "cat").rename(tmp_path / "flat" / "cat")
    shutil.rmtree(tmp_path / "flat" / "test")
    with refused(FileNotFoundError, r"flat .* in test/<class>/: .*left out: 6 \(6 images not dir"):
        load_data(tmp_path / "flat")
    with refused(ValueError, "has only the class 'cat': give two or more"):
        load_data(make_folder(tmp_path / "single", classes=("cat",)))
    odd = make_folder(tmp_path / "odd", classes=[f"c{i:03d}" for i in range(200)], count=1)
    (odd / "test" / "c007").rename(odd / "test" / "dogs")
    with refused(ValueError, r"the class 'c007' \(and 1 more\) in only one of train and test: g"):
        load_data(odd)


def test_input_batches_are_of_a_tensor_a_loader_or_data(digits):
    x = torch.randn(23, 3, 8, 8)
    pairs = DataLoader(TensorDataset(x, torch.zeros(23)), batch_size=10)
    plain = DataLoader(list(x), batch_size=10)
    for source in (x, pairs, plain):
        assert torch.equal(torch.cat(list(input_batches(source, 99, batch=10))), x)
        assert [len(b) for b in input_batches(source, 13, batch=10)] == [10, 3]
        assert [len(b) for b in input_batches(source, 20, batch=10)] == [10, 10]
    (batch,) = input_batches(digits, 8)
    assert torch.equal(batch, digits.example)
    with pytest.raises(ValueError, match="no inputs: give at least one image"):
        list(input_batches([], 8))


@pytest.mark.parametrize("channels", [1, 3])
def test_two_loaders_make_data(channels):
    images, labels = torch.randint(256, (50, channels, 8, 8)).byte(), torch.arange(50) % 4
    loaders = ([DataLoader(TensorDataset(x, labels), 7)] * 2 for x in (images, images / 255))
    one, two = (Data.from_loader(*both) for both in loaders)  # bytes, and as ToTensor makes them
    for kind in ((images / 255).half(), images.long()):
        assert Data.from_loader(*[[(kind, labels)]] * 2).sha256 == one.sha256
    assert Data.from_loader(*[[(images > 99, labels)]] * 2).train.images.max() == 255
    for x, y in zip((*one.train, *one.val, *one.test), (*two.train, *two.val, images, labels)):
        assert torch.equal(x, y)
    assert [one.train.size, one.val.size, one.classes] == [45, 5, ("0", "1", "2", "3")]
    assert one.sha256 == two.sha256 and not one.flip and one.crop == 0
    assert len(tlc.fit(tlc.simple_cnn(classes=4, width=4), two, 1, progress=None)) == 1


# ---- downloads, from a server on this machine ----


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """fetch(address, ...) downloads file.bin, whose content is PAYLOAD, and returns its path."""

    def start(*sources):
        monkeypatch.setitem(fetching.SOURCES, "bytes", sources)
        monkeypatch.setitem(fetching.SHA256, "file.bin", hashlib.sha256(PAYLOAD).hexdigest())
        fetching.download("bytes", tmp_path / "new" / "file.bin")
        return tmp_path / "new" / "file.bin"

    return start


def test_download_leaves_the_file_and_nothing_else(serve, fetch, tmp_path):
    (tmp_path / "new").mkdir()  # with what a killed one left
    (tmp_path / "new" / "file.bin.0123abcd.partial").write_bytes(PAYLOAD[:1000])
    target = fetch(serve({"file.bin": PAYLOAD}))
    assert target.read_bytes() == PAYLOAD and list(target.parent.iterdir()) == [target]
    assert fetch() == target  # there already: no source is asked
    target.write_bytes(PAYLOAD[:1000])
    with refused(ValueError, r"bin is damaged \(wrong SHA-256\): delete it and", target.parent):
        fetch(DEAD)


@pytest.mark.parametrize("bad", ["dead", "missing", "wrong", "broken off", "silent"])
def test_a_bad_source_is_passed_over(serve, fetch, monkeypatch, bad):
    timeout = socket.setdefaulttimeout
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda s: timeout(s and s / 100))
    body = {"missing": {}, "wrong": {"file.bin": PAYLOAD[::-1]}}.get(bad, {"file.bin": PAYLOAD})
    how = {"cut": None if bad == "wrong" else 300_000, "silent": 5 if bad == "silent" else 0}
    first = DEAD if bad == "dead" else serve(body, **how)
    target = fetch(first, serve({"file.bin": PAYLOAD}))
    assert target.read_bytes() == PAYLOAD and list(target.parent.iterdir()) == [target]
    assert socket.getdefaulttimeout() is None


def test_when_every_source_fails_the_message_names_them_and_nothing_is_left(serve, fetch, tmp_path):
    sources = (DEAD, serve({"file.bin": b"no"}), serve({}))
    with pytest.raises(ConnectionError, match="No source served file.bin") as caught:
        fetch(*sources)
    target = tmp_path / "new" / "file.bin"
    for text in (*sources, "invalid hash value", "404", f"put it at {target} by hand"):
        assert text in str(caught.value)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("trouble", ["read-only", "full", "in the way"])
def test_a_folder_that_cannot_be_written_is_named(trouble, serve, fetch, tmp_path, monkeypatch):
    fails = {"read-only": ("TemporaryFile", 13), "full": ("download_url_to_file", 28)}
    if trouble in fails:
        name, number = fails[trouble]
        monkeypatch.setattr(fetching, name, Mock(side_effect=OSError(number, trouble)))
    else:
        (tmp_path / "new").write_text("a file")
    kind = {"read-only": PermissionError, "full": OSError}.get(trouble, FileExistsError)
    with refused(kind, r"bin cannot be written \(.*\): make room, or"):
        fetch(serve({"file.bin": PAYLOAD}))


# ---- the published sets, in miniature ----


@pytest.fixture
def tiny_mnist(monkeypatch):
    """{name: content} of the four packed files of a tiny MNIST, known to the library."""
    rng, files = np.random.default_rng(0), {}
    for part, n in (("train", 40), ("t10k", 10)):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        for name, array in ((f"{part}-images-idx3", pixels), (f"{part}-labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            whole = head + array.tobytes()  # the MNIST file format: magic number, shape, bytes
            packed = files[f"{name}-ubyte.gz"] = gzip.compress(whole)
            for key, content in ((f"{name}-ubyte.gz", packed), (f"{name}-ubyte", whole)):
                monkeypatch.setitem(fetching.SHA256, key, hashlib.sha256(content).hexdigest())
    return files


def test_mnist_is_fetched_unpacked_and_then_found(serve, tmp_path, monkeypatch, tiny_mnist):
    monkeypatch.setitem(fetching.SOURCES, "mnist", (DEAD, serve(tiny_mnist)))
    first = load_data("mnist", root=tmp_path)
    assert first.train.images.shape == (36, 1, 28, 28) and first.test.size == 10
    assert (first.name, first.flip, first.crop) == ("mnist", False, 2)
    assert first.test.labels.tolist() == list(range(10)) and first.test.labels.dtype == torch.int64
    pixels = gzip.decompress(tiny_mnist["t10k-images-idx3-ubyte.gz"])[16:]
    assert first.test.images.numpy().tobytes() == pixels
    monkeypatch.setitem(fetching.SOURCES, "mnist", ())
    raw = tmp_path / "MNIST" / "raw"
    for lost in ("*-ubyte", "*.gz"):  # the packed files alone will do, and so will the unpacked
        for file in raw.glob(lost):
            file.unlink()
        assert load_data("mnist", root=tmp_path).sha256 == first.sha256
    assert load_data("mnist", root=tmp_path, size=32).train.images.shape == (36, 1, 32, 32)


def test_a_damaged_mnist_is_mended(serve, tmp_path, monkeypatch, tiny_mnist):
    monkeypatch.setitem(fetching.SOURCES, "mnist", (served := serve(tiny_mnist),))
    first = load_data("mnist", root=tmp_path)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    packed, whole = file.with_name(f"{file.name}.gz"), file.read_bytes()
    file.write_bytes(bad := whole[:500] + b"?" + whole[501:])
    monkeypatch.setitem(fetching.SOURCES, "mnist", ())
    assert load_data("mnist", root=tmp_path).sha256 == first.sha256  # from the packed file
    assert file.read_bytes() == whole
    file.write_bytes(bad)
    packed.unlink()
    monkeypatch.setitem(fetching.SOURCES, "mnist", (served,))
    assert load_data("mnist", root=tmp_path).sha256 == first.sha256 and file.read_bytes() == whole


@pytest.fixture
def tiny_cifar10(tmp_path_factory, monkeypatch):
    """The packed archive of a CIFAR-10 of 20 + 20 images and two classes, known to the library."""
    from torchvision.datasets import CIFAR10

    root = tmp_path_factory.mktemp("original")
    batches, names = root / "cifar-10-batches-py", ("data_batch_1", "test_batch", "batches.meta")
    batches.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 3072), dtype=np.uint8)
    for name, x in zip(names, pixels):
        (batches / name).write_bytes(pickle.dumps({"data": x, "labels": [1, 0, 0, 1] * 5}))
    (batches / names[2]).write_bytes(pickle.dumps({"label_names": ["car", "plane"]}))
    md5 = [hashlib.md5((batches / name).read_bytes()).hexdigest() for name in names]
    monkeypatch.setattr(CIFAR10, "train_list", [(names[0], md5[0])])
    monkeypatch.setattr(CIFAR10, "test_list", [(names[1], md5[1])])
    monkeypatch.setattr(CIFAR10, "meta", dict(filename=names[2], key="label_names", md5=md5[2]))
    packed = root / "cifar-10-python.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(batches, batches.name)
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    monkeypatch.setitem(fetching.SHA256, packed.name, digest)
    monkeypatch.setattr(readers, "CIFAR10_SIZES", (20, 20))
    for part, images in zip(("train", "test"), pixels):  # and the same as an image folder
        for i, (x, label) in enumerate(zip(images, [1, 0, 0, 1] * 5)):
            file = root / "cifar10" / part / ("car", "plane")[label] / f"{i:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.reshape(3, 32, 32).transpose(1, 2, 0)).save(file)
    return root


def test_cifar10_is_the_same_from_every_source(serve, tmp_path, monkeypatch, tiny_cifar10):
    original, name = tiny_cifar10, "cifar-10-python.tar.gz"
    served = serve({name: (original / name).read_bytes()})
    monkeypatch.setitem(fetching.SOURCES, "cifar10", (served,))
    roots = [tmp_path / x for x in ("batches", "packed", "folder", "downloaded", "half")]
    for root in roots[:3]:
        make_folder(root / "cifar10-jpeg")  # which is read only where the others are not
    shutil.copytree(original / "cifar-10-batches-py", roots[0] / "cifar-10-batches-py")
    shutil.copy(original / name, roots[1])
    shutil.copytree(original / "cifar10", roots[2] / "cifar10")
    (roots[4] / "cifar-10-batches-py").mkdir(parents=True)  # unpacking was interrupted
    loaded = [*(load_data("cifar10", root=r) for r in roots), load_data(roots[2] / "cifar10")]
    pixels = pickle.loads((original / "cifar-10-batches-py" / "test_batch").read_bytes())["data"]
    for data in loaded:
        assert (data.name, data.classes, data.crop) == ("cifar10", ("car", "plane"), 4)
        assert data.test.images.numpy().tobytes() == pixels.tobytes()
        assert data.test.labels.tolist() == [1, 0, 0, 1] * 5
        assert data.sha256 == loaded[0].sha256
        assert torch.equal(data.train.images, loaded[0].train.images)
    make_folder(tmp_path / "jpegs/cifar10-jpeg")  # and where there are no originals, those
    (tmp_path / "jpegs/cifar-10-batches-py").mkdir()
    with warnings.catch_warnings(action="error"):
        assert load_data("cifar10", root=tmp_path / "jpegs").name == "cifar10-jpeg"
    (roots[2] / "cifar10" / "train" / "car" / "00001.png").unlink()
    with pytest.raises(ValueError, match=r"cifar10 has \(19, 20\) images, not \(20, 20\): fill it"):
        load_data("cifar10", root=roots[2])


def test_damaged_batches_are_mended(tmp_path, monkeypatch, tiny_cifar10):
    shutil.copytree(tiny_cifar10, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "cifar10")
    first = load_data("cifar10", root=tmp_path)
    monkeypatch.setitem(fetching.SOURCES, "cifar10", ())
    for file in list((tmp_path / "cifar-10-batches-py").iterdir()):
        whole = file.read_bytes()
        file.write_bytes(whole[:-9])
        assert load_data("cifar10", root=tmp_path).sha256 == first.sha256
        assert file.read_bytes() == whole


@pytest.mark.skipif(not Path("data/cifar10/train").is_dir(), reason="no data/cifar10 here")
def test_the_real_cifar10_is_the_published_one():
    _, train, test, classes = readers.read_cifar10(Path("data"), None)
    mean, std = channel_statistics(train.images)
    torch.testing.assert_close(mean, torch.tensor([0.49139968, 0.48215841, 0.44653091]))
    torch.testing.assert_close(std, torch.tensor([0.24703223, 0.24348513, 0.26158784]))
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert classes[6] == "frog" and test.labels.bincount().tolist() == [1000] * 10
