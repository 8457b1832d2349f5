import copy
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_gap.recipes.datasets import DATASETS, kaldi_archives

UTTERANCES = {"train": {"spk2_b": 7, "spk1_a": 12, "spk10_c": 1}, "test": {"spk3_z": 5, "spk3_a": 9}}


def read(name, folder="nowhere", **settings):
    """The data set, read from a folder."""
    data = DATASETS[name](batch_size=1, data_dir=folder, **settings)
    data.prepare_data()
    data.setup()
    return data


def speech(part, *, width=40):
    """Features and states by utterance."""
    generator = np.random.default_rng(len(part))
    lengths = UTTERANCES[part]
    features = {name: generator.normal(3, 2, (n, width)).astype(np.float32) for name, n in lengths.items()}
    states = {name: generator.integers(0, 1973, n).astype(np.int32) for name, n in lengths.items()}
    return features, states


# Kaldi's binary format, by hand


def sized(number):
    """An int32 after the byte that says that it has four."""
    return struct.pack("<bi", 4, number)


def matrix_bytes(matrix, token=b"FM "):
    kind = {b"FM ": "<f4", b"DM ": "<f8"}[token]
    return b"\0B" + token + sized(len(matrix)) + sized(matrix.shape[1]) + matrix.astype(kind).tobytes()


def integer_bytes(vector):
    return b"\0B" + sized(len(vector)) + b"".join(sized(number) for number in vector)


def real_bytes(vector, token=b"FV "):
    return b"\0B" + token + sized(len(vector)) + vector.astype({b"FV ": "<f4", b"DV ": "<f8"}[token]).tobytes()


def text_matrix(matrix):
    return (" [" + "".join("\n  " + " ".join(map(str, row)) + " " for row in matrix.tolist()) + "]\n").encode()


def text_integers(vector):
    return (" ".join(map(str, vector)) + " \n").encode()


def compressed_bytes(matrix, token):
    """As copy-feats --compress=true writes them: CM for more than eight frames, CM2 for fewer; CM3 on demand."""
    low, extent = float(matrix.min()), float(np.ptp(matrix))
    header = b"\0B" + token + struct.pack("<ffii", low, extent, *matrix.shape)
    if token != b"CM ":
        top, kind = {b"CM2 ": (65535, "<u2"), b"CM3 ": (255, "<u1")}[token]
        return header + np.round((matrix - low) / extent * top).astype(kind).tobytes()
    percentiles, levels = b"", b""
    for column in matrix.T:
        marks = np.round((np.quantile(column, (0, 0.25, 0.75, 1)) - low) / extent * 65535).astype(int)
        marks = np.minimum(np.maximum(marks, marks[0] + np.arange(4)), 65532 + np.arange(4))
        percentiles += struct.pack("<4H", *marks)
        zero, first, third, top = low + extent / 65535 * marks
        for value in column:
            if value < first:
                level = (value - zero) / (first - zero) * 64
            elif value < third:
                level = 64 + (value - first) / (third - first) * 128
            else:
                level = 192 + (value - third) / (top - third) * 63
            levels += bytes([min(max(round(level), 0), 255)])
    return header + percentiles + levels


def write_archive(ark, values, scp=None):
    """Each utterance's name and bytes; in the scp, where the bytes begin."""
    with ark.open("wb") as file:
        places = ""
        for name, value in values.items():
            file.write(name.encode() + b" ")
            places += f"{name} {ark}:{file.tell()}\n"
            file.write(value)
    if scp:
        scp.write_text(places)


def write(folder, part, features, states, *, of_matrix=matrix_bytes, of_states=integer_bytes):
    target = folder / "timit" / part
    target.mkdir(parents=True, exist_ok=True)
    write_archive(target / "feats.ark", {n: of_matrix(m) for n, m in features.items()}, target / "feats.scp")
    write_archive(target / "pdf.ark", {name: of_states(vector) for name, vector in states.items()})


@pytest.fixture
def corpus(tmp_path):
    for part in ("train", "test"):
        write(tmp_path, part, *speech(part))
    return tmp_path


def everything(samples):
    return samples[torch.arange(len(samples))]


