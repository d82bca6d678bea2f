"""Inject what is trained into the networks, and take it out again: parameter sets, LoRA layers, learned tokens.

Module paths are those of `Adapter`: diffusers' names with the network in front, text encoders always with `text_model`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...core.errors import FewShotError
from ...core.values import BIAS, NOISY_FROM, Adapter, Factor, Kept, LowRank
from ..public_names import PARAMETER_SETS
from .apply import applied
from .forms.complete import form_of
from .forms.word_rows import without_words
from .full_weights import EVERYTHING, FullWeights
from .learned_tokens import LearnedTokens, TokenConstraint
from .lora_layers import LoraSpec, LowRankLayer, clamp_ranks, initial_weights, wrap
from .timestep_range import NoiseGate

if TYPE_CHECKING:
    from ..contract import DiffusionModel

__all__ = ["EVERYTHING", "Full", "Injected", "LoraSpec", "applied", "inject", "paths_of_set"]


@dataclass(frozen=True)
class Full:
    """The weights themselves are trained, not a low-rank update of them."""


Spec = LoraSpec | Full


def paths_of_set(model: DiffusionModel, name: str) -> tuple[str, ...]:
    """The module paths of a parameter set in this model. Raises FewShotError for an unknown or an empty set."""
    if name not in PARAMETER_SETS and name not in (EVERYTHING, "text"):
        raise FewShotError(f"'{name}' is no parameter set: choose one of {', '.join(PARAMETER_SETS)}")
    found = tuple(model.layers(name))
    if not found:
        raise FewShotError(f"the parameter set '{name}' is empty in {model.ref.name}: choose another set")
    return found


# -------------------------------------------------------------------------------------------------------- injection


@dataclass
class Injected:
    """What is trained in the networks. `parameters` are trainable and float32, by stable names.

    Low-rank layers are "<path>.lora_down" (rank, in) and "<path>.lora_up" (out, rank), weights trained in full
    "<path>.weight" and "<path>.bias", learned words "token.<word>.<encoder>". What the adapter that training started
    from has outside of them stays applied, and goes into `extract`.
    """

    parameters: dict[str, nn.Parameter]
    _family: str
    _layers: dict[str, LowRankLayer]
    _pairs: dict[str, tuple[LoraSpec, nn.Parameter, nn.Parameter]]
    _kept: Adapter | None
    _model: DiffusionModel
    _words: LearnedTokens
    _dense: FullWeights
    _stack: ExitStack = field(default_factory=ExitStack)
    _noisy_from: float = 0.0

    @property
    def rules(self) -> Mapping[str, TokenConstraint]:
        """What holds for the words' parameters, by their names."""
        return self._words.rules

    def extract(self, trigger: str = "", metadata: Mapping[str, str] | None = None) -> Adapter:
        """The adapter as it is now, with copies on the CPU in float32."""
        factors: dict[str, Factor] = dict(self._kept.factors) if self._kept else {}
        for path, (spec, *pair) in self._pairs.items():
            down, up = (parameter.detach().to("cpu", copy=True) for parameter in pair)
            kept = factors.get(path)  # of a layer that is trained only its bias may be there
            factors[path] = LowRank(up, down, float(spec.alpha), bias=None if kept is None else kept.bias)
        factors |= self._dense.extract()
        if factors and not self._noisy_from:
            factors = self._words.table_factors() | factors
        span = {NOISY_FROM: f"{self._noisy_from:g}"} if self._noisy_from else {}
        return Adapter(factors, self._family, trigger, self._words.extract(), dict(metadata or {}) | span)

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
        """Without what is trained: the networks as they were before (adapters applied below stay on)."""
        for layer in self._layers.values():
            layer.on = False
        self._dense.use(False)
        self._words.hide()
        try:
            yield
        finally:
            self._words.show()
            self._dense.use(True)
            for layer in self._layers.values():
                layer.on = True

    def remove(self) -> None:
        """Take everything out; the networks are as before, bit for bit."""
        _remove(self._layers)
        self._dense.use(False)
        self._words.remove()
        self._layers, self.parameters = {}, {}
        self._stack.close()


