"""Nodes that people build prompts with: each is followed to the right prompt, by the tables of known nodes."""

from __future__ import annotations

import pytest

from comfyui_fewshot.augmentation.gallery.graphs.graph import known_nodes
from comfyui_fewshot.augmentation.gallery.graphs.operations import OPERATIONS
from comfyui_fewshot.augmentation.gallery.graphs.rules import functions_in, read_table
from comfyui_fewshot.augmentation.gallery.prompts import NotFound
from comfyui_fewshot.tests.augmentation.gallery.graphs import CAT, UGLY, A, B, both, encoded, node, prompts, read, saved

# Nodes that make a text: class, output, inputs for a text in two parts.
TEXTS = [
    ("PrimitiveString", 0, lambda a, b: {"value": f"{a} {b}"}),
    ("PrimitiveStringMultiline", 0, lambda a, b: {"value": f"{a}\n{b}"}),
    ("StringConcatenate", 0, lambda a, b: {"string_a": a, "string_b": b, "delimiter": " "}),
    ("StringReplace", 0, lambda a, b: {"string": f"{a} X", "find": "X", "replace": b}),
    ("StringTrim", 0, lambda a, b: {"string": f"  {a} {b}", "mode": "Both"}),
    ("CaseConverter", 0, lambda a, b: {"string": f"{a} {b}".upper(), "mode": "lowercase"}),
    ("StringSubstring", 0, lambda a, b: {"string": f"x{a} {b}", "start": 1, "end": 99}),
    ("StringFormat", 0, lambda a, b: {"f_string": "{a} {b}", "values.a": a, "values.b": b}),
    ("RegexReplace", 0, lambda a, b: {"string": f"{a} X", "regex_pattern": "X", "replace": b}),
    ("PreviewAny", 0, lambda a, b: {"source": f"{a} {b}"}),
    ("CustomCombo", 0, lambda a, b: {"choice": f"{a} {b}"}),
    ("JoinStrings", 0, lambda a, b: {"string1": a, "string2": b, "delimiter": " "}),
    ("JoinStringMulti", 0, lambda a, b: {
        "inputcount": 2, "string_1": a, "string_2": b, "string_3": "no", "delimiter": " ", "return_list": False}),
    ("StringConstant", 0, lambda a, b: {"string": f"{a} {b}"}),
    ("StringConstantMultiline", 0, lambda a, b: {"string": f"{a} \n{b}", "strip_newlines": True}),
    ("SomethingToString", 0, lambda a, b: {"input": a, "prefix": "", "suffix": f" {b}"}),
    ("StringFunction|pysssss", 0, lambda a, b: {
        "action": "append", "tidy_tags": "no", "text_a": a, "text_b": " ", "text_c": b}),
    ("StringFunction|pysssss", 0, lambda a, b: {
        "action": "replace", "tidy_tags": "yes", "text_a": f"{a}  X", "text_b": "X", "text_c": b}),
    ("ShowText|pysssss", 0, lambda a, b: {"text": f"{a} {b}", "text_0": "of a run before"}),
    ("ImpactWildcardProcessor", 0, lambda a, b: {
        "wildcard_text": "a {cat|dog}", "populated_text": f"{a} {b}", "mode": "populate", "seed": 1}),
    ("ImpactWildcardEncode", 3, lambda a, b: {"wildcard_text": "a {cat|dog}", "populated_text": f"{a} {b}"}),
    ("ImpactStringSelector", 0, lambda a, b: {"strings": f"no\n{a} {b}\nno", "multiline": False, "select": 4}),
    ("Text Multiline", 0, lambda a, b: {"text": f"# about cats\n{a} {b}"}),
    ("Text Concatenate", 0, lambda a, b: {
        "delimiter": " ", "clean_whitespace": "true", "text_a": f"{a} ", "text_b": "", "text_c": b}),
    ("Text String", 2, lambda a, b: {"text": "no", "text_b": "no", "text_c": f"{a} {b}", "text_d": "no"}),
    ("Text Find and Replace", 0, lambda a, b: {"text": f"{a} X", "find": "X", "replace": b}),
    ("Text Find and Replace Input", 0, lambda a, b: {"text": f"{a} (X)", "find": "(X)", "replace": b}),
    ("easy positive", 0, lambda a, b: {"positive": f"{a} {b}"}),
    ("easy negative", 0, lambda a, b: {"negative": f"{a} {b}"}),
    ("easy string", 0, lambda a, b: {"value": f"{a} {b}"}),
    ("easy wildcards", 1, lambda a, b: {"text": f"{a} {b}", "seed": 1, "multiline_mode": False}),
    ("easy promptConcat", 0, lambda a, b: {"prompt1": a, "prompt2": b, "separator": " "}),
    ("easy promptReplace", 0, lambda a, b: {"prompt": f"{a} X", "find1": "X", "replace1": b, "find2": ""}),
    ("easy showAnything", 0, lambda a, b: {"anything": f"{a} {b}"}),
    ("CR Text", 0, lambda a, b: {"text": f"{a} {b}"}),
    ("CR Prompt Text", 0, lambda a, b: {"prompt": f"{a} {b}"}),
    ("CR Multiline Text", 0, lambda a, b: {"text": f"{a}\n{b}", "convert_from_csv": False, "split_string": False}),
    ("CR Combine Prompt", 0, lambda a, b: {"part1": a, "part2": b, "part3": "", "part4": "", "separator": " "}),
    ("CR Text Concatenate", 0, lambda a, b: {"text1": a, "text2": b, "separator": " "}),
    ("CR Text Replace", 0, lambda a, b: {"text": f"{a} X", "find1": "X", "replace1": b}),
    ("ttN text", 0, lambda a, b: {"text": f"{a} {b}"}),
    ("Primitive string [Crystools]", 0, lambda a, b: {"string": f"{a} {b}"}),
    ("LayerUtility: TextBox", 0, lambda a, b: {"text": f"{a} {b}"}),
    ("String Literal (Image Saver)", 0, lambda a, b: {"string": f"{a} {b}"}),
    ("Power Prompt (rgthree)", 3, lambda a, b: {"prompt": f"{a} {b}", "insert_lora": "CHOOSE"}),
    ("Power Primitive (rgthree)", 0, lambda a, b: {"type": "STRING", "value": f"{a} {b}"}),
    ("PromptBuilder //Inspire", 0, lambda a, b: {"category": "x", "preset": "y", "text": f"{a} {b}"}),
]  # fmt: skip
# Nodes that encode a text: class, output, inputs.
ENCODERS = [
    ("CLIPTextEncode", 0, lambda t: {"text": t}),
    ("CLIPTextEncodeSDXL", 0, lambda t: {"text_g": t, "text_l": t}),
    ("CLIPTextEncodeSDXLRefiner", 0, lambda t: {"ascore": 6.0, "text": t}),
    ("CLIPTextEncodeFlux", 0, lambda t: {"clip_l": "", "t5xxl": t, "guidance": 3.5}),
    ("CLIPTextEncodeSD3", 0, lambda t: {"clip_l": t, "clip_g": t, "t5xxl": "", "empty_padding": "none"}),
    ("CLIPTextEncodeHunyuanDiT", 0, lambda t: {"bert": t, "mt5xl": t}),
    ("CLIPTextEncodeLumina2", 0, lambda t: {"system_prompt": "superior", "user_prompt": t}),
    ("TextEncodeQwenImageEditPlus", 0, lambda t: {"prompt": t, "image1": ["20", 0]}),
    ("ImpactWildcardEncode", 2, lambda t: {"wildcard_text": "a {cat|dog}", "populated_text": t, "model": ["4", 0]}),
    ("WildcardEncode //Inspire", 2, lambda t: {"wildcard_text": "a __cat__", "populated_text": t}),
    ("Power Prompt (rgthree)", 0, lambda t: {"prompt": t}),
    ("Power Prompt - Simple (rgthree)", 0, lambda t: {"prompt": t}),
    ("SDXL Power Prompt - Positive (rgthree)", 0, lambda t: {"prompt_g": t, "prompt_l": ""}),
    ("BNK_CLIPTextEncodeAdvanced", 0, lambda t: {"text": t, "token_normalization": "none"}),
    ("smZ CLIPTextEncode", 0, lambda t: {"text": t, "with_SDXL": False, "text_g": "no", "text_l": "no"}),
    ("smZ CLIPTextEncode", 0, lambda t: {"text": "no", "with_SDXL": True, "text_g": t, "text_l": t}),
    ("CLIPTextEncodeSDXL+", 0, lambda t: {"text": t}),
    ("CLIPTextEncode (NSP)", 0, lambda t: {"text": t, "mode": "Wildcards", "noodle_key": "__", "seed": 0}),
    ("Text to Conditioning", 0, lambda t: {"text": t}),
]
# Nodes that take both prompts and give both: class, outputs, inputs.
PAIRS = [
    ("ControlNetApplyAdvanced", (0, 1), ("positive", "negative")),
    ("ControlNetApplySD3", (0, 1), ("positive", "negative")),
    ("InpaintModelConditioning", (0, 1), ("positive", "negative")),
    ("InstructPixToPixConditioning", (0, 1), ("positive", "negative")),
    ("CondPassThrough", (0, 1), ("positive", "negative")),
    ("PairConditioningSetProperties", (0, 1), ("positive_NEW", "negative_NEW")),
    ("CR Apply Multi-ControlNet", (0, 1), ("base_positive", "base_negative")),
    ("Apply ControlNet Stack", (0, 1), ("positive", "negative")),
    ("KSampler (Efficient)", (1, 2), ("positive", "negative")),
]
# Nodes that hand one conditioning on: class, input.
PASSING = [
    ("ControlNetApply", "conditioning"), ("FluxGuidance", "conditioning"), ("ReferenceLatent", "conditioning"),
    ("ConditioningSetArea", "conditioning"), ("ConditioningSetTimestepRange", "conditioning"),
    ("ConditioningSetMask", "conditioning"), ("StyleModelApply", "conditioning"), ("Reroute", ""),
    ("CR Apply ControlNet", "conditioning"), ("SD3NegativeConditioning+", "conditioning"),
    ("unCLIPConditioning", "conditioning"), ("ConditioningSetProperties", "cond_NEW"),
]  # fmt: skip
# Nodes that join two: class, inputs.
JOINING = [
    ("ConditioningCombine", "conditioning_1", "conditioning_2"),
    ("ConditioningConcat", "conditioning_to", "conditioning_from"),
    ("ConditioningAverage", "conditioning_to", "conditioning_from"),
    ("ConditioningCombineMultiple+", "conditioning_1", "conditioning_2"),
    ("ImpactConcatConditionings", "conditioning1", "conditioning2"),
    ("ConditioningMultiCombine", "conditioning_1", "conditioning_2"),
]
# Nodes that choose one of two: class, what is chosen, the chosen input and the other.
CHOOSING = [
    ("ImpactSwitch", {"select": 2}, "input2", "input1"),
    ("Any Switch (rgthree)", {}, "any_02", "any_03"),
    ("ComfySwitchNode", {"switch": False}, "on_false", "on_true"),
    ("easy anythingIndexSwitch", {"index": 0}, "value0", "value1"),
    ("easy conditioningIndexSwitch", {"index": 1}, "cond1", "cond0"),
    ("easy ifElse", {"boolean": True}, "on_true", "on_false"),
    ("CR Conditioning Input Switch", {"Input": 2}, "conditioning2", "conditioning1"),
    ("Conditioning Input Switch", {"boolean": True}, "conditioning_a", "conditioning_b"),
    ("ImpactConditionalBranch", {"cond": False}, "ff_value", "tt_value"),
    ("Switch any [Crystools]", {"boolean": False}, "on_false", "on_true"),
    ("SimpleCondition+", {"evaluate": True}, "on_true", "on_false"),
]


