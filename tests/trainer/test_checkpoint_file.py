"""A file that is no checkpoint of this model ends in one line that names it, whatever it is, and changes no weight."""

import argparse
import io
import pickle
import tarfile
import warnings
import zipfile

import pytest
import tiny
import torch

from lightning_gap import PiggybackWarmStart, WeightDistanceMonitor
from lightning_gap.trainer.checkpoint_file import load_weights, read_checkpoint, weights_in


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small-batch run's checkpoint from the end of its epoch, and one of weights alone."""
    folder = tmp_path_factory.mktemp("small")
    trainer = tiny.trainer(max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader(batch_size=8))
    trainer.save_checkpoint(folder / "whole.ckpt")
    trainer.save_checkpoint(folder / "weights.ckpt", weights_only=True)
    return (folder / "whole.ckpt").read_bytes(), (folder / "weights.ckpt").read_bytes()


def saved(value):
    torch.save(value, stream := io.BytesIO())
    return stream.getvalue()


def archive(**files):
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return stream.getvalue()


def changed(whole, **values):
    return saved(torch.load(io.BytesIO(whole), weights_only=True) | values)


def weights(whole, **values):
    stored = torch.load(io.BytesIO(whole), weights_only=True)
    return saved(
        stored | {"state_dict": stored["state_dict"] | {name.replace("_", "."): v for name, v in values.items()}}
    )


def holding(name, change):
    """A checkpoint one of whose weights or buffers is changed."""

    def made(whole):
        stored = torch.load(io.BytesIO(whole), weights_only=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of sparse rows and of quantization
            return saved(stored | {"state_dict": stored["state_dict"] | {name: change(stored["state_dict"].get(name))}})

    return made


def tarred(whole):
    with tarfile.open(mode="w", fileobj=(stream := io.BytesIO())) as made:
        made.addfile(tarfile.TarInfo("weights"))
    return stream.getvalue()


def scripted(whole):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of TorchScript
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), stream := io.BytesIO())
    return stream.getvalue()


WEIGHT, COUNT = "net.0.weight", "net.1.num_batches_tracked"
FOREIGN = {
    "nothing": lambda whole: b"",
    "a byte": lambda whole: b"P",
    "zeros, as a full disk leaves them": lambda whole: bytes(5000),
    "text": lambda whole: b"epoch,loss\n1,2\n" * 40,
    "an HTML page": lambda whole: b"<!DOCTYPE html><html><body>404: not found</body></html>",
    "a zip": lambda whole: archive(a="b"),
    "a zip that looks like torch's": lambda whole: archive(
        **{"archive/data.pkl": b"\x80\x02}.", "archive/version": "3"}
    ),
    "a zip that looks like a scripted module": lambda whole: archive(
        **{"a/constants.pkl": b"\x80\x02).", "a/version": "3"}
    ),
    "a pickle": lambda whole: b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00]\x94.",
    "its end alone": lambda whole: whole[len(whole) // 2 :],
    "its end in zeros": lambda whole: whole[: len(whole) // 2] + bytes(len(whole) // 2),
    "a number": lambda whole: saved(3.5),
    "a tuple": lambda whole: saved((torch.zeros(2), 1)),
    "None": lambda whole: saved(None),
    "a tensor": lambda whole: saved(torch.zeros(2, 3)),
    "an empty dict": lambda whole: saved({}),
    "weights without a name for them": lambda whole: saved(torch.nn.Linear(8, 16).state_dict()),
    "a namespace": lambda whole: changed(whole, hyper_parameters=argparse.Namespace(a=1)),
    "a list of weights": lambda whole: changed(whole, state_dict=[torch.zeros(2)]),
    "no weights": lambda whole: changed(whole, state_dict={}),
    "numbered weights": lambda whole: changed(whole, state_dict={0: torch.zeros(2)}),
    "weights of another network": lambda whole: changed(whole, state_dict=torch.nn.LSTM(3, 4).state_dict()),
    "a weight of another shape": lambda whole: weights(whole, net_0_weight=torch.zeros(8, 16)),
    "a number for a weight": lambda whole: weights(whole, net_0_weight=1.5),
    "one weight too many": lambda whole: weights(whole, net_9_weight=torch.zeros(2)),
    "a weight that is not finite": lambda whole: weights(whole, net_4_bias=torch.tensor([0.0, float("nan"), 1.0])),
    "a sparse weight": holding(WEIGHT, torch.Tensor.to_sparse),
    "a weight in sparse rows": holding(WEIGHT, torch.Tensor.to_sparse_csr),
    "a quantized weight": holding(WEIGHT, lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
    "bits for a weight": holding(WEIGHT, lambda w: torch.zeros(16, 8, dtype=torch.uint8).view(torch.bits8)),
    "a weight without values": holding(WEIGHT, lambda w: w.to("meta")),
    "a complex weight": holding(WEIGHT, lambda w: w + 1j),
    "a numbered weight among others": holding(3, lambda _: torch.ones(2)),
    "a weight of no name among others": holding(None, lambda _: torch.ones(2)),
    "a variance that is not a number": holding(
        "net.1.running_var", lambda v: v.index_fill(0, torch.tensor(3), torch.nan)
    ),
    "a mean that is infinite": holding("net.1.running_mean", lambda v: v - torch.inf),
    "a count with a fraction": holding(COUNT, lambda _: torch.tensor(3.5)),
    "a tar": tarred,
    "a scripted module": scripted,
    "a pickle of a newer protocol": lambda whole: pickle.dumps({"state_dict": [1.5]}, protocol=5),
    "a file of HDF5": lambda whole: b"\x89HDF\r\n\x1a\n" + bytes(200),
}


def refused(monitor_or_start, kind=ValueError, module=None):
    module = module or tiny.TinyClassifier()
    with pytest.raises(kind) as error:
        tiny.trainer(monitor_or_start).fit(module, tiny.loader(batch_size=8))
    assert module.trainer.global_step == 0
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def assert_of_ours(message):
    assert "weights_only" not in message.replace("save_weights_only", "")
    assert "aten::" not in message


def start(file, **settings):
    return PiggybackWarmStart(None, 24, source_checkpoint=file, **({"optimizer_state": "reset"} | settings))


@pytest.mark.promise("damaged")
@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_checkpoint_of_this_model_is_refused_for_a_warm_start(kind, whole, tmp_path):
    file = tmp_path / "small.ckpt"
    file.write_bytes(FOREIGN[kind](whole[0]))
    message = refused(start(file))
    assert f"source_checkpoint={str(file)!r}" in message
    assert_of_ours(message)


@pytest.mark.promise("damaged")
@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind not in ("a namespace", "one weight too many")])
def test_and_for_a_comparison(kind, whole, tmp_path):
    file = tmp_path / "other.ckpt"
    file.write_bytes(FOREIGN[kind](whole[0]))
    message = refused(WeightDistanceMonitor(compare_with=file))
    assert f"compare_with={str(file)!r}" in message
    assert_of_ours(message)


