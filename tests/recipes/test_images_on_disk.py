import hashlib
import io
import os
import pickle
import socket
import struct
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import CIFAR10, CIFAR100, MNIST

from lightning_gap.recipes.datasets import DATASETS
from lightning_gap.recipes.datasets.npz import read_npz


def read(name, folder="nowhere", **settings):
    """The data set, read from a folder."""
    data = DATASETS[name](batch_size=1, data_dir=folder, **settings)
    data.prepare_data()
    data.setup()
    return data


REAL = Path(os.environ.get("LIGHTNING_GAP_DATA", "data"))
SETS = {"mnist": ((28, 28), 10), "cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100)}


def arrays(name, *, train=12, test=5, seed=0):
    shape, classes = SETS[name]
    generator = np.random.default_rng(seed)
    return {
        f"{kind}_{part}": generator.integers(0, 256, (count, *shape), dtype=np.uint8)
        if kind == "x"
        else generator.integers(0, classes, count)
        for part, count in (("train", train), ("test", test))
        for kind in "xy"
    }


def everything(samples):
    return samples[torch.arange(len(samples))]


def as_inputs(images):
    """(N, H, W[, 3]) bytes as a network gets them."""
    channels = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
    return torch.from_numpy((channels / 255).astype(np.float32))


def error_of(kind, call):
    """The message of the error, which must be one line."""
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


# scikit-learn's digits


def test_digits_are_the_stratified_split_of_scikit_learn_in_its_order():
    splits = read("digits")
    images, labels = load_digits(return_X_y=True)
    expected = train_test_split(images / 16, labels, test_size=360, stratify=labels, random_state=0)
    for samples, x, y in ((splits.train, *expected[::2]), (splits.test, *expected[1::2])):
        inputs, targets = everything(samples)
        np.testing.assert_array_equal(inputs.flatten(1).numpy(), x.astype(np.float32))
        assert targets.tolist() == y.tolist()
    assert splits.input_shape == (1, 8, 8)
    assert len(splits.test) == 360


def test_digits_are_the_same_whatever_the_global_seeds():
    np.random.seed(1)  # noqa: NPY002
    first = read("digits")
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    assert torch.equal(everything(first.test)[0], everything(read("digits").test)[0])


# Archives


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", SETS)
def test_an_archive_is_read_as_it_was_written(tmp_path, name, save):
    held = arrays(name)
    save(tmp_path / f"{name}.npz", **held)
    splits = read(name, tmp_path)
    for samples, part in ((splits.train, "train"), (splits.test, "test")):
        inputs, targets = everything(samples)
        torch.testing.assert_close(inputs, as_inputs(held[f"x_{part}"]), rtol=0, atol=1e-7)
        assert targets.dtype == torch.int64
        assert targets.tolist() == held[f"y_{part}"].tolist()
    assert splits.num_classes == SETS[name][1]
    assert splits.input_shape == ((1, 28, 28) if name == "mnist" else (3, 32, 32))


@pytest.mark.parametrize("kind", ["uint8", "int32", "uint64"])
def test_labels_of_any_whole_type_may_stand_in_a_column(tmp_path, kind):
    held = arrays("cifar10")
    columns = {key: value[:, None].astype(kind) for key, value in held.items() if key.startswith("y")}
    np.savez(tmp_path / "cifar10.npz", **(held | columns))
    assert read("cifar10", tmp_path).train.targets.tolist() == held["y_train"].tolist()


def test_objects_may_be_mirrored_and_digits_may_not(tmp_path):
    for name in SETS:
        np.savez(tmp_path / f"{name}.npz", **arrays(name))
    assert {name: read(name, tmp_path).mirrored for name in ("digits", *SETS)} == {
        "digits": False,
        "mnist": False,
        "cifar10": True,
        "cifar100": True,
    }


def without(held, key):
    return {name: value for name, value in held.items() if name != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h: without(h, "y_test"), ["no array 'y_test'", "x_test, x_train, y_train", "numpy.savez"]),
        (lambda h: h | {"x_train": h["x_train"] / 255}, ["x_train", "float64", "(N, 32, 32, 3) of uint8"]),
        (lambda h: h | {"x_test": h["x_test"][..., 0]}, ["x_test", "(5, 32, 32)", "(N, 32, 32, 3)"]),
        (lambda h: h | {"x_test": h["x_test"][:0]}, ["x_test", "(0, 32, 32, 3)", "at least 1"]),
        (lambda h: h | {"x_test": np.uint8(3)}, ["x_test", "()"]),
        (lambda h: h | {"y_train": h["y_train"] / 1.0}, ["y_train", "float64", "whole number"]),
        (lambda h: h | {"y_train": np.eye(10, dtype=int)[h["y_train"]]}, ["y_train", "(12, 10)", "(N,) or (N, 1)"]),
        (lambda h: h | {"y_train": h["y_train"][:-1]}, ["x_train holds 12 images", "y_train 11 labels"]),
        (lambda h: h | {"y_test": np.array([0, 1, 10, 11, 2])}, ["y_test", "label 10 of sample 2", "0 to 9", "2 such"]),
        (lambda h: h | {"y_test": np.array([0, 1, 2, 3, -1])}, ["y_test", "label -1 of sample 4", "0 to 9"]),
        (lambda h: h | {"y_test": np.array([{}] * 5)}, ["y_test", "Object arrays cannot be loaded"]),
    ],
)
def test_an_archive_with_something_else_in_it_is_refused(tmp_path, change, words):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **change(arrays("cifar10")))
    message = error_of(ValueError, lambda: read("cifar10", tmp_path))
    assert all(word in message for word in [str(path), *words]), message


