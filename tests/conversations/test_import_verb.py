"""`agenttuning import` on the command line."""

import orjson
import pytest

from agenttuning.cli import main
from agenttuning.storage import Store
from agenttuning.storage.segments import read_trajectories

TURNS = [{"from": "human", "loss": None, "value": "Count."}, {"from": "gpt", "loss": True, "value": "Act: answer(1)"}]


def imports(capfd, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["import", *map(str, arguments)])
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


def test_an_import_is_stored_in_the_run_and_done_once(tmp_path, capfd):
    path, run = tmp_path / "os data.jsonl", (f"run.root={tmp_path / 'runs'}", "run.name=a")
    path.write_bytes(orjson.dumps({"id": "os_1", "conversations": TURNS}) + b"\n")
    status, out, _ = imports(capfd, path, *run, "--licence", "Apache-2.0")
    assert (status, "import: 1 trajectories (1 of os)" in out) == (0, True)
    (t,) = read_trajectories(Store(str(tmp_path / "runs" / "a")).child("imported", "os-data"))
    assert (t.id, t.reward, t.diagnostics["licence"]) == ("os_1", 1.0, "Apache-2.0")
    status, out, _ = imports(capfd, path, *run, "--licence", "Apache-2.0")
    assert (status, "all is done" in out) == (0, True)
    assert imports(capfd, path, *run, "--licence", "MIT")[0] == 2
    assert imports(capfd, path, *run, "--licence", "MIT", "--name", "again")[0] == 0


def test_mistakes_end_with_the_status_of_their_kind(tmp_path, capfd):
    run = (f"run.root={tmp_path}", "run.name=a")
    status, _, err = imports(capfd, tmp_path / "none.jsonl", *run)
    assert (status, "no file or directory" in err) == (2, True)
    status, _, err = imports(capfd, tmp_path, *run, "--format", "csv")
    assert (status, "--format must be one of" in err) == (2, True)