@pytest.mark.promise("damaged")
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("a sparse weight", "its net.0.weight has the layout torch.sparse_coo, and the model's has torch.strided"),
        ("a quantized weight", "its net.0.weight is torch.qint8, and the model's is torch.float32"),
        ("a weight without values", "its net.0.weight is on the meta device and holds no values"),
        ("a complex weight", "its net.0.weight is torch.complex64, and the model's is torch.float32"),
        ("a numbered weight among others", "its weights go by the int '3', not by names"),
        ("a variance that is not a number", "its net.1.running_var is not finite: the run that saved it had diverged"),
        ("a pickle", "it is damaged, not written by torch.save, or it holds objects other than tensors and plain"),
        ("a tar", "it is damaged, not written by torch.save, or it holds objects other than tensors and plain"),
        ("a scripted module", "it is damaged, not written by torch.save, or it holds objects other than tensors and"),
    ],
)
def test_the_line_says_what_is_wrong(kind, reason, whole, tmp_path):
    file = tmp_path / "small.ckpt"
    file.write_bytes(FOREIGN[kind](whole[0]))
    assert reason in refused(start(file))
    assert reason in refused(WeightDistanceMonitor(compare_with=file))


def test_a_weight_too_large_for_the_models_kind_of_number_is_refused(whole, tmp_path):
    file = tmp_path / "small.ckpt"
    file.write_bytes(holding(WEIGHT, lambda w: w.double() + 1e200)(whole[0]))
    assert "its net.0.weight is not finite as torch.float32, the model's" in refused(start(file))