def flip_a_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.promise("flipped")
def test_an_archive_with_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **arrays("cifar10"))
    with zipfile.ZipFile(path) as archive:
        start = path.read_bytes().index(archive.read("x_train.npy"))
    flip_a_byte(path, start + 20_000)
    message = error_of(ValueError, lambda: read("cifar10", tmp_path))
    assert f"{str(path)!r} is damaged" in message
    assert "x_train" in message


@pytest.mark.promise("flipped")
def test_a_compressed_archive_with_a_flipped_bit_is_refused(tmp_path):
    path = tmp_path / "mnist.npz"
    np.savez_compressed(path, **arrays("mnist"))
    for position in range(200, 4000, 380):
        np.savez_compressed(path, **arrays("mnist"))
        flip_a_byte(path, position)
        message = error_of(ValueError, lambda: read("mnist", tmp_path))
        assert str(path) in message
        assert "damaged" in message


@pytest.mark.promise("flipped")
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_whichever_bit_of_an_archive_is_flipped_it_is_refused_or_reads_the_same(tmp_path, save):
    """Its directory has lengths, versions and flags, for each of which zipfile raises something else."""
    path, shape = tmp_path / "small.npz", (2, 2)
    images, labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.array([0, 1])
    save(path, x_train=images, y_train=labels, x_test=images[::-1], y_test=labels[::-1])
    whole, expected = path.read_bytes(), read_npz(path, shape, 2)
    told = list[str]()
    for bit in range(0, 8 * len(whole), 11):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            found = read_npz(path, shape, 2)
        except ValueError as error:
            told.append(str(error))
            continue
        for split, same in zip(found, expected, strict=True):
            assert torch.equal(everything(split)[0], everything(same)[0])
            assert torch.equal(everything(split)[1], everything(same)[1])
    assert len(told) > len(whole) / 3
    assert all(str(path) in each for each in told)


