"""What is trained: parameter sets, LoRA layers put into the networks and taken out again, and adapters switched on.

Module paths are those of `Adapter`: diffusers' names with the network in front, text encoders always with `text_model`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from .checkpoint_names import with_text_model
from .errors import FewShotError
from .merging import applied, parent_of, unwrapped
from .values import Adapter, Factor, LowRank

if TYPE_CHECKING:
    from .loading import Networks

__all__ = ["PARAMETER_SETS", "Injected", "LoraSpec", "applied", "inject", "paths_of_set"]

PARAMETER_SETS: Mapping[str, str] = MappingProxyType(
    {
        "cross_kv": r"unet\..*attn2\.to_[kv]",
        "cross": r"unet\..*attn2\.to_(q|k|v|out\.0)",
        "self": r"unet\..*attn1\.to_(q|k|v|out\.0)",
        "attention": r"unet\..*attn[12]\.to_(q|k|v|out\.0)",
        "attention_ff": r"unet\..*(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
        "text": r"text_encoder(_2)?\..*self_attn\.(q|k|v|out)_proj",
    }
)
"""Which linear layers a set trains, as a regular expression on whole module paths. "cross_kv" are the projections of
the prompt (Kumari et al. 2023, Custom Diffusion); "attention" is the usual choice (Hu et al. 2021)."""

_NAME = "fewshot"
"""peft's name of our layers"""


@dataclass(frozen=True)
class LoraSpec:
    """Rank and alpha of a low-rank update; its strength is alpha / rank (Hu et al. 2021, section 4.1)."""

    rank: int
    alpha: float

    def __post_init__(self):
        if self.rank < 1:
            raise FewShotError(f"a LoRA of rank {self.rank} was asked for: choose at least 1")
        if not self.alpha > 0:
            raise FewShotError(f"a LoRA with alpha {self.alpha} was asked for: choose a number above 0")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def paths_of_set(networks: Networks, name: str) -> tuple[str, ...]:
    """The module paths of a parameter set in these networks. Raises FewShotError for an unknown or an empty set."""
    if name not in PARAMETER_SETS:
        raise FewShotError(f"'{name}' is no parameter set: choose one of {', '.join(PARAMETER_SETS)}")
    pattern = re.compile(PARAMETER_SETS[name])
    found = tuple(
        path
        for root, network in networks.roots().items()
        for path in _module_paths(root, network)
        if pattern.fullmatch(path)
    )
    if not found:
        raise FewShotError(f"the parameter set '{name}' is empty in {networks.ref.name}: choose another set")
    return found


def _module_paths(root: str, network: nn.Module) -> Iterator[str]:
    for name, module in network.named_modules():
        if isinstance(unwrapped(module), nn.Linear) and not re.search(r"\.(base_layer|lora_[AB])\b", name):
            yield f"{root}.{with_text_model(name) if root != 'unet' else name}"


# -------------------------------------------------------------------------------------------------------- injection


@dataclass
class Injected:
    """LoRA layers in the networks. `parameters` are trainable and float32, by stable names.

    The names are "<path>.lora_down" (rank, in) and "<path>.lora_up" (out, rank). What the adapter that training
    started from has outside the trained layers stays applied, and goes into `extract`.
    """

    parameters: dict[str, nn.Parameter]
    _family: str
    _layers: dict[str, Any]
    _specs: dict[str, LoraSpec]
    _kept: Adapter | None
    _networks: Networks
    _stack: ExitStack = field(default_factory=ExitStack)

    def extract(self, trigger: str = "", metadata: Mapping[str, str] | None = None) -> Adapter:
        """The adapter as it is now, with copies on the CPU in float32."""
        factors: dict[str, Factor] = dict(self._kept.factors) if self._kept else {}
        for path, spec in self._specs.items():
            up, down = (self.parameters[f"{path}.lora_{way}"].detach().to("cpu", copy=True) for way in ("up", "down"))
            factors[path] = LowRank(up, down, float(spec.alpha))
        embeddings = self._kept.embeddings if self._kept else {}
        return Adapter(factors, self._family, trigger, embeddings, dict(metadata or {}))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters to `state`, which has exactly their names and shapes."""
        if set(state) != set(self.parameters):
            odd = sorted(set(state) ^ set(self.parameters))[0]
            raise FewShotError(f"the saved state does not fit: it has {len(state)} tensors, first difference {odd}")
        for name, parameter in self.parameters.items():
            if state[name].shape != parameter.shape:
                raise FewShotError(
                    f"the saved state does not fit: {name} has the shape {tuple(state[name].shape)}, "
                    f"{tuple(parameter.shape)} is needed"
                )
            parameter.copy_(state[name])

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Without the trained layers: the networks as they were before (adapters applied below stay on)."""
        trained = [p.requires_grad for p in self.parameters.values()]
        for layer in self._layers.values():
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in self._layers.values():
                layer.enable_adapters(True)
            for parameter, flag in zip(self.parameters.values(), trained, strict=True):
                parameter.requires_grad_(flag)

    def remove(self) -> None:
        """Take the layers out; the networks are as before, bit for bit."""
        for path, layer in self._layers.items():
            parent, name = parent_of(self._networks.roots(), path)
            setattr(parent, name, layer.base_layer)
        for network in self._networks.roots().values():
            if hasattr(network, "peft_config"):
                del network.peft_config
        self._layers, self.parameters = {}, {}
        self._stack.close()