class Masked(tiny.TinyClassifier):
    """With a mask that is infinite on purpose, and a matrix of few entries."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
        self.register_buffer("edges", torch.eye(3).to_sparse())


def test_a_mask_may_be_infinite_a_buffer_sparse_as_the_models_own_and_a_whole_count_of_another_kind(whole, tmp_path):
    file = tmp_path / "small.ckpt"
    stored = torch.load(io.BytesIO(whole[0]), weights_only=True)
    others = {"mask": torch.full((3, 3), -torch.inf).triu(1), "edges": 2 * torch.eye(3).to_sparse()}
    torch.save(stored | {"state_dict": stored["state_dict"] | others | {COUNT: torch.tensor(6.0)}}, file)
    module = Masked()
    load_weights(weights_in(read_checkpoint(file)), module, strict=True)
    assert torch.equal(module.edges.to_dense(), 2 * torch.eye(3))
    assert int(module.net[1].num_batches_tracked) == 6
    others["mask"] = torch.full((3, 3), torch.nan)
    torch.save(stored | {"state_dict": stored["state_dict"] | others}, file)
    with pytest.raises(ValueError, match="its mask is not finite"):
        load_weights(weights_in(read_checkpoint(file)), Masked(), strict=True)


@pytest.mark.promise("damaged")
def test_a_checkpoint_cut_at_any_length_is_refused(whole, tmp_path):
    file = tmp_path / "small.ckpt"
    for length in [*range(1, len(whole[0]), len(whole[0]) // 12), len(whole[0]) - 1]:
        file.write_bytes(whole[0][:length])
        assert "cannot be read: it is damaged" in refused(start(file))


@pytest.mark.promise("flipped")
def test_a_bit_that_flipped_is_found_wherever_it_changes_a_weight(whole, tmp_path, record_property):
    """torch itself reads on: the checksums in the file are not compared."""
    file, weights = tmp_path / "small.ckpt", torch.load(io.BytesIO(whole[0]), weights_only=True)["state_dict"]
    told = []
    places = range(0, len(whole[0]), len(whole[0]) // 200)
    record_property("cases", len(places))
    for at in places:
        spoilt = bytearray(whole[0])
        spoilt[at] ^= 1
        file.write_bytes(spoilt)
        try:
            found = weights_in(read_checkpoint(file))
        except ValueError as error:
            told.append(str(error))
        else:
            assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert any("it was altered since it was saved" in line for line in told)


def test_what_is_no_file_is_refused(tmp_path):
    assert "it is a folder" in refused(start(tmp_path))
    assert "it is a folder" in refused(WeightDistanceMonitor(compare_with=tmp_path))
    for name in ("no.ckpt", "no/such/folder.ckpt", "a\0b.ckpt", 100 * "long" + ".ckpt"):
        assert "holds no checkpoint" in refused(start(str(tmp_path / name)), FileNotFoundError)


def test_a_file_that_may_not_be_read_is_named(whole, tmp_path, monkeypatch):
    file = tmp_path / "small.ckpt"
    file.write_bytes(whole[0])

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(torch, "load", forbidden)
    assert "Permission denied" in refused(start(file))


def test_names_that_need_not_all_be_there_must_not_all_be_missing(whole, tmp_path):
    class Lenient(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.strict_loading = False

    file = tmp_path / "small.ckpt"
    file.write_bytes(weights(whole[0], net_9_weight=torch.zeros(2)))
    tiny.trainer(start(file)).fit(Lenient(), tiny.loader(batch_size=8))
    file.write_bytes(FOREIGN["weights of another network"](whole[0]))
    assert "no name is the module's" in refused(start(file), module=Lenient())


@pytest.mark.promise("damaged")
@pytest.mark.parametrize("state", ["keep", "reset"])
def test_what_no_run_can_go_on_from_is_refused(whole, tmp_path, state):
    file = tmp_path / "small.ckpt"
    lacking = {"weights alone": whole[1] if state == "keep" else changed(whole[1], loops=None)}
    lacking["other loops"] = changed(whole[0], loops=3)
    for content in lacking.values():
        file.write_bytes(content)
        message = refused(start(file, mode="continue", optimizer_state=state))
        assert "use one that Lightning saved with save_weights_only=False" in message


@pytest.mark.parametrize("loops", [{"fit_loop": 3}, {"fit_loop": {"epoch_progress": {"current": 3}}}])
def test_progress_that_lightning_did_not_write_is_refused(loops, whole, tmp_path):
    file = tmp_path / "small.ckpt"
    file.write_bytes(changed(whole[0], loops=loops))
    message = refused(start(file, mode="continue", optimizer_state="reset"))
    assert f"source_checkpoint={str(file)!r} holds loops that are not Lightning's" in message


@pytest.mark.parametrize("states", [[], 3, [{"state": {}, "param_groups": []}], [{"state": {}}]])
def test_the_state_of_other_optimizers_is_refused_and_none_is_left_out(states, whole, tmp_path):
    file = tmp_path / "small.ckpt"
    file.write_bytes(changed(whole[0], optimizer_states=states))
    message = refused(start(file, mode="continue", optimizer_state="keep"))
    assert f"source_checkpoint={str(file)!r} holds the state of other optimizers than this run's" in message
    assert "and [[6]] here; use the same optimizers" in message


@pytest.mark.parametrize("path", [5, 0.5, b"bytes", "", True, ["a.ckpt"]])
def test_a_comparison_with_what_is_no_path_is_refused_at_once(path):
    with pytest.raises(ValueError, match="compare_with must be the path of a file, or None, got"):
        WeightDistanceMonitor(compare_with=path)