def normalised():
    """Both splits as NumPy makes them: utterances by name, training mean and deviation, in double precision."""
    stacked = {p: [speech(p)[0][name].astype(np.float64) for name in sorted(UTTERANCES[p])] for p in UTTERANCES}
    training = np.concatenate(stacked["train"])
    mean, deviation = training.mean(0), training.std(0)
    return {part: [(utterance - mean) / deviation for utterance in stacked[part]] for part in stacked}


def error_of(folder, kind=ValueError):
    """The message of the error, which must be one line."""
    with pytest.raises(kind) as error:
        read("timit", folder)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_frames_are_normalised_and_spliced_as_a_loop_does_it(corpus):
    splits = read("timit", corpus)
    for samples, part in ((splits.train, "train"), (splits.test, "test")):
        expected = [
            np.concatenate([utterance[min(max(t + o, 0), len(utterance) - 1)] for o in range(-4, 5)])
            for utterance in normalised()[part]
            for t in range(len(utterance))
        ]
        inputs, _ = everything(samples)
        assert inputs.dtype == torch.float32
        np.testing.assert_allclose(inputs.numpy(), np.stack(expected), atol=1e-5)
    assert splits.input_shape == (360,)
    assert splits.num_classes == 1973
    assert not splits.mirrored
    assert splits.note == ""


def test_each_frame_has_the_state_of_its_utterance_by_name(corpus):
    splits = read("timit", corpus)
    for samples, part in ((splits.train, "train"), (splits.test, "test")):
        states = speech(part)[1]
        assert samples.targets.tolist() == [int(s) for name in sorted(states) for s in states[name]]


