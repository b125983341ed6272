"""Loading data: what comes out, what is refused and in which words, and downloads that go wrong."""

import gzip
import hashlib
import http.server
import pickle
import tarfile
import threading
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import tlc_minimal.download as fetching
from tlc_minimal import readers as d
from tlc_minimal.data import input_batches, load_data
from tlc_minimal.download import download

PAYLOAD = bytes(range(256)) * 2000
PAYLOAD_SHA = hashlib.sha256(PAYLOAD).hexdigest()


def make_folder(root, classes=("cat", "dog"), count=6, size=(32, 32), mode="RGB", kind="png"):
    """A folder of images whose pixels differ from file to file; returns its path."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
                image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
                image.save(root / part / name / f"{i}.{kind}")
    return root


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture
def serve():
    """serve({path: bytes}, ranges=True, cut=None) starts a local server and returns its address."""
    servers = []

    def start(files, ranges=True, cut=None, pause=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = files.get(self.path.lstrip("/"))
                if body is None:
                    return self.send_error(404)
                asked = self.headers.get("Range")
                begin = int(asked[6:].split("-")[0]) if asked and ranges else 0
                served.append((self.path, begin))
                if begin >= len(body):
                    return self.send_error(416)
                self.send_response(206 if asked and ranges else 200)
                self.send_header("Content-Length", str(len(body) - begin))
                self.end_headers()
                if pause:
                    self.wfile.write(body[begin : begin + 70_000])
                    threading.Event().wait(pause)
                    begin += 70_000
                self.wfile.write(body[begin:cut])

            def log_message(self, *args):
                pass

        served = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        start.served = served
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


# ---- what comes out ----


def test_digits_have_the_promised_shapes(digits):
    assert (digits.train.size, digits.val.size, digits.test.size) == (1221, 216, 360)
    assert digits.train.images.shape == (1221, 1, 32, 32)
    assert digits.train.images.dtype == torch.uint8 and digits.train.labels.dtype == torch.int64
    assert digits.train.images.max() > 200
    assert digits.classes == tuple("0123456789") and (digits.flip, digits.crop) == (False, 2)
    assert digits.example.shape == (8, 3, 32, 32) and digits.example.dtype == torch.float32
    assert repr(digits) == "Data(digits: 1221 train, 216 val, 360 test images, 10 classes)"
    counts = digits.test.labels.bincount()
    assert counts.min() >= 34 and counts.max() <= 38


def test_normalised_training_images_have_mean_0_and_std_1(digits):
    x = digits.normalize(digits.train.images)
    assert x.shape[1] == 3 and torch.equal(x[:, 0], x[:, 2])
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)


def test_the_seed_alone_decides_the_splits(digits):
    again, other = load_data("digits"), load_data("digits", seed=1)
    assert torch.equal(digits.train.images, again.train.images)
    assert torch.equal(digits.val.labels, again.val.labels)
    assert not torch.equal(digits.train.labels, other.train.labels)
    assert torch.equal(digits.test.images, other.test.images)
    assert digits.sha256 == again.sha256 == other.sha256 and len(digits.sha256) == 64


def test_train_and_validation_do_not_overlap(tmp_path):
    data = load_data(make_folder(tmp_path, count=20))
    keys = [{x.numpy().tobytes() for x in s.images} for s in (data.train, data.val, data.test)]
    assert [len(k) for k in keys] == [36, 4, 40]
    assert not keys[0] & keys[1] and not keys[0] & keys[2] and not keys[1] & keys[2]


def test_subset_keeps_the_first_images_and_all_classes(digits):
    small = digits.subset(100)
    assert torch.equal(small.train.images, digits.train.images[:100])
    assert (small.val.size, small.test.size) == (18, 29)
    assert torch.equal(small.mean, digits.mean)
    assert torch.equal(digits.subset(1221).test.images, digits.test.images)
    with pytest.raises(ValueError, match="subset takes 1 to 1221 training images of digits, not 0"):
        digits.subset(0)


def test_subset_of_a_test_split_sorted_by_class_still_has_every_class(tmp_path):
    data = load_data(make_folder(tmp_path, classes=("a", "b", "c"), count=20))
    assert data.subset(10).test.labels.unique().tolist() == [0, 1, 2]


def test_to_moves_every_tensor(digits):
    moved = digits.to("meta")
    tensors = (*moved.train, *moved.val, *moved.test, moved.mean, moved.std)
    assert {x.device.type for x in tensors} == {"meta"} and moved.classes == digits.classes


def test_size_resizes_any_data_set(digits):
    assert load_data("digits", size=16).train.images.shape[1:] == (1, 16, 16)


# ---- image folders ----


def test_a_folder_is_read_in_order_and_as_rgb(tmp_path):
    folder = make_folder(tmp_path / "pets", mode="L", kind="bmp")
    data = load_data(folder)
    assert data.name == "pets" and data.classes == ("cat", "dog")
    assert data.train.images.shape == (11, 3, 32, 32) and (data.flip, data.crop) == (True, 4)
    expected = torch.from_numpy(np.asarray(Image.open(folder / "test" / "dog" / "2.bmp")).copy())
    assert torch.equal(data.test.images[8], expected.expand(3, 32, 32))
    assert data.test.labels.tolist() == [0] * 6 + [1] * 6


def test_the_second_load_reads_the_cache_and_a_changed_folder_does_not(tmp_path, monkeypatch):
    folder = make_folder(tmp_path)
    first, calls, decode = load_data(folder), [], d.decode
    monkeypatch.setattr(d, "decode", lambda *args: calls.append(args) or decode(*args))
    second = load_data(folder)
    assert not calls and second.sha256 == first.sha256
    assert torch.equal(first.train.images, second.train.images)
    Image.new("RGB", (32, 32)).save(folder / "train" / "cat" / "new.png")
    third = load_data(folder)
    assert calls and third.train.size == 12 and third.sha256 != first.sha256


def test_a_broken_cache_is_replaced(tmp_path):
    first = load_data(make_folder(tmp_path))
    (cache,) = tmp_path.glob(".tlc_cache_*")
    cache.write_bytes(cache.read_bytes()[:100])
    assert load_data(tmp_path).sha256 == first.sha256
    assert cache.stat().st_size > 1000 and len(list(tmp_path.glob(".tlc_cache_*"))) == 1


def test_a_folder_without_room_for_a_cache_still_loads(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError("read-only")

    monkeypatch.setattr(d.os, "replace", refuse)
    with pytest.warns(UserWarning, match="will be decoded again next time: read-only"):
        assert load_data(make_folder(tmp_path)).train.size == 11
    assert not list(tmp_path.glob(".tlc_cache_*"))


def test_size_scales_the_short_side_and_crops_the_centre(tmp_path):
    folder = make_folder(tmp_path, size=(60, 40))
    stripe = np.zeros((40, 60, 3), np.uint8)
    stripe[:, :10], stripe[:, 10:50] = 255, 100
    Image.fromarray(stripe).save(folder / "test" / "cat" / "0.png")
    data = load_data(folder, size=20)
    assert data.test.images.shape[1:] == (3, 20, 20) and data.crop == 2
    assert (data.test.images[0, :, :, 1:-1] == 100).all()


def test_images_of_two_sizes_are_refused_unless_size_is_given(tmp_path):
    folder = make_folder(tmp_path)
    Image.new("RGB", (20, 30)).save(folder / "train" / "dog" / "3.png")
    with pytest.raises(ValueError, match=r"0\.png has 32x32 .*3\.png has 20x30: pass size=64"):
        load_data(folder)
    assert load_data(folder, size=16).train.images.shape[1:] == (3, 16, 16)


def test_a_truncated_image_is_named(tmp_path):
    folder = make_folder(tmp_path, kind="jpg")
    file = folder / "test" / "dog" / "4.jpg"
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(ValueError, match=r"dog.4\.jpg cannot be read .*: replace or delete it"):
        load_data(folder)


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty.train is missing: put the images in"):
        load_data(tmp_path / "empty")
    (tmp_path / "half" / "train" / "cat").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train.cat holds no images: put \.jpg, "):
        load_data(tmp_path / "half")
    (tmp_path / "flat" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train.<class> holds no images"):
        load_data(tmp_path / "flat")
    Image.new("RGB", (8, 8)).save(tmp_path / "half" / "train" / "cat" / "0.png")
    with pytest.raises(FileNotFoundError, match=r"half.test is missing"):
        load_data(tmp_path / "half")
    with pytest.raises(ValueError, match="has only the class 'cat': give two classes or more"):
        load_data(make_folder(tmp_path / "single", classes=("cat",)))
    odd = make_folder(tmp_path / "odd")
    (odd / "test" / "dog").rename(odd / "test" / "dogs")
    with pytest.raises(ValueError, match="same classes in train/ and test/; these differ: dog, do"):
        load_data(odd)


# ---- other bad input ----


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ValueError, match=r"no data set 'cifar-10' \(did you mean 'cifar10'\?\)"):
        load_data("cifar-10")
    with pytest.raises(ValueError, match=r"'zebra': give 'digits', 'mnist', 'cifar10' or the path"):
        load_data("zebra")
    with pytest.raises(ValueError, match="size is the side of an image in pixels"):
        load_data("digits", size=0)


def test_normalize_refuses_what_is_not_a_batch_of_bytes(digits):
    for wrong in (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"normalize takes uint8 images \(B, 1 or 3, H, W\)"):
            digits.normalize(wrong)


def test_input_batches_of_a_tensor_a_loader_and_data(digits):
    x = torch.randn(23, 3, 8, 8)
    pairs = DataLoader(TensorDataset(x, torch.zeros(23)), batch_size=10)
    plain = DataLoader(list(x), batch_size=10)
    for source in (x, pairs, plain):
        assert torch.equal(torch.cat(list(input_batches(source, batch=10))), x)
        assert [len(b) for b in input_batches(source, batch=10, limit=13)] == [10, 3]
        assert [len(b) for b in input_batches(source, batch=10, limit=20)] == [10, 10]
    (batch,) = input_batches(digits, limit=8)
    assert torch.equal(batch, digits.example)


def test_input_batches_refuses_the_rest():
    for wrong in (None, [1, 2], "digits"):
        with pytest.raises(TypeError, match="a tensor, a DataLoader or load_data, not from "):
            input_batches(wrong)
    with pytest.raises(TypeError, match="floating-point tensors, not torch.uint8: normalise"):
        list(input_batches(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)))
    bad = torch.zeros(2, 3, 8, 8)
    bad[1, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="contain NaN or infinity"):
        list(input_batches(bad))
    with pytest.raises(ValueError, match="no inputs: give at least one image"):
        list(input_batches(torch.zeros(0, 3, 8, 8)))


# ---- downloads, from a server on this machine ----


def test_download_checks_and_renames(serve, tmp_path):
    target = tmp_path / "new" / "file.bin"
    download([serve({"file.bin": PAYLOAD}) + "file.bin"], target, PAYLOAD_SHA)
    assert target.read_bytes() == PAYLOAD and [x.name for x in target.parent.iterdir()] == [
        "file.bin"
    ]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_resumed(serve, tmp_path, ranges):
    target, part = tmp_path / "file.bin", tmp_path / "file.bin.part"
    url = serve({"file.bin": PAYLOAD}, cut=300_000) + "file.bin"
    with pytest.raises(ConnectionError, match="broke off after 300000 of 512000 bytes"):
        download([url], target, PAYLOAD_SHA)
    assert part.read_bytes() == PAYLOAD[:300_000] and not target.exists()
    url = serve({"file.bin": PAYLOAD}, ranges=ranges) + "file.bin"
    download([url], target, PAYLOAD_SHA)
    assert serve.served == [("/file.bin", 300_000 if ranges else 0)]
    assert target.read_bytes() == PAYLOAD and not part.exists()


def test_a_complete_part_needs_no_byte_more(serve, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(PAYLOAD)
    url = serve({"file.bin": PAYLOAD}) + "file.bin"
    download([url], tmp_path / "file.bin", PAYLOAD_SHA)
    assert (tmp_path / "file.bin").read_bytes() == PAYLOAD


def test_dead_wrong_and_slow_sources_are_passed_over(serve, tmp_path, monkeypatch):
    dead = "http://127.0.0.1:9/file.bin"
    wrong = serve({"file.bin": PAYLOAD[::-1]}) + "file.bin"
    good = serve({"file.bin": PAYLOAD}) + "file.bin"
    download([dead, wrong, good], tmp_path / "file.bin", PAYLOAD_SHA)
    assert (tmp_path / "file.bin").read_bytes() == PAYLOAD
    monkeypatch.setattr(fetching, "PATIENCE", 0.1)
    monkeypatch.setattr(fetching, "SLOW", 10**9)
    slow = serve({"file.bin": PAYLOAD}, pause=0.3) + "file.bin"
    download([slow, dead], tmp_path / "again.bin", PAYLOAD_SHA)  # slow, but the only one that works
    assert len(serve.served) == 2 and serve.served[1][1] > 0


def test_a_part_begun_by_a_wrong_source_does_not_spoil_the_good_one(serve, tmp_path):
    (tmp_path / "file.bin.part").write_bytes(b"something else")
    download([serve({"file.bin": PAYLOAD}) + "file.bin"], tmp_path / "file.bin", PAYLOAD_SHA)
    assert (tmp_path / "file.bin").read_bytes() == PAYLOAD


def test_when_every_source_fails_the_message_names_them(serve, tmp_path):
    urls = ["http://127.0.0.1:9/file.bin", serve({"file.bin": b"no"}) + "file.bin", serve({}) + "x"]
    with pytest.raises(ConnectionError, match="No source served file.bin") as caught:
        download(urls, tmp_path / "file.bin", PAYLOAD_SHA)
    for text in (*urls, "wrong SHA-256", "404", f"put it at {tmp_path / 'file.bin'} by hand"):
        assert text in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_not_the_sources_fault(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(fetching.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetching, "fetch", full)
    with pytest.raises(OSError, match="The disk is full: free some space") as caught:
        download(["http://127.0.0.1:9/"], tmp_path / "file.bin", PAYLOAD_SHA)
    assert not isinstance(caught.value, ConnectionError)


# ---- the published sets, in miniature ----


def idx(array):
    """The MNIST file format: magic number, shape, bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


