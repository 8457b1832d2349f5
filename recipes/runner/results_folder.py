"""The folder of a comparison: one command at a time works in it, and it can be resumed only with the same settings."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import yaml

from ..recipe_check import in_one_line
from .checkpoints import newest_checkpoint
from .edited_file import edited
from .plan import Plan
from .run_result import RESULT, WEIGHTS, RunResult
from .saved_settings import CONFIG
from .whole_files import load_whole, write_whole

LOCK, FILE = ".lock", "recipe.py"
_MAY_CHANGE = {"regimes", "trials", "workers", "data_dir", "download", "num_workers", "output", "resume"}
_TRAINER_MAY_CHANGE = {"accelerator", "devices", "num_nodes", "strategy"}


@contextmanager
def claim_folder(plan: Plan) -> Iterator[dict[str, Any]]:
    """Hold the results folder, which no other command can then work in, with the configuration in it, or refuse it.

    In a folder that is resumed the configuration names every regime that was ever asked of it, and the most trials; the
    block gets it. Of a user's recipe file the folder keeps a copy.

    Raises:
        BlockingIOError: If another command works in the folder.
        FileExistsError: If the folder holds another run and ``resume`` was not asked for.
        FileNotFoundError: If there is nothing to resume.
        NotADirectoryError: If the folder is a file, a device or a link, or has a link in it.
        ValueError: If the run to resume was made with other settings; shows both. Or if one of its files is damaged.
    """
    folder, config = plan.output, _plain(plan)
    _check_contents(plan)
    with locked(folder):
        _check_contents(plan)  # which another command may have changed in between
        if plan.settings.resume:
            config |= _regimes_and_trials(folder / CONFIG, config)
            _check_files(plan)
            _check_recipe_file(plan, config["regimes"])
        write_whole(folder / CONFIG, yaml.safe_dump({**config, "resume": False}, sort_keys=False))
        if plan.settings.recipe.endswith(".py"):
            shutil.copyfile(plan.settings.recipe, folder / FILE)
        yield config


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, made if it is not there, so that no other command works in it.

    Raises:
        BlockingIOError: If another command does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a", encoding="utf-8") as lock:
        try:
            _lock(lock)
        except OSError as error:
            raise BlockingIOError(
                f"output={str(folder)!r} cannot be locked, as if another command works in it ({error.strerror}); let "
                "that end first, or choose another --output"
            ) from error
        yield


def release_folder(plan: Plan) -> None:
    """Take a folder away again in which nothing was done."""
    done = any(found for kind in ("*.ckpt", RESULT) for found in plan.output.rglob(kind))
    if not plan.settings.resume and not done:
        shutil.rmtree(plan.output, ignore_errors=True)


def _lock(file: IO[str]) -> None:
    """Until it is closed, or this process ends, however that is; processes that are forked off do not hold it.

    Raises:
        OSError: If another process holds it.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _check_contents(plan: Plan) -> None:
    folder = plan.output
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        kind = "a link" if folder.is_symlink() else "no folder"
        raise NotADirectoryError(f"output={str(folder)!r} is {kind}; choose another --output")
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise NotADirectoryError(
                f"output={str(folder)!r} has a link, {str(path.relative_to(folder))!r}, through which nothing is "
                "written; choose another --output"
            )
        if not plan.settings.resume and path.name != LOCK and path.suffix != ".partial":
            raise FileExistsError(
                f"output={str(folder)!r} is not empty and nothing in it is overwritten; "
                "resume that run by --resume, or choose a new --output"
            )
    if plan.settings.resume and not (folder / CONFIG).exists():
        raise FileNotFoundError(f"output={str(folder)!r} has no {CONFIG} to resume from; leave out --resume")


def _regimes_and_trials(file: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the folder has or that are asked for, the other settings being the same."""
    try:
        stored = yaml.safe_load(file.read_text(encoding="utf-8"))
        regimes = list(dict.fromkeys([*stored["regimes"], *asked["regimes"]]))
        trials = max(stored["trials"], asked["trials"])
        there, here = _that_must_agree(stored), _that_must_agree(asked)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(file)!r} cannot be read as the settings of a run; choose a new --output") from error
    differing = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise ValueError(
            f"output={str(file.parent)!r} holds a run with other settings: {'; '.join(differing)}; "
            "resume with the same settings, or choose a new --output"
        )
    return {"regimes": regimes, "trials": trials}


def _check_files(plan: Plan) -> None:
    """Read what each run left, before any of them goes on."""
    for run in plan.runs():
        if not run.result.exists():
            newest_checkpoint(run.folder)
            continue
        RunResult.load(run.result, plan.settings.epsilon)
        try:
            load_whole(run.folder / WEIGHTS, map_location="cpu", mmap=True)
        except Exception as error:  # of whatever type the bytes lead to
            raise ValueError(
                f"the weights {str(run.folder / WEIGHTS)!r} cannot be read ({in_one_line(error)}); delete "
                f"{str(run.result)!r} to train that run again, or choose a new --output"
            ) from error


def _check_recipe_file(plan: Plan, regimes: Sequence[str]) -> None:
    """Refuse a file that was edited where it made the runs that are there; it may have more regimes than it had."""
    file = plan.output / FILE
    if not file.exists():
        return
    functions = {name: getattr(function, "__name__", name) for name, function in plan.recipe_class.regimes.items()}
    begun = [name for name in regimes if any((plan.output / "runs" / name).rglob("*.*"))]
    before, now = (Path(path).read_text(encoding="utf-8") for path in (file, plan.settings.recipe))
    started = [functions.get(name, name) for name in begun]
    difference = edited(before, now, regimes=functions.values(), started=started) if begun else None
    if difference:
        raise ValueError(
            f"recipe={plan.settings.recipe!r} was edited since the runs in output={str(plan.output)!r}: {difference}, "
            f"see {str(file)!r}; undo it, or choose a new --output"
        )


def _plain(plan: Plan) -> dict[str, Any]:
    """Settings as YAML can hold them, under the names of the command line's options."""
    plain = asdict(plan.settings)
    plain |= plain.pop("hyperparameters")
    return {k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for k, v in plain.items()}


def _that_must_agree(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that is resumed may not change, the Trainer's arguments among the others."""
    kept = {k: v for k, v in config.items() if k not in _MAY_CHANGE and k != "trainer"}
    trainer = {f"trainer.{k}": v for k, v in config["trainer"].items() if k not in _TRAINER_MAY_CHANGE}
    return kept | trainer
