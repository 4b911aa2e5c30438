"""Serve a reward model over HTTP, as a scorer for a run in another process or on another machine.

    uv run examples/reward_server.py --model_name embedded --reward embedded --port 8000
    uv run main.py --reward http://127.0.0.1:8000/score

Any server that answers POST {"prompts", "completions", "columns"} with {"scores"} will do.
"""

import argparse
import asyncio

from aiohttp import web

from ppo_lm.base_setup import find_reward_folder, load_base
from ppo_lm.models import RewardModel
from ppo_lm.ppo_trainer import RewardComputer


def make_app(scorer: RewardComputer) -> web.Application:
    one_at_a_time = asyncio.Lock()

    async def score(request: web.Request) -> web.Response:
        body = await request.json()
        async with one_at_a_time:
            scores = await asyncio.to_thread(
                scorer.compute_rewards, body["prompts"], body["completions"], body.get("columns")
            )
        return web.json_response({"scores": scores.tolist()})

    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/score", score)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name", default="embedded", help="the base that the reward model was trained on")
    parser.add_argument("--reward", default="embedded", help="the reward model's folder")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    folder = find_reward_folder(arguments.reward) or parser.error(f"{arguments.reward} is not a reward model folder")
    model = RewardModel.load(load_base(arguments.model_name), folder)
    web.run_app(make_app(RewardComputer(model)), host="127.0.0.1", port=arguments.port)
