"""A user who is not root gets a box too: of the better level where a range of ids is theirs, else of the other."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PYTHON = "/usr/bin/python3"
PACKAGE = Path(__file__).resolve().parents[2]
SCRIPT = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from agenttuning.environments.sandbox import Sandbox, sandbox_level
level, lacking = sandbox_level()
with Sandbox() as box:
    said = [box.run(script, 10).output for script in sys.argv[2:]]
    box.stop()
    said.append(box.read("/root/note")[1])
    copy = box.copy()
    said.append(copy.run("cat /root/note", 5).output)
    copy.close()
print(json.dumps([level, lacking, said]))
"""


def as_nobody(*scripts: str) -> tuple[str, str | None, list[str]]:
    """Run scripts in a box of the user `nobody`; return its level, what is lacking, and what was printed."""
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", PYTHON, "-B", "-c", SCRIPT, str(PACKAGE)]
    done = subprocess.run(
        [*command, *scripts], capture_output=True, text=True, cwd="/", env={"PATH": os.environ["PATH"]}
    )
    if "ModuleNotFoundError" in done.stderr or "ermission denied" in done.stderr:
        pytest.skip(f"nobody cannot read the package: {done.stderr[-200:]}")
    if "ConfigurationError" in done.stderr:
        pytest.skip(f"nobody may have no box here: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    level, lacking, said = json.loads(done.stdout)
    return level, lacking, said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(
    not shutil.which("setpriv") or not Path(PYTHON).exists(), reason="needs setpriv and a system Python"
)
def test_a_user_who_is_not_root_has_a_box() -> None:
    scripts = (
        "id -u; echo n > /root/note; ls -A /work /usr/local/bin 2>&1 | grep -v -e 'No such' -e '^$' -e :$",
        "echo x > /usr/bin/new; cat /usr/bin/new; rm -f /usr/bin/cut; ls /usr/bin/cut; useradd ada; su ada -c 'id -un'",
        "mount -t tmpfs none /tmp; unshare -Ur true; grep CapEff /proc/1/status; umount -l /usr; cat /etc/os-release",
    )
    level, lacking, (own, system, refused, note, copied) = as_nobody(*scripts)
    assert own == "0\n"
    assert (note, copied) == ("n\n", "n\n")
    assert "CapEff:\t0000000000000000" in refused
    assert refused.count("superuser") + refused.count("denied") >= 2
    if lacking is None:
        assert level.startswith("own root")
        assert system.split("\n")[0] == "x"
        assert "'/usr/bin/cut': No such file" in system
        assert system.endswith("ada\n")
    else:
        assert level.startswith("shared system")
        assert "/etc/subuid" in lacking
        assert "Read-only" in system
    assert Path("/usr/bin/cut").exists()
