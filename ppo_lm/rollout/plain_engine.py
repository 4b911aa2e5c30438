"""Sampling through transformers' own forward pass and cache: for any causal language model, one token per row at a
time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import pad

from ppo_lm.distributed import as_often, processes
from ppo_lm.experience_buffer import MemoryBudget
from ppo_lm.models import PolicyModel
from ppo_lm.progress import phase
from ppo_lm.rollout.engine import RolloutEngine, Sampled, SamplingSettings
from ppo_lm.rollout.sampling import Token, find_excluded, sample_tokens
from ppo_lm.rollout.stop_strings import EVERY, StopStrings


class PlainEngine(RolloutEngine):
    """Samples from a `PolicyModel` in process, using its weights. Only the last position's logits ever exist: (slots,
    V)."""

    def __init__(self, policy: PolicyModel, budget: MemoryBudget | None = None, reason: str | None = None):
        """`budget`: how many rows are sampled at once. `reason`: why no faster engine can sample, for the screen."""
        self.policy, self.budget, self.reason = policy, budget or MemoryBudget(), reason

    @property
    def description(self) -> str:
        uncached = self.policy.base.paths.why_not_cached
        reasons = [self.reason] if self.reason else []
        reasons += [f"all tokens read again for every new one, because with the cache {uncached}"] if uncached else []
        return "sampled through transformers' own forward pass" + (": " + "; ".join(reasons) if reasons else "")

    @torch.no_grad()
    def sample(
        self,
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        settings: SamplingSettings,
        uniforms: torch.Tensor,
    ) -> Sampled:
        """See `RolloutEngine.sample`. At most `budget.slots` rows at once, each group until all of its rows have
        ended."""

        def attempt(slots: int) -> Sampled:
            columns = (prompt_ids.split(slots), prompt_mask.split(slots), uniforms.split(slots))
            sampled = [(self._sample(*group, settings), counts) for group, counts in as_often(list(zip(*columns)))]
            return _join([group for group, counts in sampled if counts])

        return self.budget.fit_slots(len(prompt_ids), attempt)

    def _sample(
        self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, uniforms: torch.Tensor, settings: SamplingSettings
    ) -> Sampled:
        tokens: list[Token] = []
        with phase("sampling", settings.max_new_tokens, "tokens of each response") as progress:
            for token in self._steps(prompt_ids, prompt_mask, uniforms, settings):
                tokens.append(token)
                progress.done += 1
        ids, logprobs, entropies, supports = zip(*tokens)
        return Sampled(
            torch.stack(ids, dim=1),
            torch.stack(logprobs, dim=1),
            torch.stack(entropies, dim=1),
            None if supports[0] is None else torch.stack(supports, dim=1),
        )

    @torch.no_grad()
    def stream(self, prompt_ids: torch.Tensor, settings: SamplingSettings, uniforms: torch.Tensor) -> Iterator[int]:
        """The tokens of one response to a prompt (1, P), each as soon as it is sampled, EOS included. `uniforms`: (1,
        max_new_tokens)."""
        for token in self._steps(prompt_ids, torch.ones_like(prompt_ids, dtype=torch.bool), uniforms, settings):
            yield int(token.ids)

    def _steps(
        self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, uniforms: torch.Tensor, settings: SamplingSettings
    ) -> Iterator[Token]:
        """One token per row at a time, until all rows have ended."""
        base = self.policy.base
        eos = torch.tensor(base.eos_token_ids, device=base.device)
        mask = pad(prompt_mask, (0, settings.max_new_tokens), value=True)
        growing, new = base.paths.growing_rows(base.network.get_decoder(), mask), prompt_ids
        ended = torch.zeros(len(prompt_ids), dtype=torch.bool, device=base.device)
        stops, written = StopStrings(base.tokenizer, settings), []
        with base.role(self.policy.role):
            output_layer = base.output_layer()
            for step in range(settings.max_new_tokens):
                logits = output_layer(growing.add(new))
                excluded = find_excluded(settings, eos, [step] * len(prompt_ids))
                token = sample_tokens(logits, settings, uniforms[:, step], excluded)
                yield token
                ended |= torch.isin(token.ids, eos)
                if stops:
                    written.append(token.ids)
                    if len(written) % EVERY == 0:
                        ended |= _stopped(stops, torch.stack(written, dim=1))
                if not processes().highest(int(not ended.all())):
                    break
                new = token.ids[:, None]


def _stopped(stops: StopStrings, ids: torch.Tensor) -> torch.Tensor:
    """Whether one of the last `EVERY` tokens of each row completes a stop string: ids (B, A) int64 → (B,) bool."""
    looked_at = ids.shape[1] - EVERY
    return torch.tensor([stops.find(row, looked_at) is not None for row in ids.tolist()], device=ids.device)


def _join(groups: list[Sampled]) -> Sampled:
    """The rows of all groups. Groups that ended earlier are padded with zeros, which come after every row's EOS."""
    if len(groups) == 1:
        return groups[0]
    width = max(group.ids.shape[1] for group in groups)

    def join(name: str) -> torch.Tensor:
        columns = [getattr(group, name) for group in groups]
        return torch.cat([pad(column, (0, 0) * (column.ndim - 2) + (0, width - column.shape[1])) for column in columns])

    support = None if groups[0].support_ids is None else join("support_ids")
    return Sampled(join("ids"), join("logprobs"), join("entropies"), support)