def wired(kind, slot, inputs):
    """Two nodes of a class in the ways of the two prompts."""
    cat, ugly = inputs
    return {"30": node(kind, **cat), "31": node(kind, **ugly)}, ["30", slot], ["31", slot]


@pytest.mark.parametrize("kind, slot, inputs", TEXTS)
def test_texts_are_followed(kind, slot, inputs):
    nodes, cat, ugly = wired(kind, slot, (inputs(*A), inputs(*B)))
    graph = nodes | encoded("6", cat) | encoded("7", ugly) | saved(["6", 0], ["7", 0])
    assert prompts(graph) == (CAT, UGLY)


@pytest.mark.parametrize("kind, slot, inputs", ENCODERS)
def test_encoders_are_followed(kind, slot, inputs):
    nodes, cat, ugly = wired(kind, slot, (inputs(CAT), inputs(UGLY)))
    assert prompts(nodes | saved(cat, ugly)) == (CAT, UGLY)


@pytest.mark.parametrize("kind, slots, names", PAIRS)
def test_each_output_is_its_own_prompt(kind, slots, names):
    nodes = both() | {"20": node(kind, **{names[0]: ["6", 0], names[1]: ["7", 0]}, strength=1.0)}
    assert prompts(nodes | saved(["20", slots[0]], ["20", slots[1]])) == (CAT, UGLY)
    assert prompts(nodes | saved(["20", slots[1]], ["20", slots[0]])) == (UGLY, CAT), "wired the wrong way round"


