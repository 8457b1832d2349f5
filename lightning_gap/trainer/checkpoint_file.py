"""Read a file of a user's that should hold weights; whatever else it is ends in one line that names it."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """What `torch.save` has written, tensors on the CPU; nothing that is in the file is run. Errors have one line."""
    if os.path.isdir(path):
        raise ValueError("it is a folder, and no file of one process; a sharded checkpoint is to be joined first")
    if not os.path.isfile(path):
        raise FileNotFoundError("No such file")
    if os.path.getsize(path) == 0:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an archive of another kind, which is refused
            stored = torch.load(path, map_location="cpu", weights_only=True)
        check_bytes(path)
        return stored
    except Exception as error:  # of whatever type the bytes lead to
        foreign = re.search(r"Unsupported global: GLOBAL ([\w.]+)", str(error))
        if foreign is not None:
            raise ValueError(
                f"it holds a {foreign[1]}, and only tensors and plain values are read, hyper-parameters included"
            ) from error
        if isinstance(error, UnpicklingError) or "weights_only" in str(error):
            # torch's text goes on to advise weights_only=False, which would run what is in the file.
            raise ValueError(
                "it is damaged, not written by torch.save, or it holds objects other than tensors and plain values"
            ) from error
        raise ValueError(f"it is damaged or was not written by torch.save ({short_error(error)})") from error


def check_bytes(path: str | os.PathLike[str]) -> None:
    """Compare a file with the checksums that `torch.save` wrote into it, which `torch.load` does not look at.

    Raises:
        ValueError: If a part of it is not as it was saved. A file of the format before 2020 has none, and is passed.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            altered = archive.testzip()
    except Exception as error:  # of whatever type the bytes lead to
        raise ValueError(f"it is damaged ({short_error(error)})") from error
    if altered is not None:
        raise ValueError(f"it was altered since it was saved: the checksum of its part {altered!r} is another")


def short_error(error: BaseException, most: int = 160) -> str:
    """An error in one short line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:most]}{'...' * (len(words) > most)}" if words else type(error).__name__


def weights_in(stored: Any, *, bare: bool = False) -> Mapping[str, Any]:
    """The weights by name in a Lightning checkpoint, or with ``bare`` also in what `state_dict` has returned."""
    if not isinstance(stored, Mapping):
        raise ValueError(f"it holds a {type(stored).__name__}, {'not weights by name' if bare else 'no checkpoint'}")
    if "state_dict" not in stored and bare:
        stored = {"state_dict": stored}
    if "state_dict" not in stored:
        keys = listed(map(str, stored)) or "nothing"
        raise ValueError(f"it holds no state_dict but {keys}: it is no checkpoint of Lightning's")
    weights = stored["state_dict"]
    if not isinstance(weights, Mapping):
        raise ValueError(f"its state_dict is a {type(weights).__name__}, not weights by name")
    for name in weights:
        if not isinstance(name, str):
            raise ValueError(f"its weights go by the {type(name).__name__} {str(name)[:80]!r}, not by names")
    return weights


def check_values(weights: Mapping[str, Any], module: nn.Module) -> None:
    """Refuse values that cannot become those of a module's parameters and buffers without loss, or are not finite.

    Only those are looked at that the module has too. A buffer may be infinite where the module's own is, as a mask of
    attention is. The error names the weight and what is wrong with it, in one line.
    """
    own: dict[str, Tensor] = dict(module.named_buffers(remove_duplicate=False))
    own |= dict(module.named_parameters(remove_duplicate=False))
    for name in own:
        if isinstance(weights.get(name), Tensor):
            try:
                fault = _fault(weights[name].detach(), own[name])
            except Exception as error:  # of whatever type a rare kind of tensor ends with
                fault = f"is a {weights[name].dtype} that cannot be read ({short_error(error)})"
            if fault:
                raise ValueError(f"its {name} {fault}")


def _fault(stored: Tensor, own: Tensor) -> str:
    """What is wrong with a stored value; nothing if it can become the module's own."""
    if stored.is_meta:
        return "is on the meta device and holds no values"
    if stored.layout != own.layout:
        return f"has the layout {stored.layout}, and the model's has {own.layout}"
    if stored.is_quantized != own.is_quantized:
        return f"is {stored.dtype}, and the model's is {own.dtype}"
    if stored.is_quantized:
        return ""  # whole numbers
    if not torch.can_cast(stored.dtype, own.dtype) and (
        stored.is_complex() or not torch.equal(stored.to(own.dtype).to(stored.dtype), stored)  # but 3.0 becomes 3
    ):
        return f"is {stored.dtype}, and the model's is {own.dtype}"
    values = _entries(stored)
    finite = torch.isfinite(values)
    if not isinstance(own, nn.Parameter) and not is_lazy(own) and not own.is_meta and own.shape == stored.shape:
        ours = _entries(own).to(values.device)
        finite = finite | ~torch.isfinite(ours) if ours.shape == finite.shape else finite
    if not bool(finite.all()):
        return "is not finite: the run that saved it had diverged"
    if own.dtype != stored.dtype and not bool((torch.isfinite(values.to(own.dtype)) | ~torch.isfinite(values)).all()):
        return f"is not finite as {own.dtype}, the model's"
    return ""


def _entries(tensor: Tensor) -> Tensor:
    """The numbers that a tensor holds, whatever its layout."""
    if tensor.layout == torch.strided:
        return tensor
    return tensor._values() if tensor.layout == torch.sparse_coo else tensor.values()


def load_weights(weights: Mapping[str, Any], module: nn.Module, *, strict: bool) -> None:
    """Put weights by name into a module; with ``strict`` the names must be the module's own, otherwise some may.

    Those of another architecture, another kind of number, or a run that had diverged are refused, in one line.
    """
    check_values(weights, module)
    if not strict and not module.state_dict().keys() & weights.keys():  # which torch would take for a fit
        raise ValueError(f"no name is the module's: it holds {listed(map(str, weights)) or 'nothing'}")
    try:
        module.load_state_dict(weights, strict=strict)
    except Exception as error:  # of whatever type the module's own way to load raises
        raise ValueError(short_error(error, most=400)) from error


def stored_beside(path: str | os.PathLike[str]) -> str:
    """What a folder holds in place of a checkpoint that is not there."""
    folder = Path(path).parent
    try:
        found = sorted(other.name for other in folder.glob("*.ckpt")) if folder.is_dir() else []
    except OSError:
        found = []
    return f"{folder} holds {', '.join(found) or 'no checkpoint'}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first of them in order, and how many more."""
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")
