"""What is seen of a rollout while it runs: `agenttuning show` on its directory, and the events that W&B gets."""

import json
import re
import subprocess
import sys
import threading

import pytest
from fake_endpoint import Fault, completion, fake_endpoint
from test_job import cluster, marks, site, solver, store  # noqa: F401

from agenttuning import stages
from agenttuning.errors import DataError
from agenttuning.recipe import validate_recipe
from agenttuning.rollout import watch
from agenttuning.servers import Servers
from agenttuning.session import Session
from agenttuning.show import progress_text, show_run
from agenttuning.stages import generating

USAGE = {"prompt_tokens": 100, "completion_tokens": 10}
BUSY = Fault(429, "too many requests", {"Retry-After": "0.05"})


@pytest.mark.ray
def test_a_running_directory_and_its_events_tell_how_it_goes(cluster, marks, tmp_path, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(watch, "PROGRESS_SECONDS", 0.5)
    monkeypatch.setattr(generating, "TRACKED_SECONDS", 0.5)
    answer = solver(0.3)

    async def told(body, number):
        return completion(await answer(body, number)) | {"usage": USAGE}

    def script(body, number):
        if number % 10 == 9:
            return BUSY
        if number == 14:
            return "Act: world"
        return told(body, number) if number % 5 else "Act: finish"

    live, over = [], threading.Event()
    with fake_endpoint(script) as fake:
        prices = {"prompt": 1000.0, "completion": 1000.0}
        policy = {"kind": "endpoint", "base_url": fake.base_url, "model": "toy-model", "prices": prices}
        recipe = validate_recipe(
            {
                "run": {"name": "r", "root": str(tmp_path / "runs")},
                "environments": {"toy": {"train_tasks": 60, "settings": {"marks": str(marks)}}},
                "policy": policy,
                "rollout": {"actors": [1, 1], "actor_cpus": 0.5, "commit_seconds": 0.2, "episodes_in_flight": 4},
                "tracking": {"wandb": "disabled"},
            }
        )
        store = Session(recipe).store.child("trajectories")

        def look():
            while not over.wait(0.3):
                try:
                    live.append(progress_text(store))
                except DataError:
                    continue

        looker = threading.Thread(target=look)
        looker.start()
        try:
            with Session(recipe) as session, Servers(session) as servers:
                info = stages.generate(session, servers)
        finally:
            over.set()
            looker.join()
    told_live = [text for text in live if re.search(r"toy +[1-9]\d*/60, kept", text)]
    assert len(told_live) >= 3
    busy = told_live[-2]
    assert re.search(r"^r: playing 60 attempts, by .* \(process \d+ on .*\); .* ago: 1 actors, \d episodes in", busy)
    row = r"toy +\d+/60, kept \d+ \(\d+ %\), [\d.]+/s, [1-9]\d* tokens/s, cost \d+\.\d\d, \d+s left"
    assert re.search(row, busy)
    assert any("1 environment's world" in text for text in told_live)
    assert re.search(r"all +[1-9]\d* request: rate_limit", busy)
    assert re.search(r"spent \d", busy)

    show_run(recipe, "progress", None, None, 5)
    said = capsys.readouterr().out
    assert "nobody is at work; as it stood" in said
    assert "toy              60/60" in said

    lines = (tmp_path / "runs/r/tracking/generate/events.jsonl").read_text().splitlines()
    events = [json.loads(line).get("metrics", {}) for line in lines]
    shown = [event for event in events if "generate/toy/done" in event]
    assert len(shown) >= 3
    assert [event["generate/toy/done"] for event in shown] == sorted(event["generate/toy/done"] for event in shown)
    named = ("kept", "success", "episodes_per_second", "tokens_per_second", "tokens", "cost", "seconds_left")
    assert {f"generate/toy/{name}" for name in named} <= set(shown[-2])
    last = shown[-1]
    assert 0 < last["generate/toy/kept"] < last["generate/toy/done"] == 60
    assert last["generate/toy/failures/environment's_world"] == 1
    assert last["generate/all/failures/request_rate_limit"] == info["retried"]["all"]["request: rate_limit"] > 3
    assert last["generate/toy/cost"] == pytest.approx(info["cost"]["toy"])


def test_what_was_not_played_yet_is_said(tmp_path):
    recipe = validate_recipe({"run": {"name": "r", "root": str(tmp_path)}, "environments": {"toy": {}}})
    with pytest.raises(DataError, match=r"no progress\.json; run `agenttuning generate` first"):
        show_run(recipe, "progress", None, None, 5)


BROKEN = """
import sys
import time
sys.path[:0] = {path!r}
import ray
from test_job import *
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=300 * 2**20, log_to_driver=False)

def broken(done, total, tallies):
    raise SystemExit(1)  # What rich raises where its pipe is closed.

spec = PolicySpec(kind="endpoint", base_url={url!r}, model="toy-model", temperature=0.0)
try:
    play_tasks([toy_task(4, i) for i in range(200)], job_recipe({marks!r}), spec, Store({store!r}), on_progress=broken)
except InfrastructureError as error:
    print(error, flush=True)
ray.shutdown()
time.sleep(1.0)
print("and the process lives on", flush=True)
"""


@pytest.mark.ray
def test_an_error_that_nobody_foresaw_ends_the_job_and_is_named(site, marks, store):  # noqa: F811
    """In a process of its own, which Ray would end without a word if anything of the job asked for a block later."""
    with fake_endpoint(solver(0.3)) as fake:
        text = BROKEN.format(path=sys.path, url=fake.base_url, marks=str(marks), store=store.uri)
        ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
        told = r"SystemExit: 1[\s\S]*the same command continues[\s\S]*and the process lives on"
        assert re.search(told, ended.stdout), ended.stderr[-2000:]
        assert len(fake.requests) < 200
    assert store.exists(watch.PROGRESS), "the last look is as any other"