@pytest.mark.parametrize("kind, name", PASSING)
def test_what_hands_on_is_followed(kind, name):
    nodes, cat, ugly = wired(kind, 0, ({name: ["6", 0]}, {name: ["7", 0]}))
    assert prompts(both() | nodes | saved(cat, ugly)) == (CAT, UGLY)


@pytest.mark.parametrize("kind, first, second", JOINING)
def test_two_conditionings_are_one_prompt(kind, first, second):
    more = {"conditioning_to_strength": 0.5, "inputcount": 2}
    nodes = both() | encoded("16", "at dusk") | {"20": node(kind, **{first: ["6", 0], second: ["16", 0]}, **more)}
    assert prompts(nodes | saved(["20", 0], ["7", 0])) == (f"{CAT}, at dusk", UGLY)
    if kind == "ConditioningAverage":
        nodes["20"]["inputs"]["conditioning_to_strength"] = 1.0
        assert prompts(nodes | saved(["20", 0], ["7", 0])) == (CAT, UGLY)


@pytest.mark.parametrize("kind, choice, chosen, other", CHOOSING)
def test_the_chosen_input_is_followed(kind, choice, chosen, other):
    nodes = (
        both() | encoded("16", "NOT USED dog") | {"20": node(kind, **{chosen: ["6", 0], other: ["16", 0]}, **choice)}
    )
    assert prompts(nodes | saved(["20", 0], ["7", 0])) == (CAT, UGLY)
    if choice:
        unknown = nodes | {"20": node(kind, **nodes["20"]["inputs"] | {next(iter(choice)): ["21", 0]})}
        with pytest.raises(NotFound, match="Unknown, which is not known"):
            read(unknown | {"21": node("Unknown", seed=1)} | saved(["20", 0], ["7", 0]))


