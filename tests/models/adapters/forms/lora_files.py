"""LoRA files in every naming and form, of random numbers, and their parts to make others of."""

from __future__ import annotations

import torch
from torch import Tensor

# Layers by short names: the shape of the weight and its name in diffusers' words; the width is 320, the prompt's 768.
A = "down_blocks.0.attentions.1."
SIZES = {
    "K": ((320, 768), f"{A}transformer_blocks.0.attn2.to_k"),
    "Q": ((320, 320), f"{A}transformer_blocks.0.attn1.to_q"),
    "OUT": ((320, 320), f"{A}transformer_blocks.0.attn1.to_out.0"),
    "FF": ((2560, 320), f"{A}transformer_blocks.0.ff.net.0.proj"),
    "CONV": ((320, 320, 3, 3), "down_blocks.1.resnets.0.conv1"),
    "PROJ": ((320, 320, 1, 1), f"{A}proj_in"),
    "NORM": ((320,), f"{A}transformer_blocks.0.norm1"),
    "TIME": ((1280, 320), "time_embedding.linear_1"),
    "UP": ((320, 320, 3, 3), "up_blocks.0.upsamplers.0.conv"),
}
ORIGINAL = {
    "K": "input_blocks.2.1.transformer_blocks.0.attn2.to_k", "Q": "input_blocks.2.1.transformer_blocks.0.attn1.to_q",
    "OUT": "input_blocks.2.1.transformer_blocks.0.attn1.to_out.0", "CONV": "input_blocks.4.0.in_layers.2",
    "FF": "input_blocks.2.1.transformer_blocks.0.ff.net.0.proj", "PROJ": "input_blocks.2.1.proj_in",
    "NORM": "input_blocks.2.1.transformer_blocks.0.norm1", "TIME": "time_embed.0", "UP": "output_blocks.2.1.conv",
}  # fmt: skip
TE = "text_model.encoder.layers.1.self_attn.q_proj"
SIZES["TE"] = ((768, 768), TE)
ALL = tuple(SIZES)


def flat(prefix: str, name: str) -> str:
    return f"{prefix}_{name.replace('.', '_')}"


def kohya(layer: str) -> str:
    return flat("lora_te" if layer == "TE" else "lora_unet", SIZES[layer][1])


def original(layer: str) -> str:
    return flat("lora_te", TE) if layer == "TE" else flat("lora_unet", ORIGINAL[layer])


def comfyui(layer: str) -> str:
    return f"text_encoders.clip_l.transformer.{TE}" if layer == "TE" else f"diffusion_model.{ORIGINAL[layer]}"


def diffusers(layer: str) -> str:
    return f"text_encoder.{TE}" if layer == "TE" else f"unet.{SIZES[layer][1]}"


def processors(layer: str) -> str:
    return diffusers(layer).replace("to_out.0", "to_out").replace(".to_", ".processor.to_")


def lycoris(layer: str) -> str:
    return flat("lora_te", TE) if layer == "TE" else flat("lycoris", SIZES[layer][1])


RANDOM = torch.Generator().manual_seed(7)


def r(*shape: int, scale: float = 0.3) -> Tensor:
    return torch.randn(shape, generator=RANDOM) * scale


def pair(layer: str, up="lora_up.weight", down="lora_down.weight", rank=4, alpha: float | None = 3.0, flat=False):
    out, *rest = SIZES[layer][0]
    tail = [] if flat else [1] * (len(rest) - 1)
    made = {up: r(out, rank, *tail), down: r(rank, torch.Size(rest).numel()) if flat else r(rank, *rest)}
    return made | ({} if alpha is None else {"alpha": torch.tensor(alpha)})


def tucker(layer: str):
    out, into, *kernel = SIZES[layer][0]
    ones = [1] * len(kernel)
    return {
        "lora_up.weight": r(out, 4, *ones), "lora_down.weight": r(4, into, *ones), "lora_mid.weight": r(4, 4, *kernel),
        "alpha": torch.tensor(2.0),
    }  # fmt: skip


def loha(layer: str, kernels=False):
    out, into, *kernel = SIZES[layer][0]
    if kernels:
        made = {"hada_w1_a": r(3, out), "hada_w1_b": r(3, into), "hada_w2_a": r(3, out), "hada_w2_b": r(3, into)}
        return made | {"hada_t1": r(3, 3, *kernel), "hada_t2": r(3, 3, *kernel), "alpha": torch.tensor(1.5)}
    wide = into * torch.Size(kernel).numel()
    made = {"hada_w1_a": r(out, 3), "hada_w1_b": r(3, wide), "hada_w2_a": r(out, 3), "hada_w2_b": r(3, wide)}
    return made | {"alpha": torch.tensor(1.5)}


