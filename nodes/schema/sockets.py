"""The socket types of the pack. Everything else travels on ComfyUI's own types."""

from __future__ import annotations

from ..comfy.host import io

Base = io.Custom("FEWSHOT_BASE")
"""a models.values.BaseModelRef"""

Set = io.Custom("FEWSHOT_SET")
"""a models.values.TrainingSet"""

Settings = io.Custom("FEWSHOT_SETTINGS")
"""one of the frozen dataclasses of trainers.settings"""

Adapter = io.Custom("FEWSHOT_ADAPTER")
"""a models.values.Adapter"""

Prompts = io.Custom("FEWSHOT_PROMPTS")
"""a models.values.PromptSet"""

Reward = io.Custom("FEWSHOT_REWARD")
"""an evaluation.rewards.Reward"""

VALIDATION = "validation"
"""the entry of a LOSS_MAP that holds the validations, not a loss"""
