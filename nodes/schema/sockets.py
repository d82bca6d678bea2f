"""The socket types of the pack. Everything else travels on ComfyUI's own types."""

from __future__ import annotations

from ..comfy.host import io

# a core.values.BaseModelRef
Base = io.Custom("FEWSHOT_BASE")

# a core.values.TrainingSet
Set = io.Custom("FEWSHOT_SET")

# one of the frozen settings dataclasses (core.settings.Settings)
Settings = io.Custom("FEWSHOT_SETTINGS")

# a core.values.Adapter
Adapter = io.Custom("FEWSHOT_ADAPTER")

# a core.values.PromptSet
Prompts = io.Custom("FEWSHOT_PROMPTS")

# an evaluation.reward.Reward
Reward = io.Custom("FEWSHOT_REWARD")

# the entry of a LOSS_MAP that holds the validations, not a loss
VALIDATION = "validation"
