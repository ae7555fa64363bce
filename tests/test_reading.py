"""Leaving a dataset in its middle leaves nothing of it running."""

import threading
import time

import pytest
import ray

from agenttuning.reading import READER, reading


@pytest.fixture(scope="module")
def cluster():
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20,
        log_to_driver=False, logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


def readers():
    return {thread for thread in threading.enumerate() if thread.name.startswith((READER, "StreamingExecutor"))}


@pytest.mark.ray
@pytest.mark.parametrize("rows", [False, True], ids=["batches", "rows"])
def test_whoever_leaves_in_the_middle_leaves_no_thread_that_would_ask_ray_again(cluster, rows):
    def slowly(batch):
        time.sleep(0.2)
        return batch

    before = readers()
    data = ray.data.range(40, override_num_blocks=40).map_batches(slowly, batch_size=None)
    results = data.iter_rows() if rows else data.iter_batches(batch_size=None, prefetch_batches=0)

    def broken():
        with reading(results) as found:
            for _ in found:
                assert readers() - before
                raise OSError("full")

    with pytest.raises(OSError, match="full"):
        broken()
    assert readers() - before == set()