def test_a_choice_may_be_linked():
    nodes = both() | encoded("16", "NOT USED dog") | {"21": node("PrimitiveInt", value=2)}
    nodes["20"] = node("ImpactSwitch", select=["21", 0], input1=["16", 0], input2=["6", 0])
    assert prompts(nodes | saved(["20", 0], ["7", 0])) == (CAT, UGLY)


def test_a_zeroed_conditioning_is_an_empty_prompt():
    nodes = both() | {"20": node("ConditioningZeroOut", conditioning=["6", 0])}
    assert prompts(nodes | saved(["6", 0], ["20", 0])) == (CAT, "")


# ------------------------------------------------------------------------------------------------ loaders, pipes


def loader(kind, **more):
    return {"1": node(kind, ckpt_name="x.safetensors", positive=CAT, negative=UGLY, **more)}


BASIC = {"20": node("ToBasicPipe", model=["4", 0], positive=["6", 0], negative=["7", 0])}
CONTEXT = {"20": node("Context (rgthree)", model=["4", 0], positive=["6", 0], negative=["7", 0])}
EASY = loader("easy fullLoader") | {"20": node("easy preSampling", pipe=["1", 0], steps=20, seed=5)}
# Nodes, where the sampler's prompts come from, or the link to the saved picture where the sampler is among the nodes.
PIPES = [
    (loader("Efficient Loader"), ["1", 1], ["1", 2]),
    (loader("easy fullLoader"), ["1", 4], ["1", 5]),
    (loader("easy a1111Loader") | {"20": node("easy pipeOut", pipe=["1", 0])}, ["20", 2], ["20", 3]),
    (loader("easy comfyLoader") | {"20": node("easy controlnetLoader", pipe=["1", 0])}, ["20", 1], ["20", 2]),
    (both() | {"1": node("easy pipeIn", pos=["6", 0], neg=["7", 0]), "20": node("easy pipeOut", pipe=["1", 0])},
     ["20", 2], ["20", 3]),
    (both() | BASIC | {"21": node("FromBasicPipe", basic_pipe=["20", 0])}, ["21", 3], ["21", 4]),
    (both() | BASIC | {"21": node("FromBasicPipe_v2", basic_pipe=["20", 0])}, ["21", 4], ["21", 5]),
    (both() | encoded("16", "a dog") | BASIC
     | {"22": node("EditBasicPipe", basic_pipe=["23", 0], positive=["6", 0]),
        "23": node("ToBasicPipe", positive=["16", 0], negative=["7", 0]),
        "21": node("FromBasicPipe", basic_pipe=["22", 0])}, ["21", 3], ["21", 4]),
    (both() | {"1": node("ToDetailerPipe", positive=["6", 0], negative=["7", 0]),
               "21": node("FromDetailerPipe_v2", detailer_pipe=["1", 0])}, ["21", 4], ["21", 5]),
    (both() | CONTEXT, ["20", 4], ["20", 5]),
    (both() | CONTEXT | {"21": node("Context Big (rgthree)", base_ctx=["20", 0])}, ["21", 4], ["21", 5]),
    (both() | CONTEXT | {"21": node("Context Switch (rgthree)", ctx_02=["20", 0])}, ["21", 4], ["21", 5]),
    (both() | CONTEXT | encoded("16", "a dog")
     | {"22": node("Context (rgthree)", positive=["16", 0]),
        "21": node("Context Merge (rgthree)", ctx_01=["22", 0], ctx_02=["20", 0])}, ["21", 4], ["21", 5]),
    (both() | {"20": node("Pack SDXL Tuple", base_positive=["6", 0], base_negative=["7", 0]),
               "21": node("Unpack SDXL Tuple", sdxl_tuple=["20", 0])}, ["21", 2], ["21", 3]),
    (both() | {"20": node("ZipPrompt //Inspire", positive=CAT, negative=UGLY),
               "21": node("UnzipPrompt //Inspire", zipped_prompt=["20", 0]),
               "22": node("CLIPTextEncode", text=["21", 0]), "23": node("CLIPTextEncode", text=["21", 1])},
     ["22", 0], ["23", 0]),
]  # fmt: skip
SAMPLERS = [
    (EASY | {"21": node("easy kSampler", pipe=["20", 0])}, ["21", 1]),
    (EASY | {"21": node("easy fullkSampler", pipe=["20", 0])}, ["21", 1]),
    (EASY | {"21": node("easy kSampler", pipe=["20", 0]), "22": node("easy pipeOut", pipe=["21", 0])}, ["22", 7]),
    (both() | BASIC | {"21": node("ImpactKSamplerBasicPipe", basic_pipe=["20", 0], latent_image=["5", 0], seed=1),
                       "22": node("VAEDecode", samples=["21", 1])}, ["22", 0]),
    (loader("Eff. Loader SDXL")
     | {"21": node("KSampler SDXL (Eff.)", sdxl_tuple=["1", 0], latent_image=["1", 1], noise_seed=1)}, ["21", 3]),
    (loader("Efficient Loader") | {"21": node("KSampler (Efficient)", positive=["1", 1], negative=["1", 2],
                                              latent_image=["1", 3], seed=1)}, ["21", 5]),
    (both() | {"21": node("KSamplerAdvanced", positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
               "22": node("VAEDecodeTiled", samples=["21", 0])}, ["22", 0]),
    (both() | {"21": node("SamplerCustom", positive=["6", 0], negative=["7", 0], latent_image=["5", 0]),
               "22": node("VAEDecode", samples=["21", 1])}, ["22", 0]),
    *((both() | {"20": guider, "21": node("SamplerCustomAdvanced", guider=["20", 0], latent_image=["5", 0]),
                 "22": node("VAEDecode", samples=["21", 0])}, ["22", 0])
      for guider in (node("CFGGuider", positive=["6", 0], negative=["7", 0]),
                     node("DualCFGGuider", cond1=["6", 0], cond2=["7", 0], negative=["7", 0]),
                     node("PerpNegGuider", positive=["6", 0], negative=["7", 0]))),
    (both() | BASIC | {"23": node("KSamplerAdvancedProvider", basic_pipe=["20", 0]),
                       "21": node("RegionalSampler", base_sampler=["23", 0], samples=["5", 0], seed=1),
                       "22": node("VAEDecode", samples=["21", 0])}, ["22", 0]),
]  # fmt: skip


@pytest.mark.parametrize("nodes, positive, negative", PIPES)
def test_pipes_hold_both_prompts(nodes, positive, negative):
    assert prompts(nodes | saved(positive, negative)) == (CAT, UGLY)


@pytest.mark.parametrize("nodes, image", SAMPLERS)
def test_samplers_are_followed(nodes, image):
    kept = {number: each for number, each in saved(None, None).items() if number in ("4", "5")}
    assert prompts(nodes | kept | {"9": node("SaveImage", images=image, filename_prefix="x")}) == (CAT, UGLY)


def test_a_guider_without_a_negative_has_an_empty_one():
    graph = both() | saved(None, None) | {"20": node("BasicGuider", conditioning=["6", 0])}
    graph |= {"3": node("SamplerCustomAdvanced", guider=["20", 0], latent_image=["5", 0], noise=["21", 0]),
              "21": node("RandomNoise", noise_seed=77)}  # fmt: skip
    assert prompts(graph) == (CAT, "") and read(graph).parameters["seed"] == 77


def test_the_tables_are_whole():
    rules = [rule for outputs in known_nodes().values() for rule in outputs]
    assert {name for rule in rules for name in functions_in(rule)} == set(OPERATIONS)
    assert len(known_nodes()) > 300
    with pytest.raises(ValueError, match="twice"):
        read_table("A = text\nA = text")
    with pytest.raises(ValueError, match="no rule"):
        read_table("A = text * 2")
