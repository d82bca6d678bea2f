"""What the graph shows. One file a menu: widgets in, one engine call, sockets and pictures out."""

from __future__ import annotations

from .augment.captions import CaptionPictures, ExpandCaptions, PromptInspiration
from .augment.paste import SegmentPaste
from .augment.priors import GeneratePriors
from .augment.segment import SegmentByPrompt
from .base.fetch import FetchModel
from .base.load import BaseFromModel, LoadBase
from .comfy.folders import register_folders
from .comfy.host import ComfyExtension, io
from .files.adapters import ApplyAdapter, LoadAdapter, SaveAdapter
from .files.fuse import FuseAdapters
from .look.evaluate import EvaluateLora, StrengthSweep
from .look.prompts import PromptSetNode
from .look.samples import LossCurve, SampleGrid
from .look.watermark import DetectWatermark
from .pictures.prepare import PreparePictures
from .pictures.sets import CombineSets, SetToImages, SubjectPictures
from .refine import RefineLora, RefinementSettingsNode, RewardNode
from .train.plan import TrainingPlanNode
from .train.relation import RelationPictures, RelationTrainingSettings, TrainRelation
from .train.subject import TrainingSettingsNode, TrainSubject

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
    TrainingSettingsNode,
    TrainingPlanNode,
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
