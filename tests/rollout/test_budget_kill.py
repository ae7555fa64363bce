import subprocess
import sys
import threading
import time

import pytest
from fake_endpoint import completion, fake_endpoint
from test_job import endpoint, marks, site, solver, store  # noqa: F401

from agenttuning.policies.spending import AHEAD, Spending

pytestmark = pytest.mark.ray
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}
COST = 110 * 1000 / 1e6
MONEY = 100.0
DRIVER = """
import sys
sys.path[:0] = {path!r}
import ray
from test_job import *
from agenttuning.storage import Store
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)
spec = PolicySpec.model_validate_json({spec!r})
play_tasks([toy_task(5, i) for i in range(400)], job_recipe({marks!r}), spec, Store({store!r}))
"""


def test_a_kill_of_the_driver_forgets_no_money(site, marks, store):  # noqa: F811
    answer, ready = solver(0.1), threading.Event()

    async def told(body, number):
        if number >= 200:
            ready.set()
        return completion(await answer(body, number)) | {"usage": USAGE}

    with fake_endpoint(lambda body, n: told(body, n)) as fake:
        prices = {"prompt": 1000.0, "completion": 1000.0}
        policy = endpoint(fake, max_tokens=10, prices=prices, budget={"money": MONEY})
        text = DRIVER.format(path=sys.path, spec=policy.model_dump_json(), marks=str(marks), store=store.uri)
        driver = subprocess.Popen([sys.executable, "-c", text])
        try:
            assert ready.wait(90)
        finally:
            driver.kill()
            driver.wait()
        time.sleep(2.0)
        charged = len(fake.requests) - 1
    assert charged * COST > 2 * AHEAD * MONEY, "one note at the beginning would not cover it"
    noted = Spending(store).read()
    assert noted >= charged * COST - 1e-9, "also what actors asked before they saw that their driver is gone"
    assert noted < MONEY, "and the same command continues with the rest"