def lokr(layer: str, first="whole", second="whole", kernels=False, alpha: float | None = 2.0):
    out, into, *kernel = SIZES[layer][0]
    wide = into // 8 * (1 if second == "whole" or kernels else torch.Size(kernel).numel())
    made = {"lokr_w1": r(8, 8)} if first == "whole" else {"lokr_w1_a": r(8, 2), "lokr_w1_b": r(2, 8)}
    if kernels:
        made |= {"lokr_w2_a": r(3, out // 8), "lokr_w2_b": r(3, wide), "lokr_t2": r(3, 3, *kernel)}
    elif second == "whole":
        made |= {"lokr_w2": r(out // 8, wide, *kernel)}
    else:
        made |= {"lokr_w2_a": r(out // 8, 3), "lokr_w2_b": r(3, wide)}
    return made | ({} if alpha is None else {"alpha": torch.tensor(alpha)})


def dora(layer: str, form: dict, columns=False):
    out, into, *kernel = SIZES[layer][0]
    ones = [1] * len(kernel)
    return form | {"dora_scale": (r(1, into, *ones) if columns else r(out, 1, *ones)).abs() + 0.5}


def glora(layer: str, old: bool):
    out, into = SIZES[layer][0]
    new = {"a1.weight": (into, 4), "a2.weight": (4, into), "b1.weight": (out, 4), "b2.weight": (4, into)}
    before = {"a1.weight": (4, into), "a2.weight": (into, 4), "b1.weight": (4, into), "b2.weight": (out, 4)}
    return {name: r(*shape) for name, shape in (before if old else new).items()} | {"alpha": torch.tensor(2.0)}


def oft(layer: str, alpha: float | None, **more):
    blocks = {"oft_blocks": r(SIZES[layer][0][0] // 8, 8, 8, scale=0.1)}
    return blocks | ({} if alpha is None else {"alpha": torch.tensor(alpha)}) | more


def boft(layer: str, alpha: float | None = 0.2, rescale=True):
    out, _, *kernel = SIZES[layer][0]
    made = {"oft_blocks": r(3, out // 8, 8, 8, scale=0.1)}
    made |= {} if alpha is None else {"alpha": torch.tensor(alpha)}
    return made | ({"rescale": r(out, 1, *[1] * len(kernel)) + 1} if rescale else {})


def full(layer: str, bias=True):
    shape = SIZES[layer][0]
    return {"diff": r(*shape)} | ({"diff_b": r(shape[0])} if bias else {})


def file(naming, **layers: dict) -> dict[str, Tensor]:
    return {f"{naming(layer)}.{name}": tensor for layer, parts in layers.items() for name, tensor in parts.items()}


def pairs(naming, *layers: str, join: str = ".", **how) -> dict[str, Tensor]:
    return {
        f"{naming(layer)}{'.' if name == 'alpha' else join}{name}": tensor
        for layer in layers
        for name, tensor in pair(layer, **how).items()
    }


LINEAR = ("K", "Q", "OUT", "FF", "TE")
WEIGHTED = tuple(layer for layer in ALL if layer != "NORM")
PEFT = {"up": "lora_B.weight", "down": "lora_A.weight", "alpha": None}


def applied_files() -> dict[str, dict[str, Tensor]]:
    """Files that can be applied, and ComfyUI applies."""
    return {
        # namings
        "kohya": pairs(kohya, *WEIGHTED),
        "kohya_without_alpha": pairs(kohya, *WEIGHTED, alpha=None),
        "kohya_original_names": pairs(original, *WEIGHTED),
        "kohya_numbered_encoder": pairs(lambda n: kohya(n).replace("lora_te_", "lora_te1_"), *LINEAR),
        "comfyui": pairs(comfyui, *WEIGHTED),
        "diffusers_peft": pairs(diffusers, *LINEAR, **PEFT),
        "diffusers_lora": pairs(diffusers, "K", up="lora.up.weight", down="lora.down.weight", alpha=None),
        "diffusers_processors": pairs(
            processors, "K", "Q", "OUT", join="_", up="lora.up.weight", down="lora.down.weight", alpha=None
        ),
        "diffusers_linear_layers": pairs(
            diffusers, "TE", up="lora_linear_layer.up.weight", down="lora_linear_layer.down.weight", alpha=None
        ) | pairs(diffusers, "Q", **PEFT),
        "diffusers_without_unet": pairs(lambda n: diffusers(n).removeprefix("unet."), "K", "FF", **PEFT),
        "peft": pairs(lambda n: "base_model.model." + diffusers(n).partition(".")[2], *LINEAR, **PEFT),
        "peft_in_unet": pairs(lambda n: "unet.base_model.model." + SIZES[n][1], "K", "FF", **PEFT),
        "adapter_named_default": pairs(
            comfyui, *LINEAR, up="lora_B.default.weight", down="lora_A.default.weight", alpha=None
        ),
        "parameters_named_lora_A": pairs(comfyui, "K", "Q", up="lora_B", down="lora_A"),
        "simpletuner_lycoris": pairs(lycoris, "K", "FF", "CONV"),
        # forms
        "locon_flat": pairs(kohya, "CONV", "PROJ", "K", flat=True),
        "locon_tucker": file(kohya, CONV=tucker("CONV"), PROJ=tucker("PROJ"), K=pair("K")),
        "loha": file(kohya, K=loha("K"), FF=loha("FF"), CONV=loha("CONV"), TE=loha("TE")),
        "loha_tucker": file(kohya, CONV=loha("CONV", kernels=True), K=loha("K")),
        "lokr_whole": file(kohya, K=lokr("K", alpha=1e10), FF=lokr("FF", alpha=None), CONV=lokr("CONV"), TE=lokr("TE")),
        "lokr_parts": file(kohya, K=lokr("K", second="pair"), Q=lokr("Q", "pair"), FF=lokr("FF", "pair", "pair")),
        "lokr_tucker": file(kohya, CONV=lokr("CONV", kernels=True), K=lokr("K")),
        "dora_rows": file(kohya, **{n: dora(n, pair(n)) for n in ("K", "FF", "CONV", "TE")}),
        "dora_columns": file(kohya, **{n: dora(n, pair(n), columns=True) for n in ("K", "FF", "CONV")}),
        "dora_of_loha_and_lokr": file(kohya, K=dora("K", loha("K")), FF=dora("FF", lokr("FF", second="pair"))),
        "glora": file(kohya, K=glora("K", old=False), FF=glora("FF", old=False), Q=glora("Q", old=False)),
        "glora_old": file(kohya, K=glora("K", old=True), FF=glora("FF", old=True), Q=glora("Q", old=True)),
        "oft": file(kohya, K=oft("K", 0.05), FF=oft("FF", None), CONV=oft("CONV", 10.0), TE=oft("TE", 0.1)),
        "oft_rescale_of_ones": file(kohya, K=oft("K", 0.1, rescale=torch.ones(320, 1))),
        "boft": file(kohya, K=boft("K"), CONV=boft("CONV"), Q=boft("Q", rescale=False)),
        "differences": file(comfyui, **{n: full(n, n not in ("K", "Q")) for n in ALL}),
        "norms": file(kohya, NORM={"w_norm": r(320), "b_norm": r(320)}, K=pair("K")),
        "train_lora_node": file(
            comfyui,
            **{n: pair(n, alpha=1.0, flat=True) | {"diff_b": r(SIZES[n][0][0])} for n in ("OUT", "FF", "CONV", "TIME")},
            K=pair("K", alpha=1.0), NORM=full("NORM"),
        ),  # fmt: skip
        "extract_and_save": file(
            comfyui, OUT=pair("OUT", alpha=None) | {"diff_b": r(320)}, CONV=pair("CONV", alpha=None), NORM=full("NORM")
        )
        | text_norms()
        | {"diffusion_model.out.0.diff": r(320), "diffusion_model.out.0.diff_b": r(320)},
        "biases_alone": file(kohya, OUT={"diff_b": r(320)}, NORM={"diff_b": r(320)}, K=pair("K")),
        "loha_with_bias": file(kohya, FF=loha("FF") | {"diff_b": r(2560)}, OUT=lokr("OUT") | {"diff_b": r(320)}),
        "replaced": file(kohya, K={"set_weight": r(320, 768)}, OUT=pair("OUT")),
        "padded_to_its_own_shape": file(kohya, K=pair("K") | {"reshape_weight": torch.tensor([320, 768])}),
        "half_precision": {key: value.half() for key, value in pairs(kohya, *WEIGHTED).items()},
        "bfloat16": {key: value.bfloat16() for key, value in pairs(comfyui, *WEIGHTED).items()},
        "several_forms": file(kohya, K=pair("K"), Q=loha("Q"), FF=lokr("FF"), OUT=oft("OUT", 0.1), CONV=full("CONV")),
        "leftovers": pairs(kohya, "K", "Q")
        | {"lora_te_text_model_embeddings_position_ids": torch.arange(77), "scaled_fp8": torch.zeros(2)}
        | {"optimizer.state.0.exp_avg": r(3), "global_step": torch.tensor(3), "logit_scale": torch.tensor(1.0)}
        | {f"{kohya('FF')}.alpha": torch.tensor(1.0)},
    }  # fmt: skip


def text_norms() -> dict[str, Tensor]:
    """What Extract and Save Lora writes of a text encoder besides its linear layers."""
    start = "text_encoders.clip_l.transformer.text_model."
    return {
        f"{start}encoder.layers.0.layer_norm1.diff": r(768), f"{start}encoder.layers.0.layer_norm1.diff_b": r(768),
        f"{start}final_layer_norm.diff": r(768), f"{start}embeddings.position_embedding.lora_up.weight": r(77, 4),
        f"{start}embeddings.position_embedding.lora_down.weight": r(4, 768),
    }  # fmt: skip


FILES = applied_files()
