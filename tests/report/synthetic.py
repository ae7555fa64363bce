"""A small run directory as the stages leave it, with made-up numbers: what the report is tested and looked at with."""

import math
import random
from pathlib import Path

import orjson

from agenttuning.curation.report import Verdict, summarise
from agenttuning.evaluation.general import AnswerResult, GeneralResult
from agenttuning.evaluation.held_in import score_held_in
from agenttuning.evaluation.probe_loss import DialogueLoss, LossResult
from agenttuning.evaluation.results import assemble_summary
from agenttuning.evaluation.scoring import rate_of, rates_by, token_mean
from agenttuning.recipe import dump_recipe, validate_recipe
from agenttuning.storage import Store
from agenttuning.storage.segments import commit_segment, trajectories_table
from agenttuning.trajectory import Action, Call, Outcome, Task, Trajectory, Turn

ENVIRONMENTS = ("os", "db", "alfworld")
FAMILIES = ("count files", "find largest", "edit lines", "permissions")
HOSTILE = "<script>alert('x')</script> & <b>bold</b>"

GENERATED = {
    "tokens": {"os": 151_200, "db": 98_400, "alfworld": 240_100},
    "tokens_per_kept": {"os": 3_978.9, "db": 2_659.5, "alfworld": 6_668.1},
    "cost": {"os": 0.61, "db": 0.38, "alfworld": 1.02},
    "cost_per_kept": {"os": 0.016, "db": 0.01, "alfworld": 0.028},
    "spent": 2.06,
    "pass_at": {
        "os": {"1": 0.95, "2": 0.9833, "3": 1.0, "4": 1.0},
        "db": {"1": 0.925, "2": 0.9667, "3": 0.9917, "4": 1.0},
        "alfworld": {"1": 0.9},
    },
    "best": {"os": 1.0, "db": 1.0},
    "retried": {
        "all": {"request: rate_limit": 41, "request: time_out": 7, "actor lost": 1},
        "os": {"environment lost": 3},
        "alfworld": {"environment hung": 2, "environment lost": 1},
    },
}
"""What `generate` says of a run with several attempts against an endpoint that stumbles."""

RULES = (
    "You work in a Linux shell. Each turn, write a thought, then one action: `Act: bash` with a code block, "
    "`Act: answer(...)` or `Act: finish`. Output beyond 800 characters is cut."
)


def task(environment: str, split: str, number: int) -> Task:
    return Task(
        environment=environment,
        split=split,
        family=FAMILIES[number % 4],
        instruction=f"How many .log files below /var/app{number} hold the word ERROR? {HOSTILE if number == 3 else ''}",
        payload={"number": number},
    )


def episode(made: Task, solved: bool, outcome: Outcome, steps: int, policy: str, train: bool = False) -> Trajectory:
    turns = [
        Turn(role="user", content=RULES),
        Turn(role="assistant", content="Ok.", loss=False),
        Turn(role="user", content=made.instruction),
    ]
    calls = []
    for step in range(steps):
        last = step == steps - 1
        mistake = train and step == 0
        calls.append(Call(turn=len(turns), finish_reason="stop"))
        if outcome is Outcome.INVALID_ACTION:
            turns.append(
                Turn(role="assistant", content="Sure! To count the files you can use `ls | wc -l`.", loss=False)
            )
        else:
            command = f"grep -rl ERROR --include='*.log' /var/app{made.payload['number']} | wc -l"
            text = (
                "Think: Each matching file is listed once, so counting lines gives the answer.\n\n"
                f"Act: bash\n\n```bash\n{command}\n```"
            )
            if last and outcome is Outcome.COMPLETED:
                text = "Think: The count that was printed is the answer.\n\nAct: answer(7)"
            thought = text.split("\n")[0].removeprefix("Think: ")
            action = Action(name="bash", arguments={"command": f"{command} {step}"})
            turns.append(Turn(role="assistant", content=text, loss=not mistake, thought=thought, action=action))
        if not (last and outcome is Outcome.COMPLETED):
            observation = (
                "The output of the OS:\n\n7" if outcome is Outcome.COMPLETED else "Write one action as said above."
            )
            turns.append(Turn(role="user", content=observation))
    return Trajectory(
        id=f"{made.id}-{policy}",
        task=made,
        attempt=0,
        turns=tuple(turns),
        reward=float(solved),
        score=float(solved),
        outcome=outcome,
        policy=policy,
        steps=steps,
        calls=tuple(calls),
        diagnostics={"malformed": steps if outcome is Outcome.INVALID_ACTION else 0},
    )


def evaluation_episodes(chance: float, seed: int, policy: str) -> list[Trajectory]:
    luck = random.Random(seed)
    made = []
    for environment in ENVIRONMENTS:
        for split, count in (("test", 24), ("shifted", 8)):
            for number in range(count):
                solved = luck.random() < chance * (0.6 if split == "shifted" else 1)
                bad = Outcome.INVALID_ACTION if luck.random() > chance else luck.choice(list(Outcome)[:4])
                outcome = Outcome.COMPLETED if solved else bad
                steps = 3 if outcome is Outcome.INVALID_ACTION else luck.randint(2, 6)
                made.append(episode(task(environment, split, number), solved, outcome, steps, policy))
    return made