def inject(
    model: DiffusionModel,
    sets: Mapping[str, Spec | tuple[int, float]],
    seed: int,
    start_from: Adapter | None = None,
    words: LearnedTokens | None = None,
    beneath: Adapter | None = None,
) -> Injected:
    """Make the chosen parameter sets trainable, low-rank or in full, and `words`; where sets overlap the first counts.

    A new low-rank layer has no effect at first: `up` is zero and `down` is drawn as nn.Linear's weight, from a stream
    that depends on `seed` and the layer's path alone.

    Args:
        start_from: the adapter to continue from: its factors in the chosen layers become the initial weights, those
            elsewhere stay applied. It counts at the same timesteps as the sets' specs.
        beneath: stays applied until `remove`, whether what is trained is on or off, and is no part of `extract`.
    """
    noisy_from = _noisy_from(sets)
    _check_same_range(start_from, bool(sets), noisy_from)
    stack = ExitStack()
    layers: dict[str, LowRankLayer] = {}
    if beneath is not None:
        stack.enter_context(applied(model, [(beneath, 1.0)]))
    try:
        words = LearnedTokens(model, (), start_from) if words is None else words
    except BaseException:
        stack.close()
        raise
    try:
        specs = _specs_by_path(model, sets, bool(words.parameters))
        low_rank = clamp_ranks(model, {path: s for path, s in specs.items() if isinstance(s, LoraSpec)})
        full = [path for path, spec in specs.items() if isinstance(spec, Full)]
        begin, dense_begin, kept = _split(start_from, low_rank, full, model)
        if kept is not None and kept.factors:
            stack.enter_context(applied(model, [(replace(kept, embeddings={}), 1.0)]))
        with torch.inference_mode(False):
            pairs = {}
            layers = wrap(model, low_rank)
            gate = NoiseGate(model, noisy_from)
            stack.callback(gate.remove)
            for path, spec in low_rank.items():
                first = initial_weights(layers[path].layer, spec, seed, path, begin.get(path))
                pairs[path] = (spec, *layers[path].set_weights(spec, first))
                layers[path].gate = gate if spec.noisy_from else None
            dense = FullWeights(model, iter(full), dense_begin)
    except BaseException:
        _remove(layers)
        stack.close()
        words.remove()
        raise
    parameters = {}
    for path, (spec, down, up) in pairs.items():
        parameters |= ({f"{path}.lora_down": down} if spec.block is None else {}) | {f"{path}.lora_up": up}
    parameters |= {**dense.parameters, **words.parameters}
    span = noisy_from or (start_from.noisy_from if start_from is not None else 0.0)
    return Injected(parameters, model.family.name, layers, pairs, kept, model, words, dense, stack, span)


def _remove(layers: Mapping[str, LowRankLayer]) -> None:
    for layer in layers.values():
        layer.remove()


def _noisy_from(sets: Mapping[str, Spec | tuple[int, float]]) -> float:
    """The share of the schedule from which on all low-rank sets count."""
    shares = {spec.noisy_from if isinstance(spec, LoraSpec) else 0.0 for spec in sets.values()}
    if len(shares) > 1:
        raise ValueError("all parameter sets of one adapter count at the same timesteps")
    return shares.pop() if shares else 0.0


def _check_same_range(start_from: Adapter | None, layers: bool, noisy_from: float) -> None:
    """Raise FewShotError where an adapter to train on from counts at other timesteps than what is trained."""
    if start_from is not None and start_from.factors and layers and start_from.noisy_from != noisy_from:
        given, wanted = (
            f"from {s:g} of the schedule on" if s else "always" for s in (start_from.noisy_from, noisy_from)
        )
        raise FewShotError(
            f"the LoRA to train on from counts {given}, and what is trained here {wanted}: choose one that was "
            "trained in the same way"
        )


def _specs_by_path(model: DiffusionModel, sets: Mapping[str, Spec | tuple[int, float]], words: bool) -> dict[str, Spec]:
    if not sets and not words:
        raise FewShotError(f"no parameter set is chosen: choose among {', '.join(PARAMETER_SETS)}")
    specs: dict[str, Spec] = {}
    for name, spec in sets.items():
        spec = LoraSpec(*spec) if isinstance(spec, tuple) else spec
        if name == EVERYTHING and not isinstance(spec, Full):
            raise FewShotError("all parameters of the denoiser can only be trained in full: choose another set or full")
        if isinstance(spec, Full) and not model.owns_weights:
            raise FewShotError(
                f"the weights of {model.ref.name} are ComfyUI's and stay as they are, so they cannot be trained in "
                "full: set tuning to low_rank"
            )
        for path in paths_of_set(model, name):
            specs.setdefault(path, spec)
    return specs


def _split(
    adapter: Adapter | None, low_rank: Mapping[str, LoraSpec], full: Sequence[str], model: DiffusionModel
) -> tuple[dict[str, LowRank], dict[str, Factor], Adapter | None]:
    """The factors to begin from by path, those of weights trained in full, and the adapter without both."""
    if adapter is None:
        return {}, {}, None
    if adapter.family != model.family.name:
        raise FewShotError(f"the LoRA to train on from is for {adapter.family}, the base model is {model.family.name}")
    begin: dict[str, LowRank] = {}
    rest: dict[str, Factor] = {}
    for path, factor in without_words(adapter).items():
        if path in low_rank and not (isinstance(factor, Kept) and factor.only_bias):
            begin[path] = _begin(path, factor, low_rank[path].rank)
            if factor.bias is not None:
                rest[path] = Kept({BIAS: factor.bias})
        elif path not in set(full):
            rest[path] = factor
    dense = {path: factor for path, factor in adapter.factors.items() if path in set(full)}
    return begin, dense, replace(adapter, factors=rest)


def _begin(path: str, factor: Factor, rank: int) -> LowRank:
    """What a low-rank layer of `rank` starts from. Raises FewShotError where it cannot."""
    if not isinstance(factor, LowRank) or factor.mid is not None:
        what = form_of(path, factor.tensors) if isinstance(factor, Kept) else "difference"
        what = "LoRA in Tucker form" if isinstance(factor, LowRank) else what
        raise FewShotError(
            f"{path} of the LoRA to train on from is a {what}, and no plain low-rank pair: it cannot be trained on. "
            "Choose a plain LoRA to train on from, or a parameter_set without it, where it stays as it is"
        )
    if factor.rank > rank:
        raise FewShotError(
            f"the LoRA to train on from has rank {factor.rank} in {path}, and rank {rank} is chosen: choose rank "
            f"{factor.rank} or more"
        )
    return replace(factor, bias=None)
