"""Several adapters as one."""

from __future__ import annotations

from typing import Any

from ...core.errors import FewShotError
from ..comfy import folders, host
from ..comfy.host import io
from ..schema.sockets import Adapter, Base

CATEGORY = "few-shot/files"
LEAST_SQUARES, SUM = "least squares", "sum"
MOST = 6


class FuseAdapters(io.ComfyNode):
    """One adapter of subjects that were trained apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        adapters = [
            Adapter.Input(
                f"adapter_{number}",
                optional=number > 2,
                tooltip="An adapter of one subject, with its own identifier.",
            )
            for number in range(1, MOST + 1)
        ]
        steps = io.Int.Input(
            "steps",
            default=20,
            min=1,
            max=100,
            tooltip="Sampling steps over which the layers' inputs are recorded.",
        )
        size = io.Int.Input(
            "size",
            default=0,
            min=0,
            max=2048,
            step=8,
            tooltip="Side of the pictures drawn for that. 0: the base's own.",
        )
        return io.Schema(
            node_id="FewShotFuseAdapters",
            display_name="Fuse Adapters",
            category=CATEGORY,
            description="Makes one adapter of several subjects that were trained apart. Least squares keeps what each "
            "layer does to each subject's own inputs; a plain sum is exact for subjects trained in different blocks.",
            search_aliases=["merge lora", "combine loras", "gradient fusion", "multi concept"],
            inputs=[
                Base.Input("base", tooltip="The base that all of them were trained on."),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(LEAST_SQUARES, [steps, size]),
                        io.DynamicCombo.Option(SUM, []),
                    ],
                    tooltip="How they become one: the best fit on what each layer sees of each subject, or added up.",
                ),
                *adapters,
            ],
            outputs=[
                Adapter.Output(display_name="ADAPTER", tooltip="All subjects, each called by its own words."),
                io.LoraModel.Output(display_name="LORA_MODEL", tooltip="The same for ComfyUI's own nodes."),
                io.String.Output(display_name="trigger", tooltip="The trigger phrases of all subjects."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, base: Any, method: dict[str, Any] | None = None, **adapters: Any) -> io.NodeOutput:
        from ...models.adapters.formats import to_kohya
        from ...models.adapters.merge import GramSampling, fuse_adapters, sum_adapters
        from ...models.open import open_base

        method = method or {}
        given = [(adapters[name], 1.0) for name in sorted(adapters) if adapters[name] is not None]
        if method.get("method") == SUM:
            adapter, report = sum_adapters(given), f"{len(given)} adapters added"
        elif method.get("method") == LEAST_SQUARES:
            drawing = GramSampling(method.get("steps", 20), method.get("size", 0))
            with host.engine(cls.hidden.unique_id) as progress:
                with open_base(base, host.device(), progress, **folders.prompt_files()) as model:
                    adapter, errors = fuse_adapters(model, given, drawing, progress)
            lines = [f"{one.trigger}: loses {error:.1%}" for (one, _), error in zip(given, errors, strict=True)]
            report = "\n".join(lines)
        else:
            raise FewShotError(f"no such method {method.get('method')!r}: choose '{LEAST_SQUARES}' or '{SUM}'")
        return io.NodeOutput(adapter, to_kohya(adapter), adapter.trigger, ui=host.say(cls.hidden.unique_id, report))