def general(mean: float, seed: int, chance: float) -> GeneralResult:
    noise = random.Random(7)
    shift = random.Random(seed)
    dialogues = tuple(
        DialogueLoss(
            id=f"d{i}", category="advice", loss=mean + noise.gauss(0, 0.4) + shift.gauss(0, 0.03), tokens=60 + i
        )
        for i in range(60)
    )
    kinds = ("bullets", "max_words", "json", "sentences")
    answers = tuple(
        AnswerResult(id=f"v{i}", category=kinds[i % 4], answer="...", finish_reason="stop", passed=p, failed=())
        for i, p in enumerate(shift.random() < chance for _ in range(60))
    )
    tokens = [d.tokens for d in dialogues]
    loss = LossResult(
        mean=token_mean([d.loss for d in dialogues], tokens), tokens=sum(tokens), device="cpu", dtype="float32",
        dialogues=dialogues,
    )  # fmt: skip
    return GeneralResult(
        model="m",
        confidence=0.95,
        loss=loss,
        success=rate_of(a.passed for a in answers),
        by_category=rates_by((a.category, a.passed) for a in answers),
        instructions=answers,
    )


def metrics(steps: int) -> bytes:
    noise = random.Random(1)
    lines = []
    for step in [*range(1, 61), *range(51, steps + 1)]:  # a restart at 50
        rate = 2e-4 * min(1.0, step / 5) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        lines.append(
            {
                "step": step,
                "loss": 0.35 + 1.5 * math.exp(-step / 18) + noise.gauss(0, 0.06),
                "learning_rate": rate,
                "grad_norm": 0.8 + abs(noise.gauss(0, 0.2)) + 2 * math.exp(-step / 8),
                "tokens_per_second": 610 + noise.gauss(0, 18),
                "supervised_tokens_per_second": 310 + noise.gauss(0, 12),
                "items/agent": round(2.4 * step),
                "items/general": 12 * step - round(2.4 * step),
                "loss/agent": 0.1 + 2.2 * math.exp(-step / 15) + noise.gauss(0, 0.05),
                "loss/general": 0.6 + 0.5 * math.exp(-step / 30) + noise.gauss(0, 0.05),
            }
        )
    return b"\n".join(map(orjson.dumps, lines)) + b'\n{"step": 12'


def write_run(root: Path) -> Store:
    """Write a whole run directory and return its store."""
    run = Store(str(root / "demo"))
    recipe = validate_recipe(
        {"environments": {e: {"train_tasks": 100, "test_tasks": 24, "shifted_tasks": 8} for e in ENVIRONMENTS}}
    )
    run.write("recipe.yaml", dump_recipe(recipe).encode())
    luck = random.Random(2)
    train = [
        episode(task(e, "train", n), luck.random() < 0.93, Outcome.COMPLETED, 2 + n % 5, "expert", True)
        for e in ENVIRONMENTS
        for n in range(40)
    ]
    commit_segment(run.child("trajectories"), "actor-0", 0, train)
    kept = [t for t in train if t.reward == 1.0]
    run.write_json("trajectories/manifest.json", {"stage": "generate", "key": {}, "done": True, "info": GENERATED})
    run.write_table("curated/kept.parquet", trajectories_table(kept))
    rules = ("reward", "form", "repetition", "duplicate")
    verdicts = [
        Verdict(t.task.environment, t.task.family, t.task.id, t.outcome.value, t.steps, None if t.reward else "reward")
        for t in train
    ]
    run.write_json("curated/report.json", summarise(verdicts, rules, "agentinstruct.jsonl").model_dump(mode="json"))
    run.write_json(
        "mixture/report.json",
        {
            "sources": {
                "agent": {"items": len(kept), "tokens": 61_230, "supervised": 18_110, "dropped": {}},
                "general": {"items": 396, "tokens": 70_400, "supervised": 52_020, "dropped": {"too_long": 4}},
            }
        },
    )
    trained = {
        "steps": 100, "planned_steps": 120, "bad_steps": 0, "tokens": 300_500, "supervised_tokens": 165_700,
        "items": {"agent": 240, "general": 960}, "item_share": {"agent": 0.2, "general": 0.8},
        "epochs": {"agent": 2.2018, "general": 2.4242}, "first_loss": 1.83, "last_loss": 0.37, "seconds": 391.4,
        "tokens_per_second": 612.3, "supervised_tokens_per_second": 309.0, "packing_efficiency": 0.962,
        "peak_memory_bytes": 5_300_000_000, "workers": 1, "device": "cpu", "dtype": "bfloat16",
        "attention": "segments", "notes": ["training.max_seconds=400: cut from 120 to 100 steps"],
    }  # fmt: skip
    run.write("training/metrics.jsonl", metrics(100))
    run.write_json("training/trained.json", trained)
    for which, chance, loss, seed in (("base", 0.03, 2.31, 11), ("tuned", 0.66, 2.32, 12)):
        store = run.child("evaluation", which)
        episodes = evaluation_episodes(chance, seed, which)
        commit_segment(store.child("trajectories"), "actor-0", 0, episodes)
        held_in = score_held_in(episodes, which, len(episodes))
        store.write_json("held_in.json", held_in.model_dump(mode="json"))
        store.write_json("general.json", general(loss, seed, 0.45).model_dump(mode="json"))
    seconds = {
        "generate": 41.2,
        "curate": 2.0,
        "mix": 122.5,
        "evaluate base": 96.0,
        "train": 402.7,
        "export": 6.1,
        "evaluate tuned": 118.3,
    }
    run.write_json("timings.json", {"seconds": seconds, "peak_memory_bytes": 9_450_000_000})
    run.write_json("summary.json", assemble_summary(run))
    return run
