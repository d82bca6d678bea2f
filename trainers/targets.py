"""Resolve settings to what is trained: parameter sets, ranks and learned tokens."""

from __future__ import annotations

from collections.abc import Mapping

from ..core.errors import FewShotError
from ..core.settings import SubjectSettings
from ..core.values import TrainingSet
from ..models.adapters.inject import EVERYTHING, Full, LoraSpec, Spec
from ..models.adapters.learned_tokens import TokenSpec

# The sets that a parameter_set consists of, where it is not one itself.
PARTS: Mapping[str, tuple[str, ...]] = {
    "attention": ("cross", "self"),
    "attention_ff": ("cross", "self", "feed_forward"),
    "none": (),
}
# Parts whose adapters may have their own rank and alpha.
RANKED, SIZES = frozenset({"cross", "self", "feed_forward", "text"}), ("rank", "alpha")


def check_targets(settings: SubjectSettings) -> None:
    """Raise FewShotError where settings of what is trained contradict each other."""
    full, everything = settings.tuning == "full", settings.parameter_set == EVERYTHING
    if settings.parameter_set == "none" and not settings.reads_text:
        raise FewShotError("nothing would be trained: choose a parameter_set, text_encoder, or a token to learn.")
    if everything and not full:
        raise FewShotError(
            f"parameter_set all needs tuning full, and tuning is {settings.tuning}: choose full, or attention_ff."
        )
    if settings.extract_rank and not everything:
        raise FewShotError(
            f"extract_rank is {settings.extract_rank}, which is for tuning full of all parameters: what is trained "
            "here is an adapter already. Set it to 0."
        )
    if full and settings.weights == "float8":
        raise FewShotError("weights in 8 bits cannot be trained in full: set weights to auto or tuning to low_rank.")
    if settings.optimizer == "schedule_free" and settings.schedule != "constant":
        raise FewShotError(f"schedule_free needs the schedule constant, and schedule is {settings.schedule}.")
    _check_idle(settings)


def _check_idle(settings: SubjectSettings) -> None:
    """Raise FewShotError for a value that was changed and would do nothing beside the other settings."""
    ranked = {name.removesuffix("_kv") for name, spec in sets_of(settings).items() if isinstance(spec, LoraSpec)}
    idle = {f"{part}_{what}": "that part has no low-rank adapter" for part in RANKED - ranked for what in SIZES}
    if not settings.text_encoder:
        idle |= dict.fromkeys(("text_rank", "text_alpha", "text_learning_rate"), "text_encoder is off")
    if settings.token == "none":
        idle |= dict.fromkeys(("token_vectors", "token_start", "token_learning_rate"), "token is none")
    if settings.tuning != "orthogonal":
        idle["subject_block"] = f"tuning is {settings.tuning}, not orthogonal"
    if settings.objective != "dco":
        idle["dco_beta"] = f"objective is {settings.objective}, not dco"
    if not settings.local_weight:
        idle["local_attention"] = "local_weight is 0"
    if not settings.validate_every:
        idle |= dict.fromkeys(("patience", "keep_validated"), "validate_every is 0")
    for name, why in idle.items():
        default = type(settings).__dataclass_fields__[name].default
        if (value := getattr(settings, name)) != default:
            raise FewShotError(f"{name} is {value!r}, but does nothing: {why}. Set it to {default!r}, or change that.")


def sets_of(settings: SubjectSettings) -> dict[str, Spec]:
    """The parameter sets and how each is trained; an alpha left open is the rank."""
    block = settings.subject_block if settings.tuning == "orthogonal" else None
    names = PARTS.get(settings.parameter_set, (settings.parameter_set,))
    full = settings.tuning == "full"
    sets: dict[str, Spec] = {name: Full() if full else _spec(settings, name, block) for name in names}
    return sets | ({"text": _spec(settings, "text", block)} if settings.text_encoder else {})


def adapted_parts(settings: SubjectSettings) -> frozenset[str]:
    """The parts of the denoiser whose inputs are kept for what is trained in them; keys and values read the text."""
    names = PARTS.get(settings.parameter_set, (settings.parameter_set,))
    every = ("self", "cross", "feed_forward")
    return frozenset(every if settings.parameter_set == EVERYTHING else (name for name in every if name in names))


def _spec(settings: SubjectSettings, name: str, block: int | None) -> LoraSpec:
    own = "cross" if name == "cross_kv" else name
    rank = getattr(settings, f"{own}_rank") or settings.rank
    alpha = getattr(settings, f"{own}_alpha") or (settings.alpha or settings.rank) * rank / settings.rank
    return LoraSpec(rank, alpha, block)


def token_specs(settings: SubjectSettings, pictures: TrainingSet) -> tuple[TokenSpec, ...]:
    """The tokens to learn: the identifier of every subject."""
    if settings.token == "none":
        return ()
    named: dict[str, TokenSpec] = {}
    for concept in pictures.concepts:
        start = settings.token_start or concept.noun
        named[concept.identifier] = TokenSpec(
            concept.identifier, start, settings.token_vectors, settings.token == "direction"
        )
    return tuple(named.values())
