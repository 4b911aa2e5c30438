"""The one frozen network that all roles share, and the one place that switches between them."""

from __future__ import annotations

import copy
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from ppo_lm.distributed.slices import gather, own_slice, slice_like
from ppo_lm.errors import ModelError, first_line
from ppo_lm.fast.adapted_linear import is_coarse
from ppo_lm.fast.lora_linear import adapted, use_own_passes
from ppo_lm.fast.paths import find_paths
from ppo_lm.fast.quantisation import NONE
from ppo_lm.fast.quantised_linear import (
    QuantisedLinear,
    dense_parameters,
    find_quantisation,
    quantised_layers,
)
from ppo_lm.fast.reading import read_packed_rows, read_padded_rows
from ppo_lm.fast.sharding import gathered, in_whole_shapes, shard_network
from ppo_lm.models.adapter_check import WEIGHTS_FILE, check_adapted_layers, check_adapter_config, check_adapter_folder
from ppo_lm.models.base_stamp import BaseStamp
from ppo_lm.models.complete import check_finite, list_some
from ppo_lm.models.merging import MergedNetwork, MergedWeights, merge


class BaseModel:
    """A causal language model, its tokenizer, and its LoRA adapters, one per role.

    The network's own weights are frozen and its dropout is off: sampling and training see the same policy (2403.17031).
    A role is activated for the length of a `with base.role(name):` block; None means the network without any adapter.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: list[int],
        name: str,
        fast: bool = True,
        allow_special_tokens: bool = False,
    ):
        """`fast`: read rows without padding, through our own passes if their trial succeeds, otherwise through
        transformers' layers with fused adapters (`LoraLinear`). `notes` says which of these the network does not
        support. `allow_special_tokens`: the texts of control tokens in data are these tokens; see
        `data.special_tokens`."""
        self.network = network.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.eos_token_ids = eos_token_ids
        self.pad_token_id = pick_pad_token_id(tokenizer, eos_token_ids)
        self.name = name
        self.allow_special_tokens = allow_special_tokens
        self.peft: PeftModel | None = None
        self._lora_layers: list[BaseTunerLayer] = []
        self._checkpointed: list[GradientCheckpointingLayer] = []
        self.fast = fast
        self.paths = find_paths(self.network, fast)
        self.notes = self.paths.notes
        self._read = read_padded_rows if self.paths.why_not_packed else read_packed_rows
        self._active: str | None = None
        self.is_sharded = False
        self._gathered: dict[str, torch.Tensor] | None = None
        self.quantisation = find_quantisation(network)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def hidden_size(self) -> int:
        """The width that the output layer reads, and so do reward and value heads; OPT-350m's layers are wider."""
        head = self.network.get_output_embeddings()
        assert head is not None
        return head.weight.shape[1]

    @property
    def context_length(self) -> int:
        """The maximum number of tokens, prompt and response together."""
        return getattr(self.network.config.get_text_config(), "max_position_embeddings", sys.maxsize)

    @property
    def description(self) -> str:
        """Size without adapters, dtype and device, and the `notes`."""
        count = sum(p.numel() for name, p in self.network.named_parameters() if ".lora_" not in name)
        count += sum(layer.in_features * layer.out_features for layer in quantised_layers(self.network))
        size = f"{count / 1e6:.1f}M parameters, {str(self.dtype).removeprefix('torch.')}, {self.device}"
        return "; ".join([size, *self.notes])

    def shard(self, device: torch.device) -> None:
        """Share the weights out among the processes, so that each holds a slice of every one, on `device`; see
        `fast.sharding`. Call this before adapters are added: they stay whole. From then on, all processes have to run
        the network at the same time. Raises `ModelError` if it cannot be sharded."""
        if self.quantisation != NONE:
            raise ModelError(f"model {self.name!r} is held in {self.quantisation}, so it cannot be sharded")
        _ = self._stamp  # of the whole weights
        try:
            shard_network(self.network, device)
        except (ValueError, NotImplementedError) as error:
            raise ModelError(
                f"model {self.name!r} cannot be sharded ({first_line(error)}); set shard_base to false"
            ) from error
        if self.paths.accelerated:
            self.paths.accelerated.shard()
        self.is_sharded = True

    @property
    def why_no_decoder(self) -> str | None:
        """Why our own decoder cannot sample from the network, a clause; None if it can."""
        if self.is_sharded:
            return "its weights are sharded"
        if self.quantisation != NONE:
            return f"its weights are held in {self.quantisation}"
        return self.paths.why_not_accelerated

    @property
    def roles(self) -> list[str]:
        """The roles that have an adapter, in the order they were added."""
        return [] if self.peft is None else list(self.peft.peft_config)

    def copy_of_all_weights(self) -> BaseModel:
        """A separate, trainable copy of the network, for training all weights instead of an adapter. That of sharded
        weights is whole, on the CPU; all processes have to ask for it. Raises `ModelError` if they are quantised."""
        if self.peft is not None:
            raise ValueError("copy the base before adapters are added to it")
        if self.quantisation != NONE:
            raise ModelError(f"the weights of model {self.name!r} are held in {self.quantisation}, so they are frozen")
        with self.gathered(everywhere=True):
            network = self.merged_network(None).network if self.is_sharded else copy.deepcopy(self.network)
        allowed = self.allow_special_tokens
        twin = BaseModel(network, self.tokenizer, self.eos_token_ids, self.name, self.fast, allowed)
        twin.network.requires_grad_(True)
        return twin

    def add_adapter(self, role: str, lora: PeftConfig) -> None:
        """Add a fresh, trainable adapter for `role`. A fresh adapter changes nothing until it is trained. Raises
        `ModelError` for a kind that is not supported."""
        what = f"the adapter {role!r}"
        check_adapter_config(lora.to_dict(), what)
        self._put_in(role, lora, what)

    def load_adapter(self, role: str, folder: str | Path) -> None:
        """Add the adapter saved in `folder` (PEFT's format) as `role`. Raises `ModelError` for a kind that is not
        supported."""
        check_adapter_folder(folder)
        self._put_in(role, PeftConfig.from_pretrained(str(folder)), f"adapter {str(folder)!r}")
        self._read_adapter_weights(role, Path(folder))

    def _put_in(self, role: str, lora: PeftConfig, what: str) -> None:
        lora.base_model_name_or_path = None  # peft puts the network's name there, and warns of another
        with in_whole_shapes(self.network), _without_warnings():
            if self.peft is None:
                self.peft = get_peft_model(self.network, lora, adapter_name=role)
            else:
                self.peft.add_adapter(role, lora)
        self._adapters_changed(what)

    @torch.no_grad()
    def _read_adapter_weights(self, role: str, folder: Path) -> None:
        """Copy the file's weights into the adapter, by name. Raises `ValueError` if a name is missing on either
        side."""
        saved = load_file(folder / WEIGHTS_FILE)
        there = get_peft_model_state_dict(self._adapters, adapter_name=role, save_embedding_layers=False)
        strangers, missing = sorted(saved.keys() - there.keys()), sorted(there.keys() - saved.keys())
        if strangers:
            raise ValueError(f"this network has no place for {list_some(strangers)}")
        if missing:
            raise ValueError(f"its file has no {list_some(missing)}")
        what = f"adapter {str(folder)!r}"
        check_finite(saved.items(), what)
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            stamp = BaseStamp.read(file.metadata())
        if stamp is not None:
            stamp.check(self._stamp, what)
            note = stamp.note(self._stamp, what)
            self.notes += [note] if note else []
        for name, weight in saved.items():
            there[name].copy_(weight)

    def copy_adapter(self, source: str, target: str) -> None:
        """Add a copy of the adapter of role `source`, as the trainable role `target`."""
        self.add_adapter(target, copy.deepcopy(self._adapters.peft_config[source]))
        with torch.no_grad():
            for new, old in zip(self.role_parameters(target), self.role_parameters(source), strict=True):
                new.copy_(old)

    def save_adapter(self, role: str, folder: str | Path) -> None:
        """Write the adapter of `role` as PEFT does: `adapter_config.json` and `adapter_model.safetensors` in
        `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(self._adapters, adapter_name=role, save_embedding_layers=False)
        weights = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(weights, folder / WEIGHTS_FILE, self._stamp.metadata())
        config = copy.deepcopy(self._adapters.peft_config[role])
        config.base_model_name_or_path, config.inference_mode = self.name, True
        config.save_pretrained(str(folder))

    @functools.cached_property
    def _stamp(self) -> BaseStamp:
        """Of the network's own weights, which are frozen."""
        own = ((name, weight) for name, weight in dense_parameters(self.network) if ".lora_" not in name)
        return BaseStamp.of(self.name, self.dtype, own, self.quantisation)

    @property
    def _adapters(self) -> PeftModel:
        """The network with its adapters. Raises `ValueError` if it has none."""
        if self.peft is None:
            raise ValueError(f"model {self.name!r} has no adapter yet")
        return self.peft

    def _adapters_changed(self, what: str) -> None:
        check_adapted_layers(self.network, what)
        self._adapters.eval()
        self._lora_layers = [module for module in self.network.modules() if isinstance(module, BaseTunerLayer)]
        if self.fast or is_coarse(self.dtype):  # peft's pass rounds small adapters away there
            for layer in self._lora_layers:
                use_own_passes(layer)
        if self.paths.accelerated:
            self.paths.accelerated.describe()
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_("lora_" in name)
        self._activate(None)

    def _activate(self, role: str | None) -> None:
        # PEFT's set_adapter takes 20-60 ms, and clears requires_grad of the other roles; this sets the same two fields
        # and no more, and bypasses nn.Module.__setattr__, which looks for parameters first.
        self._active = role
        changed = {"_disable_adapters": role is None} | ({} if role is None else {"_active_adapter": [role]})
        for layer in self._lora_layers:
            vars(layer).update(changed)

    @contextmanager
    def role(self, role: str | None) -> Iterator[None]:
        """Run the network as `role`. Blocks do not nest; run backward passes that recompute activations inside the
        block."""
        if role is not None and (self.peft is None or role not in self.peft.peft_config):
            raise KeyError(f"no adapter called {role!r}")
        self._activate(role)
        try:
            yield
        finally:
            self._activate(None)

    @contextmanager
    def dropout(self) -> Iterator[None]:
        """Apply the network's and the adapters' dropout inside the block, as supervised training does."""
        self.network.train()
        try:
            yield
        finally:
            self.network.eval()

    def role_parameters(self, role: str | None) -> list[nn.Parameter]:
        """The weights that belong to `role`; for None, all weights of the network."""
        return [
            parameter for name, parameter in self.network.named_parameters() if role is None or _belongs_to(name, role)
        ]

    @contextmanager
    def gathered(self, everywhere: bool = False) -> Iterator[None]:
        """Inside the block, the first process, or each, can merge sharded weights: it holds all of them, on the CPU,
        gathered one at a time. All processes have to enter it. Without sharded weights, it does nothing."""
        if self.is_sharded:
            self._gathered = gather(self.network.state_dict(keep_vars=True), everywhere)
        try:
            yield
        finally:
            self._gathered = None

    def merged_weights(self, role: str | None, dtype: torch.dtype | None = None) -> MergedWeights:
        """See `merging.merge`. Raises `ModelError` if the weights are sharded and not `gathered`."""
        if self.is_sharded and self._gathered is None:
            raise ModelError(
                f"the weights of model {self.name!r} are sharded, so they cannot be merged or saved by one process "
                "alone; do it inside `with base.gathered():`, which all processes have to enter"
            )
        state = self.network.state_dict() if self._gathered is None else self._gathered
        return merge(self.network, state, role, dtype)

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy whole weights into those of the network, by their names there."""
        for name, weight in self.network.state_dict(keep_vars=True).items():
            own_slice(weight).copy_(slice_like(weight, weights[name]))

    def merged_network(self, role: str | None) -> MergedNetwork:
        """A plain transformers network on the CPU, with the adapter of `role` added to the base's weights; see
        `merged_weights`."""
        merged = AutoModelForCausalLM.from_config(copy.deepcopy(self.network.config), dtype=self.dtype)
        weights, kept = self.merged_weights(role)
        merged.load_state_dict(weights)
        merged.generation_config = copy.deepcopy(self.network.generation_config)
        return MergedNetwork(merged.eval(), kept)

    def network_with(self, role: str) -> MergedNetwork:
        """The quantised network itself, with the adapter of `role` added to its layers for good; it has no adapters
        any more, and this object is of no more use."""
        kept = self.merged_weights(role).kept
        for module in self._lora_layers:
            if isinstance(module, lora.Linear) and role in module.lora_A:
                layer, adapter = module.base_layer, adapted(module, role)
                assert isinstance(layer, QuantisedLinear) and adapter.a is not None and adapter.b is not None
                layer.add(adapter.a, adapter.b, adapter.scale)
        return MergedNetwork(self._adapters.unload(), kept)  # pyright: ignore[reportArgumentType]  (peft has no type for it)

    def hidden_states(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, wanted: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The last hidden states. (B, T) int64, (B, T) bool → (B, T, H). Padding on either side changes nothing.
        `wanted` (B, T) bool: only these positions need to be correct."""
        own = self.paths.accelerated
        if own is not None and not self.network.training:  # dropout is left to transformers' layers
            keep_inputs_only = bool(self._checkpointed) and torch.is_grad_enabled()
            return own.hidden_states(self._active, input_ids, attention_mask, wanted, keep_inputs_only)
        with self._checkpointing():
            return self._read(self.network.get_decoder(), input_ids, attention_mask)

    def checkpoint_activations(self) -> None:
        """Keep only the layers' inputs for the backward pass, which recomputes the rest ("Training deep nets with
        sublinear memory cost", 1604.06174)."""
        enable = (
            getattr(self.network, "activation_checkpointing_enable", None) or self.network.gradient_checkpointing_enable
        )  # its new and its old name
        enable({"use_reentrant": False})
        self._checkpointed = [
            module for module in self.network.modules() if isinstance(module, GradientCheckpointingLayer)
        ]

    @contextmanager
    def _checkpointing(self) -> Iterator[None]:
        """A layer checkpoints only in training mode, where it keeps no cache; its submodules, including dropout, stay
        as they are."""
        modes = [layer.training for layer in self._checkpointed]
        for layer in self._checkpointed:
            layer.training = torch.is_grad_enabled()
        try:
            yield
        finally:
            for layer, mode in zip(self._checkpointed, modes):
                layer.training = mode

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Next-token logits, (n, H) → (n, V)."""
        return self.output_layer()(hidden)

    def output_layer(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """From hidden states to logits, (n, H) → (n, V): a module, for `ops.action_logprobs`, which knows shorter ways
        through a linear layer; a plain function if `fast` is off. Of sharded weights, it is a whole copy, for which all
        processes have to ask at the same time; hold it no longer than needed."""
        layer = self.network.get_output_embeddings()
        assert layer is not None
        layer = gathered(layer) if self.is_sharded else layer
        return layer if self.fast else layer.__call__


def pick_pad_token_id(tokenizer: PreTrainedTokenizerBase, eos_token_ids: list[int]) -> int:
    """A padding token that is not an EOS token: the tokenizer's own, else another special token, else id 0 or 1.

    Masks come from real lengths and never from `ids != pad`, so the choice does not affect results. The tokenizer is
    not changed.
    """
    candidates = [tokenizer.pad_token_id, *tokenizer.all_special_ids, 0, *range(1, len(eos_token_ids) + 1)]
    return next(token for token in candidates if token is not None and token not in eos_token_ids)


def _belongs_to(parameter_name: str, role: str) -> bool:
    """peft names them `….lora_A.ROLE.weight` or `….lora_embedding_A.ROLE`."""
    _, lora, rest = parameter_name.rpartition(".lora_")
    return bool(lora) and rest.split(".")[1] == role


@contextmanager
def _without_warnings() -> Iterator[None]:
    """peft 0.21 reads an attribute of the network that transformers 5.23 has renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        yield