@pytest.mark.promise("no data")
def test_an_array_that_announces_more_than_memory_holds_is_refused(tmp_path):
    path = tmp_path / "cifar10.npz"
    np.savez(path, **(arrays("cifar10") | {"x_train": np.zeros((1, 32, 32, 3), np.uint8)}))
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    held["x_train.npy"] = held["x_train.npy"].replace(
        b"(1, 32, 32, 3), }" + 12 * b" ", b"(1000000000000, 32, 32, 3), }"
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in held.items():
            archive.writestr(name, content)
    message = error_of(ValueError, lambda: read("cifar10", tmp_path))
    assert f"{str(path)!r}: x_train cannot be read (Unable to allocate" in message
    assert "\n" not in message


@pytest.mark.parametrize("share", [0, 0.3, 0.99])
def test_half_an_archive_is_refused(tmp_path, share):
    path = tmp_path / "cifar100.npz"
    np.savez(path, **arrays("cifar100"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    message = error_of(ValueError, lambda: read("cifar100", tmp_path))
    assert f"{str(path)!r} is damaged or only half downloaded" in message


# The published files


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A tiny MNIST in its own format, whose checksums are taken for the published ones."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    held = arrays("mnist")
    for part, name in (("train", "train"), ("test", "t10k")):
        write_idx(raw / f"{name}-images-idx3-ubyte", held[f"x_{part}"])
        write_idx(raw / f"{name}-labels-idx1-ubyte", held[f"y_{part}"])
    checksums = {f"MNIST/raw/{path.name}": md5(path) for path in raw.iterdir()}
    monkeypatch.setattr(DATASETS["mnist"], "checksums", lambda self: checksums)
    return tmp_path


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes as the one string type of Python 2, with which the published files were made."""

    def save_string(self, value):
        content = value.encode("latin1") if isinstance(value, str) else value
        short = len(content) < 256
        self.write(
            (b"U" + struct.pack("<B", len(content)) if short else b"T" + struct.pack("<i", len(content))) + content
        )
        self.memoize(value)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


def python_2_pickle(value):
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


@pytest.fixture(params=[CIFAR10, CIFAR100], ids=["cifar10", "cifar100"])
def small_cifar(request, tmp_path, monkeypatch):
    """A tiny CIFAR in its own format, whose checksums are taken for the published ones; its name and folder."""
    published = request.param
    folder = tmp_path / published.base_folder
    folder.mkdir()
    generator = np.random.default_rng(0)
    labels, classes = ("labels", 10) if published is CIFAR10 else ("fine_labels", 100)
    (folder / published.meta["filename"]).write_bytes(python_2_pickle({published.meta["key"]: list("abc")}))
    monkeypatch.setattr(published, "meta", published.meta | {"md5": md5(folder / published.meta["filename"])})
    for files in ("train_list", "test_list"):
        for name, _ in getattr(published, files):
            data = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
            content = {"data": data, labels: generator.integers(0, classes, 4).tolist()}
            (folder / name).write_bytes(python_2_pickle(content))
        monkeypatch.setattr(published, files, [[name, md5(folder / name)] for name, _ in getattr(published, files)])
    return published.__name__.lower(), published, tmp_path


def test_mnist_files_are_read_as_torchvision_reads_them(small_mnist):
    splits = read("mnist", small_mnist)
    for samples, train in ((splits.train, True), (splits.test, False)):
        stored = MNIST(small_mnist, train=train)
        inputs, targets = everything(samples)
        torch.testing.assert_close(inputs, as_inputs(stored.data.numpy()), rtol=0, atol=1e-7)
        assert targets.tolist() == stored.targets.tolist()


def test_cifar_files_are_read_as_torchvision_reads_them(small_cifar):
    name, published, folder = small_cifar
    splits = read(name, folder)
    for samples, train in ((splits.train, True), (splits.test, False)):
        stored = published(folder, train=train)
        inputs, targets = everything(samples)
        torch.testing.assert_close(inputs, as_inputs(stored.data), rtol=0, atol=1e-7)
        assert targets.tolist() == stored.targets
    assert splits.num_classes == SETS[name][1]


@pytest.mark.promise("no data")
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", ["flipped", "half", "empty"])
def test_a_damaged_mnist_file_is_refused(small_mnist, name, damage):
    path = small_mnist / "MNIST" / "raw" / name
    size = path.stat().st_size
    if damage == "flipped":
        flip_a_byte(path, size - 1)
    else:
        path.write_bytes(path.read_bytes()[: size // 2 if damage == "half" else 0])
    message = error_of(ValueError, lambda: read("mnist", small_mnist))
    assert f"{str(path)!r} is damaged or only half downloaded" in message
    assert "--download" in message


@pytest.mark.promise("no data")
def test_each_damaged_cifar_file_is_refused_before_it_is_unpickled(small_cifar):
    name, published, folder = small_cifar
    paths = sorted((folder / published.base_folder).iterdir())
    assert len(paths) == (7 if name == "cifar10" else 3)
    for path in paths:
        whole = path.read_bytes()
        path.write_bytes(pickle.dumps(pytest.fail, protocol=2))
        message = error_of(ValueError, lambda: read(name, folder))
        assert f"{str(path)!r} is damaged" in message
        path.write_bytes(whole)
    read(name, folder)


def test_the_published_checksums_are_those_of_the_published_files(tmp_path):
    """As far as can be told without them: MNIST's as the data set's own notes have them, and none is left out."""
    checksums = {Path(name).name: md5 for name, md5 in DATASETS["mnist"](batch_size=1).checksums().items()}
    assert checksums["t10k-labels-idx1-ubyte"] == "27ae3e4e09519cfbb04c329615203637"
    assert {f"{name}.gz" for name in checksums} == {name for name, _ in MNIST.resources}
    assert all(len(checksum) == 32 for checksum in checksums.values())


def test_the_published_files_come_before_an_archive_and_an_archive_before_half_of_them(small_mnist):
    other = arrays("mnist", train=7, seed=1)
    np.savez(small_mnist / "mnist.npz", **other)
    assert len(read("mnist", small_mnist).train) == 12
    (small_mnist / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()
    assert len(read("mnist", small_mnist).train) == 7


# What is not there


@pytest.mark.promise("no data")
@pytest.mark.parametrize("found", [False, True])
def test_a_missing_mnist_says_which_file_goes_where(tmp_path, found):
    if found:
        (tmp_path / "MNIST" / "raw").mkdir(parents=True)
        (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").touch()
    message = error_of(FileNotFoundError, lambda: read("mnist", tmp_path))
    assert ("train-images-idx3-ubyte" in message) is not found
    assert "t10k-labels-idx1-ubyte" in message
    for words in (f"into {tmp_path}", "mnist.npz", "--data_dir", "--download"):
        assert words in message
    assert "the data set digits needs no files" in message


@pytest.mark.promise("no data")
def test_a_missing_cifar_says_which_file_goes_where(tmp_path):
    message = error_of(FileNotFoundError, lambda: read("cifar100", tmp_path))
    files = "cifar-100-python/train, cifar-100-python/test, cifar-100-python/meta"
    assert f"has no CIFAR-100: put {files} into {tmp_path}, or cifar100.npz" in message


@pytest.mark.parametrize("name", [*SETS, "timit", "imagenet"])
def test_a_data_folder_that_does_not_exist_is_named(tmp_path, name):
    folder = tmp_path / "nowhere"
    assert f"data_dir={str(folder)!r} does not exist" in error_of(FileNotFoundError, lambda: read(name, folder))
    assert not folder.exists()


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("name", [*SETS, "timit", "imagenet"])
def test_a_data_folder_that_is_a_file_is_refused(tmp_path, name, download, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", None)
    file = tmp_path / "data"
    file.touch()
    message = error_of(ValueError, lambda: read(name, file, download=download))
    assert f"data_dir={str(file)!r} is a file; pass the folder that holds" in message


@contextmanager
def without_privileges():
    """Root may read everything; somebody else may not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize("name", [*SETS, "timit", "imagenet"])
@pytest.mark.bad_input(61)
def test_a_folder_that_may_not_be_read_is_named(tmp_path, name, download, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", None)
    folder = tmp_path / "data"
    folder.mkdir(mode=0)
    try:
        with without_privileges():
            message = error_of(PermissionError, lambda: read(name, folder, download=download))
    finally:
        folder.chmod(0o755)
    assert f"no permission to use '{folder}" in message
    assert "--data_dir" in message


def test_a_class_folder_that_may_not_be_read_is_not_taken_for_an_empty_one():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for place in ("train/ant", "val/ant"):
            (folder / "imagenet" / place).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(folder / "imagenet" / place / "a.png")
        closed = folder / "imagenet" / "val" / "ant"
        closed.chmod(0)
        try:
            with without_privileges():
                message = error_of(PermissionError, lambda: read("imagenet", folder))
        finally:
            closed.chmod(0o755)
    assert f"no permission to use {str(closed)!r}" in message


# Download


@pytest.fixture
def no_network(monkeypatch):
    asked = []

    def refuse(request, **options):
        asked.append(request)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


def test_nothing_is_asked_for_over_the_network_unless_wanted_and_missing(small_mnist, tmp_path_factory, no_network):
    read("mnist", small_mnist, download=True)
    with pytest.raises(FileNotFoundError):
        read("mnist", tmp_path_factory.mktemp("empty"))
    assert not no_network


@pytest.mark.parametrize("name", SETS)
def test_a_download_without_a_network_says_what_to_do_by_hand(tmp_path, no_network, name):
    start = time.monotonic()
    message = error_of(FileNotFoundError, lambda: read(name, tmp_path / "data", download=True))
    assert time.monotonic() - start < 5
    assert no_network
    assert "cannot be downloaded" in message
    assert "no network" in message
    assert f"into {tmp_path / 'data'}, or {name}.npz" in message
    assert "the data set digits needs no files" in message


def test_a_server_that_never_answers_is_not_waited_for(tmp_path, monkeypatch):
    assert DATASETS["cifar10"].patience <= 4
    monkeypatch.setattr(DATASETS["cifar10"], "patience", 0.4)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setattr(CIFAR10, "url", address)
        start = time.monotonic()
        message = error_of(FileNotFoundError, lambda: read("cifar10", tmp_path, download=True))
    assert time.monotonic() - start < 2
    assert "timed out" in message


@pytest.fixture
def cifar_server(small_cifar, monkeypatch, tmp_path_factory):
    """The small CIFAR behind an address on this machine; also the archive that is served and what was asked for."""
    name, published, folder = small_cifar
    served = tmp_path_factory.mktemp("served")
    with tarfile.open(served / published.filename, "w:gz") as archive:
        archive.add(folder / published.base_folder, arcname=published.base_folder)
    asked = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.command)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served)) as server:
        monkeypatch.setattr(published, "url", f"http://127.0.0.1:{server.server_port}/{published.filename}")
        monkeypatch.setattr(published, "tgz_md5", md5(served / published.filename))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield name, folder, served / published.filename, asked
        server.shutdown()
        thread.join()


def test_a_wanted_set_is_downloaded_once(cifar_server, tmp_path_factory):
    name, original, _, asked = cifar_server
    folder = tmp_path_factory.mktemp("download") / "new" / "folder"
    first = read(name, folder, download=True)
    assert torch.equal(everything(first.train)[0], everything(read(name, original).train)[0])
    requests = len(asked)
    assert asked.count("GET") >= 1
    read(name, folder, download=True)
    assert len(asked) == requests


def test_a_download_that_breaks_off_says_what_to_do_by_hand(cifar_server, tmp_path_factory):
    name, _, served, _ = cifar_server
    served.write_bytes(served.read_bytes()[:1000])
    folder = tmp_path_factory.mktemp("download")
    message = error_of(FileNotFoundError, lambda: read(name, folder, download=True))
    assert "CIFAR" in message
    assert f"into {folder}, or {name}.npz" in message


# Memory


@pytest.mark.parametrize("name", SETS)
def test_images_are_held_once_as_bytes(tmp_path, name):
    held = arrays(name, train=100)
    np.savez(tmp_path / f"{name}.npz", **held)
    images = read(name, tmp_path).train
    storages = {
        value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
        for value in vars(images).values()
        if isinstance(value, torch.Tensor) and value.numel()
    }
    assert sum(storages.values()) == held["x_train"].nbytes + 2 * 100 * 8  # labels, and which samples train


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the process's peak memory from /proc")
@pytest.mark.parametrize("folder", ["archive", "files"])
def test_reading_takes_the_memory_of_one_more_copy_at_most_and_keeps_none(tmp_path, folder):
    script = """
import sys, zipfile
from pathlib import Path
import numpy as np
from torchvision.datasets import CIFAR100
from lightning_gap.recipes.datasets import DATASETS

def memory(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) / 1024

folder, md5s = Path(sys.argv[1]), sys.argv[2:]
if md5s:
    CIFAR100.train_list, CIFAR100.test_list = [["train", md5s[0]]], [["test", md5s[1]]]
    CIFAR100.meta = CIFAR100.meta | {"md5": md5s[2]}
DATASETS["cifar100"](batch_size=1, data_dir=folder / "small").setup()
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = memory("VmRSS")
data = DATASETS["cifar100"](batch_size=1, data_dir=folder)
data.setup()
(folder / "memory").write_text(f"{memory('VmHWM') - before} {memory('VmRSS') - before}")
"""
    size = 96  # MiB
    held = arrays("cifar100", train=size * 2**20 // 3072)
    (tmp_path / "small").mkdir()
    np.savez(tmp_path / "small" / "cifar100.npz", **arrays("cifar100"))
    checksums = []
    if folder == "archive":
        np.savez(tmp_path / "cifar100.npz", **held)
    else:
        (tmp_path / "cifar-100-python").mkdir()
        for name in ("train", "test", "meta"):
            content = {"fine_label_names": []}
            if name != "meta":
                pixels = np.moveaxis(held[f"x_{name}"], 3, 1).reshape(-1, 3072)
                content = {"data": pixels, "fine_labels": held[f"y_{name}"].tolist()}
            path = tmp_path / "cifar-100-python" / name
            path.write_bytes(python_2_pickle(content))
            checksums.append(md5(path))
    (tmp_path / "script.py").write_text(script)
    processes.run(tmp_path / "script.py", tmp_path, *checksums, ranks=1)
    peak, kept = map(float, (tmp_path / "memory").read_text().split())
    assert kept < 1.25 * size
    assert peak < 2.25 * size


# The real sets

MNIST_TEST_DIGITS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
CIFAR10_COLOURS = [0.491400, 0.482158, 0.446531], [0.247032, 0.243485, 0.261588]
CIFAR100_COLOURS = [0.507075, 0.486549, 0.440918], [0.267334, 0.256438, 0.276150]


def real(file):
    return [
        pytest.mark.slow,
        pytest.mark.skipif(not (REAL / file).exists(), reason=f"no real {file} in ./data or $LIGHTNING_GAP_DATA"),
    ]


@pytest.mark.parametrize(
    ("name", "means", "deviations", "per_class"),
    [
        pytest.param("mnist", [0.13066], [0.30811], MNIST_TEST_DIGITS, marks=real("MNIST")),
        pytest.param("cifar10", *CIFAR10_COLOURS, [1000] * 10, marks=real("cifar10.npz")),
        pytest.param("cifar100", *CIFAR100_COLOURS, [100] * 100, marks=real("cifar100.npz")),
    ],
)
def test_a_real_set_has_its_known_statistics(name, means, deviations, per_class):
    splits = read(name, REAL)
    assert len(splits.train) == {"mnist": 60_000}.get(name, 50_000)
    assert torch.bincount(splits.test.targets).tolist() == per_class
    totals = torch.zeros(2, splits.input_shape[0], dtype=torch.float64)
    for inputs, _ in splits.train.chunks(10_000):
        pixels = inputs.double()
        totals += torch.stack([pixels.sum((0, 2, 3)), (pixels**2).sum((0, 2, 3))])
    first, second = totals / (len(splits.train) * splits.input_shape[1] * splits.input_shape[2])
    torch.testing.assert_close(first.tolist(), means, rtol=0, atol=2e-6 if name != "mnist" else 1e-5)
    torch.testing.assert_close((second - first**2).sqrt().tolist(), deviations, rtol=0, atol=1e-5)