@pytest.fixture
def tiny_mnist(monkeypatch):
    rng, files = np.random.default_rng(0), {}
    for part, n in (("train", 40), ("t10k", 10)):
        pixels = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        files[f"{part}-images-idx3-ubyte.gz"] = gzip.compress(idx(pixels))
        files[f"{part}-labels-idx1-ubyte.gz"] = gzip.compress(
            idx(np.arange(n, dtype=np.uint8) % 10)
        )
    for name, packed in files.items():
        monkeypatch.setitem(d.SHA256, name.removesuffix(".gz"), hashlib.sha256(packed).hexdigest())
    return files


def test_mnist_is_fetched_unpacked_and_then_found(tiny_mnist, serve, tmp_path, monkeypatch):
    monkeypatch.setitem(d.SOURCES, "mnist", ("http://127.0.0.1:9/", serve(tiny_mnist)))
    first = load_data("mnist", root=tmp_path)
    assert first.train.images.shape == (36, 1, 28, 28) and first.test.size == 10
    assert (first.name, first.flip, first.crop) == ("mnist", False, 2)
    for packed in (tmp_path / "MNIST" / "raw").glob("*.gz"):
        packed.unlink()
    monkeypatch.setitem(d.SOURCES, "mnist", ())
    assert load_data("mnist", root=tmp_path, size=32).train.images.shape == (36, 1, 32, 32)
    assert load_data("mnist", root=tmp_path).sha256 == first.sha256