def inject(
    networks: Networks,
    sets: Mapping[str, LoraSpec | tuple[int, float]],
    seed: int,
    start_from: Adapter | None = None,
) -> Injected:
    """Put LoRA layers into the chosen parameter sets; where sets overlap the first one counts.

    A new layer does nothing at first: `up` is zero and `down` is drawn as nn.Linear's weight, from a stream that
    depends on `seed` and the layer's path alone. `start_from` is trained on: its factors in the chosen layers become
    the start, those elsewhere stay applied.
    """
    specs = _specs_by_path(networks, sets)
    begin, kept = _split(start_from, specs, networks)
    stack = ExitStack()
    if kept is not None and kept.factors:
        stack.enter_context(applied(networks, [(kept, 1.0)]))
    with torch.inference_mode(False):
        layers = _wrap(networks, specs)
        parameters: dict[str, nn.Parameter] = {}
        for path, spec in specs.items():
            down, up = _place(layers[path], spec, _start(layers[path].base_layer, spec, seed, path, begin.get(path)))
            parameters |= {f"{path}.lora_down": down, f"{path}.lora_up": up}
    return Injected(parameters, networks.family.name, layers, specs, kept, networks, stack)


def _specs_by_path(networks: Networks, sets: Mapping[str, LoraSpec | tuple[int, float]]) -> dict[str, LoraSpec]:
    if not sets:
        raise FewShotError(f"no parameter set is chosen: choose among {', '.join(PARAMETER_SETS)}")
    specs: dict[str, LoraSpec] = {}
    for name, spec in sets.items():
        spec = spec if isinstance(spec, LoraSpec) else LoraSpec(*spec)
        for path in paths_of_set(networks, name):
            specs.setdefault(path, spec)
    return specs


def _split(
    adapter: Adapter | None, specs: Mapping[str, LoraSpec], networks: Networks
) -> tuple[dict[str, LowRank], Adapter | None]:
    """The factors to begin from by path, and the adapter without them."""
    if adapter is None:
        return {}, None
    if adapter.family != networks.family.name:
        raise FewShotError(
            f"the LoRA to train on from is for {adapter.family}, the base model is {networks.family.name}"
        )
    begin: dict[str, LowRank] = {}
    for path, factor in adapter.factors.items():
        if path not in specs:
            continue
        if not isinstance(factor, LowRank) or factor.mid is not None:
            raise FewShotError(
                f"{path} of the LoRA to train on from is no plain low-rank pair: it cannot be trained on"
            )
        if factor.rank > specs[path].rank:
            raise FewShotError(
                f"the LoRA to train on from has rank {factor.rank} in {path}, and rank {specs[path].rank} is chosen: "
                f"choose rank {factor.rank} or more"
            )
        begin[path] = factor
    rest = {path: factor for path, factor in adapter.factors.items() if path not in begin}
    return begin, Adapter(rest, adapter.family, adapter.trigger, adapter.embeddings, adapter.metadata)


def _wrap(networks: Networks, specs: Mapping[str, LoraSpec]) -> dict[str, Any]:
    """peft's layers around the chosen modules, still without weights."""
    layers = {}
    for root, network in networks.roots().items():
        paths = [path for path in specs if path.startswith(root + ".")]
        if not paths:
            continue
        if hasattr(network, "peft_config"):
            raise FewShotError("the networks are being trained already: remove the other layers first")
        inner = {path: _own_name(network, path) for path in paths}
        config = LoraConfig(target_modules="|".join(map(re.escape, inner.values())), r=1, lora_alpha=1)
        inject_adapter_in_model(config, network, adapter_name=_NAME, low_cpu_mem_usage=True)
        layers |= {path: network.get_submodule(name) for path, name in inner.items()}
    return layers


def _own_name(network: nn.Module, path: str) -> str:
    """A module's name within its network, whichever transformers release built it."""
    name = path.partition(".")[2]
    return name if hasattr(network, "text_model") else name.removeprefix("text_model.")


def _start(base: nn.Linear, spec: LoraSpec, seed: int, path: str, begin: LowRank | None) -> tuple[Tensor, Tensor]:
    """First values of down (rank, in) and up (out, rank): a fresh pair, whose head is what is trained on from."""
    digest = hashlib.sha256(f"{seed}/{path}".encode()).digest()
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    bound = 1 / math.sqrt(base.in_features)
    down = torch.empty(spec.rank, base.in_features).uniform_(-bound, bound, generator=generator)
    up = torch.zeros(base.out_features, spec.rank)
    if begin is not None:
        if begin.down.flatten(1).shape[1] != base.in_features or begin.up.shape[0] != base.out_features:
            raise FewShotError(f"{path} of the LoRA to train on from has another shape: it is for another base model")
        down[: begin.rank] = begin.down.flatten(1).float()
        up[:, : begin.rank] = begin.up.flatten(1).float() * (begin.alpha / begin.rank / spec.scale)
    return down, up


def _place(layer: Any, spec: LoraSpec, start: tuple[Tensor, Tensor]) -> tuple[nn.Parameter, nn.Parameter]:
    """Give a peft layer its weights: float32, on the device of the layer that it wraps."""
    device = layer.base_layer.weight.device
    down, up = (nn.Parameter(tensor.to(device)) for tensor in start)
    layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight = down, up
    layer.r[_NAME], layer.lora_alpha[_NAME], layer.scaling[_NAME] = spec.rank, spec.alpha, spec.scale
    return down, up
