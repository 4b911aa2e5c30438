"""Serve a reward over HTTP, as a scorer for a run in another process or on another machine.

    uv run examples/reward_server.py --model_name embedded --reward embedded --port 8000
    uv run main.py --reward http://127.0.0.1:8000/score

Any server that answers POST {"prompts", "completions", "columns"} with {"scores"} will do.
"""

import argparse
import asyncio

from aiohttp import web

from ppo_lm.base_setup import load_base
from ppo_lm.rewards import Responses, RewardComputer, load_reward


def make_app(scorer: RewardComputer) -> web.Application:
    one_at_a_time = asyncio.Lock()

    async def score(request: web.Request) -> web.Response:
        body = await request.json()
        async with one_at_a_time:
            responses = Responses(body["prompts"], body["completions"], body.get("columns") or {})
            scores = await asyncio.to_thread(scorer.compute_rewards, responses)
        return web.json_response({"scores": scores.opinions})

    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/score", score)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name", default="embedded", help="the base that the reward model was trained on")
    parser.add_argument("--reward", default="embedded", help="anything that `ppo-lm train --reward` takes")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    scorer = RewardComputer(load_reward(arguments.reward))
    scorer.make_ready(load_base(arguments.model_name))
    web.run_app(make_app(scorer), host="127.0.0.1", port=arguments.port)