def test_a_damaged_archive_is_named_and_nothing_is_left(tiny_mnist, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, packed in tiny_mnist.items():
        (raw / name).write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"ubyte\.gz is damaged .*: delete it and load again"):
        load_data("mnist", root=tmp_path)
    assert {file.suffix for file in raw.iterdir()} == {".gz"}


def test_cifar10_prefers_the_originals_then_the_jpegs(serve, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    make_folder(tmp_path / "cifar10-jpeg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_data("cifar10", root=tmp_path).name == "cifar10-jpeg"

    batches, names = (
        tmp_path / "cifar-10-batches-py",
        ("data_batch_1", "test_batch", "batches.meta"),
    )
    batches.mkdir()
    pixels = np.arange(20 * 3072, dtype=np.int64).reshape(20, 3072).astype(np.uint8)
    for name in names[:2]:
        (batches / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1] * 10}))
    (batches / names[2]).write_bytes(pickle.dumps({"label_names": ["plane", "car"]}))
    md5 = [hashlib.md5((batches / name).read_bytes()).hexdigest() for name in names]
    monkeypatch.setattr(CIFAR10, "train_list", [(names[0], md5[0])])
    monkeypatch.setattr(CIFAR10, "test_list", [(names[1], md5[1])])
    monkeypatch.setattr(
        CIFAR10, "meta", {"filename": names[2], "key": "label_names", "md5": md5[2]}
    )
    with tarfile.open(tmp_path / d.CIFAR10, "w:gz") as archive:
        archive.add(batches, batches.name)
    packed = (tmp_path / d.CIFAR10).read_bytes()

    monkeypatch.setitem(d.SOURCES, "cifar10", (serve({d.CIFAR10: packed}),))
    monkeypatch.setitem(d.SHA256, d.CIFAR10, hashlib.sha256(packed).hexdigest())
    for root in (tmp_path, tmp_path / "elsewhere"):  # found; downloaded
        data = load_data("cifar10", root=root)
        assert (data.name, data.classes, data.crop) == ("cifar10", ("plane", "car"), 4)
        assert torch.equal(data.test.images[3].flatten(), torch.from_numpy(pixels[3]))
    assert (tmp_path / "elsewhere" / "cifar-10-batches-py" / "data_batch_1").exists()
