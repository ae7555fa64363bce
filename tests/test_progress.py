import pytest

from agenttuning import progress
from agenttuning.progress import Progress, duration


def test_plain_lines_say_what_how_many_how_fast_and_how_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 10.0, 10.5, 30.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("train", 40, "steps") as bar:
        bar.update(0)
        bar.update(10, "loss 2.0")
        bar.update(11, "too soon for another line")
        bar.update(30, "loss 1.0", total=60)
    lines = capsys.readouterr().out.splitlines()
    assert "train: 10/40 steps, 1.0/s, about 30s left, 10s so far | loss 2.0" in lines
    assert "train: 30/60 steps, 1.0/s, about 30s left, 30s so far | loss 1.0" in lines
    assert not any("too soon" in line for line in lines)


@pytest.mark.parametrize(("seconds", "text"), [(5, "5s"), (75, "1m15s"), (3720, "1h02m")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
