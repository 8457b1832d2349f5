"""Tasks on a cluster, by Ray: as many at a time as it has processors for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

from .memory import keep_freed_memory
from .side_by_side import Pool


@contextmanager
def ray_cluster(address: str, workers: int | None, threads: int) -> Iterator[Pool]:
    """A pool on a cluster. Its machines need this package, and the folders under the same path.

    Args:
        address: As ``ray.init`` has it: "auto" for the cluster that this machine is part of, "local" for a new one of
            this machine alone.
        workers: Tasks at a time; by default as many as the cluster has processors for.
        threads: CPU threads of a task, and so the processors that it is given.

    Raises:
        ImportError: If Ray is not installed.
        ConnectionError: If there is no such cluster.
        ValueError: If the cluster has too few processors for one task.
    """
    try:
        ray: Any = import_module("ray")  # partly typed
    except ImportError as error:
        raise ImportError("--ray needs Ray; install lightning-gap[cluster], or use --workers") from error
    own = {"num_cpus": threads * (workers or 1)} if address == "local" else {}
    ray.init(address, log_to_driver=False, configure_logging=False, include_dashboard=False, **own)
    try:
        processors = int(ray.cluster_resources().get("CPU", 0))
        if processors < threads:
            raise ValueError(f"threads={threads} are more than the {processors} processors of the cluster; use fewer")
        yield _OnRay(ray, min(workers or processors // threads, processors // threads), threads)
    finally:
        ray.shutdown()


class _OnRay:
    def __init__(self, ray: Any, slots: int, threads: int) -> None:
        self.slots, self._threads = slots, threads
        self._remote = ray.remote(num_cpus=threads, max_retries=0)(_in_a_worker)

    def submit(self, do: Callable[..., Any], /, *args: Any) -> Future[Any]:
        found: Future[Any] = self._remote.remote(self._threads, do, *args).future()
        return found


def _in_a_worker(threads: int, do: Callable[..., Any], *args: Any) -> Any:
    keep_freed_memory()
    torch.set_num_threads(threads)
    return do(*args)
