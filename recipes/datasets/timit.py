"""TIMIT as a user's own Kaldi prepared it: frames of speech and their tied states."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .in_memory_data import InMemoryData
from .integrity import is_file, lacks
from .kaldi_archives import read_archive, read_index, read_matrix
from .samples import Frames

COEFFICIENTS = 40  # of a frame
CONTEXT = 4  # frames on each side: 9 x 40 = 360 inputs
STATES = 1973
_FILES = ("train/feats.scp", "train/pdf.ark", "test/feats.scp", "test/pdf.ark")


class Speech(NamedTuple):
    """Utterances one after another.

    Attributes:
        features: Of each frame, (N, 40) float32.
        states: Class of each frame, (N,) int64.
        lengths: Frames of each utterance, (utterances,) int64.
    """

    features: Tensor
    states: Tensor
    lengths: Tensor


class TIMIT(InMemoryData):
    """Speech frames, 360 inputs and 1,973 tied states, from a user's Kaldi features in data_dir/timit.

    TIMIT is licensed (LDC93S1) and never downloaded. For each of ``train`` and ``test`` there are two files::

        data_dir/timit/train/feats.scp    40 coefficients per frame; the archives that it names may lie elsewhere
        data_dir/timit/train/pdf.ark      one state, 0 to 1972, for each of those frames

    Kaldi's recipe egs/timit/s5 leads to them: features by steps/make_fbank.sh with --num-mel-bins=40, or by
    steps/nnet/make_fmllr_feats.sh, and states from a forced alignment of the same utterances, for instance by
    steps/align_fmllr.sh::

        gunzip -c exp/tri3_ali/ali.*.gz | ali-to-pdf exp/tri3_ali/final.mdl ark:- ark:DATA_DIR/timit/train/pdf.ark

    Utterances are taken in the order of their names. Each coefficient is normalised with its mean and standard
    deviation over all training frames, in both splits, and each frame spliced with its four neighbours on both sides.
    A relative archive path in feats.scp counts from the current folder, as in Kaldi, or else from that of feats.scp.
    Arguments and attributes are those of `ClassificationData`.
    """

    name, title = "timit", "TIMIT"
    num_classes, input_shape = STATES, ((2 * CONTEXT + 1) * COEFFICIENTS,)

    def read(self) -> tuple[Frames, Frames]:
        folder = self.data_dir / "timit"
        missing = [name for name in _FILES if not is_file(folder / name)]
        if missing:
            raise FileNotFoundError(
                f"{lacks(self.data_dir, 'TIMIT')}: put {', '.join(missing)} into {folder}, made with Kaldi from the "
                "licensed corpus (LDC93S1), which cannot be downloaded, or pass the --data_dir that holds them; "
                "the data set timit-stand-in is synthetic and needs no files"
            )
        return normalised_frames(_read(folder / "train"), _read(folder / "test"))


def normalised_frames(train: Speech, test: Speech) -> tuple[Frames, Frames]:
    """Normalise in place, with the training frames' mean and standard deviation, and let frames be spliced.

    Raises:
        ValueError: If a coefficient is the same in all training frames.
    """
    variance, mean = torch.var_mean(train.features, 0, correction=0)
    constant = (variance == 0).nonzero().flatten().tolist()
    if constant:
        raise ValueError(f"coefficient {constant[0]} (from 0) is the same in all training frames; extract it anew")
    for split in (train, test):
        split.features.sub_(mean).div_(variance.sqrt())
    first, second = (Frames(s.features, s.states, lengths=s.lengths, context=CONTEXT) for s in (train, test))
    return first, second


def _read(folder: Path) -> Speech:
    """One split, checked."""
    scp, ark = folder / "feats.scp", folder / "pdf.ark"
    places, states = read_index(scp), _read_states(ark)
    if not places:
        raise ValueError(f"{str(scp)!r} is empty; list at least one utterance")
    _check_same(places.keys() - states.keys(), f"in {str(scp)!r} but without states in {str(ark)!r}")
    _check_same(states.keys() - places.keys(), f"in {str(ark)!r} but without features in {str(scp)!r}")
    names = sorted(places)
    lengths = [len(states[name]) for name in names]
    features = np.empty((sum(lengths), COEFFICIENTS), dtype=np.float32)
    end = 0
    for name, length in zip(names, lengths, strict=True):
        found = _read_features(scp, name, places[name])
        if len(found) != length:
            raise ValueError(
                f"utterance {name!r} has {len(found)} frames in {str(scp)!r} and {length} states in {str(ark)!r}; "
                "align the features that are used here"
            )
        features[end : end + length] = found
        end += length
    targets = np.concatenate([states[name] for name in names]).astype(np.int64)
    return Speech(torch.from_numpy(features), torch.from_numpy(targets), torch.tensor(lengths))


def _read_features(scp: Path, name: str, place: str) -> NDArray[np.float32]:
    matrix = read_matrix(scp, name, place)
    if matrix.ndim != 2 or matrix.shape[1] != COEFFICIENTS:
        raise ValueError(
            f"{str(scp)!r}: utterance {name!r} has features of shape {matrix.shape}, expected (frames, "
            f"{COEFFICIENTS}), not yet spliced"
        )
    with np.errstate(over="ignore"):  # a double too large becomes infinite
        features: NDArray[np.float32] = matrix.astype(np.float32, copy=False)
    if not np.isfinite(features).all():
        raise ValueError(f"{str(scp)!r}: utterance {name!r} has features that are not finite; extract it anew")
    return features


def _read_states(ark: Path) -> dict[str, NDArray[Any]]:
    states: dict[str, NDArray[Any]] = {}
    for name, vector in read_archive(ark):
        where = f"{str(ark)!r}: utterance {name!r}"
        if name in states:
            raise ValueError(f"{where} comes a second time; write it once")
        if vector.ndim != 1 or vector.dtype.kind != "i" or len(vector) == 0:
            raise ValueError(
                f"{where} has shape {vector.shape} and type {vector.dtype}, expected a whole number for each frame, as "
                "ali-to-pdf writes them"
            )
        wrong = vector[(vector < 0) | (vector >= STATES)]
        if len(wrong):
            raise ValueError(
                f"{where} has state {wrong[0]}; states must be from 0 to {STATES - 1}, those of a tree with at most "
                f"{STATES} leaves"
            )
        states[name] = vector
    return states


def _check_same(alone: set[str], where: str) -> None:
    if alone:
        named = ", ".join(sorted(alone)[:3]) + (", ..." if len(alone) > 3 else "")
        raise ValueError(
            f"{len(alone)} utterances are {where}: {named}; give both the same, for instance with utils/filter_scp.pl"
        )
