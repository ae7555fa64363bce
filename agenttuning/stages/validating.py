"""A few test episodes with a model that is still in training, for the task that measures its held-out loss.

Training knows nothing of environments: it hands a directory with a checkpoint's weights to what is made here. The model
answers greedily by plain generation, one episode after the other, with the held-in suite's tasks and limits. Nothing is
served or stored: this shows a trend while the workers train on; the score of a run is that of `evaluate`.
"""

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from agenttuning.environments.base import environment_class
from agenttuning.errors import InfrastructureError
from agenttuning.evaluation.failures import succeeded
from agenttuning.evaluation.held_in import test_tasks
from agenttuning.evaluation.probe_loss import placement
from agenttuning.policies.base import Reply
from agenttuning.progress import say
from agenttuning.recipe import Recipe
from agenttuning.rollout.episode import Attempt, Limits, play_episode
from agenttuning.rollout.isolation import SeatPool
from agenttuning.rollout.worker import episode_seed
from agenttuning.trajectory import Task, Trajectory, Turn


class Greedy:
    """A model in a directory as a policy: the likeliest token at every place, by transformers' own generation.

    Args:
        model_dir: weights, tokenizer and chat template.
        max_tokens: most of a reply.
        trust_remote_code: run the model's own code.
    """

    def __init__(self, model_dir: Path, max_tokens: int, trust_remote_code: bool = False) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from agenttuning.rendering.renderer import renderer_for

        tokenizer = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
        self._renderer = renderer_for(tokenizer, str(model_dir))
        self._device, dtype = placement(model_dir)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        ).to(self._device)
        self._max_tokens = max_tokens

    async def act(self, turns: tuple[Turn, ...], seed: int) -> Reply:
        """Answer the turns; the seed changes nothing."""
        return await asyncio.to_thread(self._answer, turns)

    def _answer(self, turns: tuple[Turn, ...]) -> Reply:
        import torch

        prompt = torch.from_numpy(self._renderer.prompt(turns)).long()[None].to(self._device)
        end = self._renderer.end_id
        with torch.inference_mode():
            out = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=self._max_tokens,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
            )[0, prompt.shape[1] :].tolist()
        ended = bool(out) and out[-1] == end
        text = self._renderer.tokenizer.decode(out[:-1] if ended else out)
        return Reply(str(text), "stop" if ended else "length", prompt.shape[1], len(out))


def episode_player(recipe: Recipe, episodes: int) -> Callable[[Path], dict[str, float]]:
    """Return what plays so many test episodes with a model in a directory, spread over the recipe's environments.

    At least one is played in each environment that has test tasks, none in the others. It crosses processes. It returns
    `episodes`, how many were played, and `success`, the share of them with full reward, where any was. An episode that
    the world failed is passed over.
    """
    tested = sum(spec.test_tasks > 0 for spec in recipe.environments.values())
    each = -(-episodes // max(1, tested))
    environments = {
        name: spec.model_copy(update={"test_tasks": min(each, spec.test_tasks), "shifted_tasks": 0})
        for name, spec in recipe.environments.items()
    }
    return functools.partial(_play, recipe.model_copy(update={"environments": environments}).model_dump(mode="json"))


def _play(recipe_json: dict[str, Any], model_dir: Path) -> dict[str, float]:
    recipe = Recipe.model_validate(recipe_json)
    tasks = test_tasks(recipe)
    policy = Greedy(model_dir, recipe.evaluation.max_tokens, recipe.model.trust_remote_code)
    played = asyncio.run(_play_all(recipe, tasks, policy))
    success = {"success": fmean(map(succeeded, played))} if played else {}
    return {"episodes": float(len(played)), **success}


async def _play_all(recipe: Recipe, tasks: list[Task], policy: Greedy) -> list[Trajectory]:
    played, rollout = [], recipe.rollout
    for name, spec in recipe.environments.items():
        limits = Limits(spec.max_steps, rollout.context_tokens, rollout.max_malformed, rollout.max_repeats)
        pool = SeatPool(environment_class(name), spec.settings, recipe.data.root, rollout.step_timeout_s)
        try:
            for task in (t for t in tasks if t.environment == name):
                attempt = Attempt("checkpoint", {}, seed=episode_seed(recipe.run.seed, task, 0))
                seat = pool.take()
                try:
                    played.append(
                        await play_episode(seat, task, policy.act, limits, attempt, demonstration=spec.demonstration)
                    )
                except InfrastructureError as error:
                    say(f"validation: an episode of {name} was passed over ({error})")
                finally:
                    pool.give_back(seat)
        finally:
            await asyncio.to_thread(pool.close)
    return played
