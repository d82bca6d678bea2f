"""What the graph shows. One file a menu: widgets in, one engine call, sockets and pictures out."""

from __future__ import annotations

from .augment import GeneratePriors
from .base import BaseFromModel, LoadBase
from .captions import CaptionPictures, ExpandCaptions, PromptInspiration
from .evaluate import EvaluateLora, StrengthSweep
from .fetch import FetchModel
from .files import ApplyAdapter, LoadAdapter, SaveAdapter
from .fuse import FuseAdapters
from .host import ComfyExtension, io, register_folders
from .look import LossCurve, SampleGrid
from .paste import SegmentPaste
from .pictures import CombineSets, SetToImages, SubjectPictures
from .plan import TrainingPlan
from .prepare import PreparePictures
from .prompts import PromptSetNode
from .refine import RefineLora, RefinementSettingsNode, RewardNode
from .relation import RelationPictures, RelationTrainingSettings, TrainRelation
from .segment import SegmentByPrompt
from .train import TrainingSettings, TrainSubject
from .watermark import DetectWatermark

ALL_NODES: list[type[io.ComfyNode]] = [
    LoadBase,
    BaseFromModel,
    FetchModel,
    SubjectPictures,
    RelationPictures,
    PreparePictures,
    CombineSets,
    SetToImages,
    GeneratePriors,
    SegmentByPrompt,
    SegmentPaste,
    CaptionPictures,
    ExpandCaptions,
    PromptInspiration,
    TrainingSettings,
    TrainingPlan,
    TrainSubject,
    RelationTrainingSettings,
    TrainRelation,
    RewardNode,
    RefinementSettingsNode,
    RefineLora,
    SaveAdapter,
    LoadAdapter,
    ApplyAdapter,
    FuseAdapters,
    PromptSetNode,
    SampleGrid,
    EvaluateLora,
    StrengthSweep,
    LossCurve,
    DetectWatermark,
]


class FewShotExtension(ComfyExtension):
    """The pack, as ComfyUI's loader sees it."""

    async def on_load(self) -> None:
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(ALL_NODES)
