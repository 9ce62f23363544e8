"""Create items in background threads ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")


def prefetch(create: Callable[[int], Item], numbers: Iterable[int], workers: int) -> Generator[Item, None, None]:
    """Yield the item of each number in order, while threads create the next ones.

    Args:
        create: Creates an item from its number alone.
        numbers: Numbers of the items.
        workers: Threads, each of which is up to two items ahead; 0 creates each item when it is requested.
    """
    if workers == 0:
        yield from map(create, numbers)
        return
    with _single_core_threads(workers) as pool:
        ahead: deque[Future[Item]] = deque()
        for number in numbers:
            ahead.append(pool.submit(create, number))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@contextmanager
def _single_core_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Yield a pool whose threads use one core each; work that has not started is cancelled at the end."""
    cores = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "samples", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        # Torch keeps this number per thread, but a new thread inherits the last one that any thread has set.
        torch.set_num_threads(cores)