def test_the_training_frames_have_mean_zero_and_deviation_one_and_the_test_frames_need_not(corpus):
    splits = read("timit", corpus)
    training, testing = (everything(s)[0][:, 160:200].double() for s in (splits.train, splits.test))
    torch.testing.assert_close(training.mean(0), torch.zeros(40, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(training.std(0, correction=0), torch.ones(40, dtype=torch.float64), rtol=1e-5, atol=0)
    assert testing.mean(0).abs().max() > 0.01


@pytest.mark.parametrize(
    ("of_matrix", "tolerance"),
    [
        (lambda matrix: matrix_bytes(matrix, b"DM "), 0),
        (text_matrix, 1e-6),
        (lambda matrix: text_matrix(matrix).replace(b" [", b"[ ", 1).replace(b"]\n", b"] \r\n"), 1e-6),
        (lambda matrix: compressed_bytes(matrix, b"CM "), 0.05),
        (lambda matrix: compressed_bytes(matrix, b"CM2 "), 1e-3),
        (lambda matrix: compressed_bytes(matrix, b"CM3 "), 0.05),
    ],
    ids=["doubles", "text", "text spaced otherwise", "CM", "CM2", "CM3"],
)
def test_features_may_be_doubles_or_text_or_compressed(corpus, of_matrix, tolerance):
    plain = everything(read("timit", corpus).train)[0]
    write(corpus, "train", *speech("train"), of_matrix=of_matrix)
    torch.testing.assert_close(everything(read("timit", corpus).train)[0], plain, rtol=0, atol=tolerance)


def read_one(folder, content):
    (folder / "one.ark").write_bytes(b"before" + content)
    return kaldi_archives.read_matrix(folder / "feats.scp", "utterance", "one.ark:6")


def test_a_compressed_matrix_is_decoded_between_the_percentiles_of_each_column(tmp_path):
    """Its first column's bytes stand for themselves, the second's for what its own four percentiles say."""
    percentiles = struct.pack("<8H", 0, 64, 192, 255, 1000, 1064, 2344, 2974)
    levels = bytes([0, 33, 64, 65, 192, 193, 255]), bytes([255, 193, 192, 65, 64, 1, 0])
    content = b"\0BCM " + struct.pack("<ffii", -5, 65535, 7, 2) + percentiles + levels[0] + levels[1]
    found = read_one(tmp_path, content)
    assert found.dtype == np.float32
    assert (found[:, 0] + 5).tolist() == [0, 33, 64, 65, 192, 193, 255]
    assert (found[:, 1] + 5).tolist() == [2974, 2354, 2344, 1074, 1064, 1001, 1000]


@pytest.mark.parametrize(("token", "kind", "top"), [(b"CM2 ", "<6H", 65535), (b"CM3 ", "<6B", 255)])
def test_a_matrix_compressed_without_percentiles_is_decoded_row_by_row(tmp_path, token, kind, top):
    content = b"\0B" + token + struct.pack("<ffii", 2, top, 2, 3) + struct.pack(kind, 0, 1, 2, 3, 100, top)
    assert read_one(tmp_path, content).tolist() == [[2, 3, 4], [5, 102, 2 + top]]


def test_states_may_be_text_as_ali_to_pdf_writes_with_ark_t(corpus):
    expected = read("timit", corpus).train.targets
    write(corpus, "train", *speech("train"), of_states=text_integers)
    assert torch.equal(read("timit", corpus).train.targets, expected)


def test_names_may_have_any_letters_and_archives_be_longer_than_a_buffer(corpus):
    generator = np.random.default_rng(0)
    lengths = {f"spk_\N{LATIN SMALL LETTER A WITH GRAVE}{i}": 1 + i % 7 for i in range(400)}
    features = {name: generator.normal(size=(n, 40)).astype(np.float32) for name, n in lengths.items()}
    states = {name: generator.integers(0, 1973, n).astype(np.int32) for name, n in lengths.items()}
    write(corpus, "train", features, states)
    expected = [int(state) for name in sorted(states) for state in states[name]]
    assert read("timit", corpus).train.targets.tolist() == expected
    write(corpus, "train", features, states, of_matrix=text_matrix, of_states=text_integers)
    assert read("timit", corpus).train.targets.tolist() == expected


def test_a_relative_archive_is_found_beside_its_index_and_first_from_the_current_folder(corpus, tmp_path, monkeypatch):
    scp = corpus / "timit" / "train" / "feats.scp"
    scp.write_text(scp.read_text().replace(f"{scp.parent}/", ""))
    beside = everything(read("timit", corpus).train)[0]
    features, _ = speech("train")
    here = tmp_path / "here"
    here.mkdir()
    write_archive(here / "feats.ark", {name: matrix_bytes(matrix[::-1]) for name, matrix in features.items()})
    monkeypatch.chdir(here)
    current = everything(read("timit", corpus).train)[0]
    assert not torch.equal(current, beside)
    (here / "feats.ark").unlink()
    assert torch.equal(everything(read("timit", corpus).train)[0], beside)


def test_an_archive_that_is_not_there_is_named(corpus):
    scp = corpus / "timit" / "test" / "feats.scp"
    scp.write_text(scp.read_text().replace("feats.ark", "gone.ark"))
    message = error_of(corpus, FileNotFoundError)
    assert str(scp) in message
    assert "gone.ark" in message
    assert "utterance 'spk3_a'" in message


@pytest.mark.parametrize(
    "line",
    ["spk1_a", "", "spk1_a copy-feats scp:other.scp ark:- |", "spk1_a feats.ark:5[0:3]", "spk1_a feats.ark"],
)
def test_an_index_line_that_is_no_place_in_an_archive_is_refused(corpus, line, tmp_path):
    scp = corpus / "timit" / "train" / "feats.scp"
    scp.write_text(scp.read_text().splitlines()[0] + f"\n{line}\n")
    message = error_of(corpus)
    assert f"{str(scp)!r}, line 2" in message
    assert repr(line) in message


def test_a_command_in_an_index_is_not_run(corpus, tmp_path):
    scp = corpus / "timit" / "train" / "feats.scp"
    scp.write_text(f"spk1_a touch {tmp_path / 'ran'} |\n")
    error_of(corpus)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["feats.ark", "pdf.ark"])
def test_a_pickle_in_an_archive_is_not_unpickled(corpus, file, tmp_path):
    path = corpus / "timit" / "train" / file
    name = min(UTTERANCES["train"]) if file == "feats.ark" else "spk2_b"
    content = path.read_bytes()
    start = content.index(name.encode() + b" ") + len(name) + 1
    script = f"cbuiltins\nopen\n(V{tmp_path / 'ran'}\nVw\ntR.".encode()
    path.write_bytes(content[:start] + b"PKL" + script + content[start:])
    assert f"{str(path)!r} is broken" in error_of(corpus)
    assert not (tmp_path / "ran").exists()


def test_features_and_states_of_different_lengths_are_refused(corpus):
    features, states = speech("train")
    write(corpus, "train", features, states | {"spk1_a": states["spk1_a"][:-2]})
    message = error_of(corpus)
    assert "utterance 'spk1_a' has 12 frames in" in message
    assert "and 10 states in" in message


def test_utterances_without_states_and_states_without_utterances_are_counted(corpus):
    features, states = speech("train")
    more = {f"extra{i}": features["spk1_a"] for i in (3, 1, 2, 4)}
    write(corpus, "train", features | more, states)
    message = error_of(corpus)
    assert "4 utterances are in" in message
    assert "without states" in message
    assert "extra1, extra2, extra3, ..." in message
    write(corpus, "train", features, states | {"alone": states["spk1_a"]})
    message = error_of(corpus)
    assert "1 utterances are in" in message
    assert "without features" in message
    assert message.endswith("alone; give both the same, for instance with utils/filter_scp.pl")


@pytest.mark.parametrize("width", [13, 360])
def test_features_of_another_width_are_refused(corpus, width):
    write(corpus, "test", speech("test", width=width)[0], speech("test")[1])
    assert f"utterance 'spk3_a' has features of shape (9, {width}), expected (frames, 40)" in error_of(corpus)


@pytest.mark.parametrize("state", [-1, 1973])
def test_states_out_of_range_are_refused(corpus, state):
    features, states = copy.deepcopy(speech("test"))
    states["spk3_z"][4] = state
    write(corpus, "test", features, states)
    message = error_of(corpus)
    assert str(corpus / "timit" / "test" / "pdf.ark") in message
    assert f"utterance 'spk3_z' has state {state}; states must be from 0 to 1972" in message


@pytest.mark.parametrize(
    ("of_states", "found"),
    [
        (real_bytes, r"shape \(5,\) and type float32"),
        (lambda vector: real_bytes(vector, b"DV "), r"shape \(5,\) and type float64"),
        (lambda vector: matrix_bytes(vector[:, None]), r"shape \(5, 1\) and type float32"),
        (lambda vector: text_matrix(vector[:, None]), r"shape \(5, 1\) and type float32"),
        (lambda vector: integer_bytes([]), r"shape \(0,\) and type int32"),
        (lambda vector: b"\n", r"shape \(0,\) and type int32"),
    ],
    ids=["floats", "doubles", "matrix", "text matrix", "none", "none in text"],
)
def test_states_that_are_no_whole_numbers_are_refused(corpus, of_states, found):
    write(corpus, "test", *speech("test"), of_states=of_states)
    assert re.search(found + ", expected a whole number for each frame, as ali-to-pdf", error_of(corpus))


@pytest.mark.parametrize("line", [b"1.5 2 \n", b"[ 1 2 \n", b"1_0 2 \n", b"1 2", b"99999999999 1 \n", b"1 - \n"])
def test_a_line_that_is_no_whole_numbers_is_refused(corpus, line):
    path = corpus / "timit" / "test" / "pdf.ark"
    path.write_bytes(b"spk3_a " + line)
    assert f"{str(path)!r} is broken or cut short at 'spk3_a'" in error_of(corpus)


def test_features_that_are_not_finite_are_refused(corpus):
    features, states = copy.deepcopy(speech("test"))
    features["spk3_a"][3, 3] = np.nan
    write(corpus, "test", features, states)
    assert "utterance 'spk3_a' has features that are not finite" in error_of(corpus)


@pytest.mark.parametrize(
    "of_matrix",
    [
        lambda matrix: matrix_bytes(matrix * 1e300, b"DM "),
        lambda matrix: text_matrix(matrix.astype(np.float64) * 1e300),
        lambda matrix: compressed_bytes(matrix, b"CM ").replace(struct.pack("<f", np.ptp(matrix)), b"\xff" * 4),
    ],
    ids=["doubles", "text", "compressed"],
)
def test_features_too_large_are_refused(corpus, of_matrix):
    features = {name: matrix.astype(np.float64) for name, matrix in speech("test")[0].items()}
    write(corpus, "test", features, speech("test")[1], of_matrix=of_matrix)
    assert "utterance 'spk3_a' has features that are not finite" in error_of(corpus)


def test_a_coefficient_that_never_changes_is_refused(corpus):
    features, states = copy.deepcopy(speech("train"))
    for matrix in features.values():
        matrix[:, 17] = 0.1
    write(corpus, "train", features, states)
    assert "coefficient 17 (from 0) is the same in all training frames" in error_of(corpus)


def test_an_utterance_that_comes_twice_is_refused(corpus):
    folder = corpus / "timit" / "train"
    scp, ark = folder / "feats.scp", folder / "pdf.ark"
    whole = ark.read_bytes()
    ark.write_bytes(whole + whole)
    assert f"{str(ark)!r}: utterance 'spk2_b' comes a second time" in error_of(corpus)
    ark.write_bytes(whole)
    scp.write_text(scp.read_text() * 2)
    assert f"{str(scp)!r}, line 4: utterance 'spk2_b' a second time" in error_of(corpus)


FORMS = {
    "binary": {},
    "text": {"of_matrix": text_matrix, "of_states": text_integers},
    "CM": {"of_matrix": lambda matrix: compressed_bytes(matrix, b"CM ")},
    "CM2": {"of_matrix": lambda matrix: compressed_bytes(matrix, b"CM2 ")},
}


@pytest.mark.parametrize("file", ["feats.ark", "pdf.ark"])
@pytest.mark.parametrize("form", FORMS)
def test_an_archive_cut_anywhere_is_refused(corpus, file, form):
    write(corpus, "test", *speech("test"), **FORMS[form])
    path = corpus / "timit" / "test" / file
    whole = path.read_bytes()
    for size in {*range(1, len(whole), max(1, len(whole) // 40)), *range(1, 40), len(whole) - 1}:
        if whole[size:] == b"\n" and file == "feats.ark":
            continue  # the matrix is whole
        path.write_bytes(whole[:size])
        message = error_of(corpus)
        assert str(path) in message, size
        assert "broken or cut short" in message or "without states" in message
        assert len(message) < 500


@pytest.mark.parametrize("file", ["feats.ark", "pdf.ark"])
@pytest.mark.parametrize(
    "content",
    [
        b"\x1f\x8b\x08" + bytes(range(256)) * 9,
        b"\xff" * 5000,
        b"\0" * 500_000,
        b"a" * 500_000,
        b"a \0B" + b"\xff" * 5000,
        b"\n" + b"a \0B" * 5000,
        b"a\nb " + integer_bytes(range(5)),
    ],
    ids=["gzip", "ones", "zeros", "no space", "ones after a name", "names only", "newline in a name"],
)
def test_an_archive_of_something_else_is_refused(corpus, file, content):
    path = corpus / "timit" / "test" / file
    path.write_bytes(content)
    message = error_of(corpus)
    assert f"{str(path)!r} is broken or cut short" in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "content",
    [
        b"\0BFM " + sized(-1) + sized(-40) + bytes(160),
        b"\0BFM " + sized(-1) + sized(4) + bytes(160),
        b"\0BCM3 " + struct.pack("<ffii", 0, 1, -1, 1) + bytes(40),
        b"\0BFM " + sized(2**31 - 1) + sized(2**31 - 1) + bytes(160),
        b"\0BFM " + sized(65536) + sized(65536),
        b"\0BFM " + struct.pack("<bibi", 8, 1, 8, 40) + bytes(160),
        b"\0BXM " + sized(1) + sized(40) + bytes(160),
        b"\0BCM " + struct.pack("<ffii", 0, 1, -1, -40) + bytes(400),
        b"\0BCM " + struct.pack("<ffii", 0, 1, 1, 2**31 - 1) + bytes(400),
        b"\0BCM2 " + struct.pack("<ffii", 0, 1, 2**31 - 1, 2**31 - 1) + bytes(400),
        b"\0BCM4 " + struct.pack("<ffii", 0, 1, 1, 40) + bytes(400),
        b"\0B" + sized(-1) + bytes(400),
        b"\0B" + sized(2**31 - 1) + bytes(400),
        b"\0B" + sized(2) + sized(1) + struct.pack("<bi", 8, 1),
        b" [\n 1 2\n 3 ]\n",
        b" [\n 1 two ]\n",
        b" [\n 1 ] 2 ]\n",
        b" 1 2 ]\n",
    ],
)
def test_a_header_or_text_that_kaldi_does_not_write_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="is broken or cut short at 'utterance'") as error:
        read_one(tmp_path, content)
    assert "\n" not in str(error.value)


def test_a_place_beyond_the_archive_is_refused(corpus):
    scp = corpus / "timit" / "test" / "feats.scp"
    for offset in ("100000", "9" * 30):
        scp.write_text(re.sub(r":\d+$", f":{offset}", scp.read_text(), flags=re.MULTILINE))
        assert "feats.ark' is broken or cut short at 'spk3_a'" in error_of(corpus)


def test_empty_files_are_refused(corpus):
    folder = corpus / "timit" / "test"
    (folder / "pdf.ark").write_bytes(b"")
    assert "2 utterances are in" in error_of(corpus)
    (folder / "feats.scp").write_text("")
    assert f"{str(folder / 'feats.scp')!r} is empty" in error_of(corpus)


@pytest.mark.promise("no data")
@pytest.mark.parametrize("download", [False, True])
def test_missing_files_are_named_with_where_they_come_from(corpus, download):
    (corpus / "timit" / "test" / "pdf.ark").unlink()
    with pytest.raises(FileNotFoundError) as error:
        read("timit", corpus, download=download)
    message = str(error.value)
    assert f"put test/pdf.ark into {corpus / 'timit'}" in message
    assert "train/feats.scp" not in message
    assert "cannot be downloaded" in message
    assert "timit-stand-in is synthetic" in message


# The stand-in


def test_the_stand_in_has_timits_shape_and_says_what_it_is():
    splits = read("timit-stand-in")
    assert (len(splits.train), len(splits.test)) == (24_000, 4_000)
    assert splits.input_shape == (360,)
    assert splits.num_classes == 1973
    assert splits.note == "Synthetic stand-in of TIMIT's shape: its numbers say nothing about TIMIT."
    for samples in (splits.train, splits.test):
        assert 0 <= samples.targets.min() < samples.targets.max() < 1973
    assert len(splits.train.targets.unique()) > 1500


def test_the_stand_in_is_the_same_whatever_the_global_seed():
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        drawn.append(read("timit-stand-in"))
        assert torch.equal(torch.get_rng_state(), before)
    for part in ("train", "test"):
        first, second = (everything(getattr(splits, part)) for splits in drawn)
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


def test_the_stand_in_is_smooth_in_time():
    inputs, targets = everything(read("timit-stand-in").train)
    frame, following, far = inputs[:-50, 160:200], inputs[1:-49, 160:200], inputs[50:, 160:200]
    assert (frame - following).norm(dim=1).mean() < 0.75 * (frame - far).norm(dim=1).mean()
    assert 0.7 < (targets[1:] == targets[:-1]).double().mean() < 0.9


def test_the_stand_in_can_be_learned_and_generalises_above_chance_with_a_gap():
    """One linear layer on the class means would do; a small network, one epoch."""
    splits = read("timit-stand-in")
    (inputs, targets), (test_inputs, test_targets) = everything(splits.train), everything(splits.test)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(360, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 1973))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for indices in torch.randperm(len(targets)).split(500):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(inputs[indices]), targets[indices]).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        training = float((network(inputs[:4000]).argmax(1) == targets[:4000]).double().mean())
        testing = float((network(test_inputs).argmax(1) == test_targets).double().mean())
    assert testing > 0.1  # chance is 0.0005
    assert training > testing + 0.3


REAL = Path(os.environ.get("LIGHTNING_GAP_DATA", "data"))


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "timit").exists(), reason="no TIMIT in ./data or $LIGHTNING_GAP_DATA")
def test_a_users_own_timit_is_read():
    splits = read("timit", REAL)
    inputs, _ = splits.train[torch.arange(1000)]
    assert inputs.shape == (1000, 360)
    assert inputs.isfinite().all()
