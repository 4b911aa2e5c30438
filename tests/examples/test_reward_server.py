import asyncio
import importlib.util

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ppo_lm.base_setup import load_base
from ppo_lm.rewards import RemoteReward, Responses, RewardComputer, load_reward
from tests.conftest import opinions

pytestmark = pytest.mark.fast

PROMPTS = ["SUBREDDIT: r/life TITLE: My boss POST: My boss yelled at me. TL;DR:", "POST: I moved out. TL;DR:"]
TEXTS = [" My boss yelled at me.", " I am upset."]


def test_it_serves_the_scores_of_the_reward_model(checkout):
    spec = importlib.util.spec_from_file_location("reward_server", checkout / "examples" / "reward_server.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    scorer = RewardComputer(load_reward("embedded"))
    scorer.make_ready(load_base("embedded", "float32", "cpu"))

    async def ask():
        async with TestClient(TestServer(example.make_app(scorer))) as client:
            return await asyncio.to_thread(opinions, RemoteReward(str(client.make_url("/score"))), PROMPTS, TEXTS)

    assert asyncio.run(ask()) == pytest.approx(scorer.compute_rewards(Responses(PROMPTS, TEXTS)).opinions, abs=1e-6)
