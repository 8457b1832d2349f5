"""A file that is no checkpoint of this model ends in one line that names it, whatever it is, and changes no weight."""

import argparse
import io
import zipfile

import pytest
import tiny
import torch

from lightning_gap import PiggybackWarmStart, WeightDistanceMonitor


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


def start(file, **settings):
    return PiggybackWarmStart(None, 24, source_checkpoint=file, **({"optimizer_state": "reset"} | settings))


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_checkpoint_of_this_model_is_refused_for_a_warm_start(kind, whole, tmp_path):
    file = tmp_path / "small.ckpt"
    file.write_bytes(FOREIGN[kind](whole[0]))
    assert f"source_checkpoint={str(file)!r}" in refused(start(file))


@pytest.mark.parametrize("kind", [kind for kind in FOREIGN if kind not in ("a namespace", "one weight too many")])
def test_and_for_a_comparison(kind, whole, tmp_path):
    file = tmp_path / "other.ckpt"
    file.write_bytes(FOREIGN[kind](whole[0]))
    assert f"compare_with={str(file)!r}" in refused(WeightDistanceMonitor(compare_with=file))


def test_a_checkpoint_cut_at_any_length_is_refused(whole, tmp_path):
    file = tmp_path / "small.ckpt"
    for length in [*range(1, len(whole[0]), len(whole[0]) // 12), len(whole[0]) - 1]:
        file.write_bytes(whole[0][:length])
        assert "cannot be read: it is damaged" in refused(start(file))


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


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_what_no_run_can_go_on_from_is_refused(whole, tmp_path, state):
    file = tmp_path / "small.ckpt"
    lacking = {"weights alone": whole[1] if state == "keep" else changed(whole[1], loops=None)}
    lacking["other loops"] = changed(whole[0], loops=3)
    for content in lacking.values():
        file.write_bytes(content)
        message = refused(start(file, mode="continue", optimizer_state=state))
        assert "without which no run goes on; use one that Lightning saved with save_weights_only=False" in message


@pytest.mark.parametrize("path", [5, 0.5, b"bytes", "", True, ["a.ckpt"]])
def test_a_comparison_with_what_is_no_path_is_refused_at_once(path):
    with pytest.raises(ValueError, match="compare_with must be the path of a file, or None, got"):
        WeightDistanceMonitor(compare_with=path)
