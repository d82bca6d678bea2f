"""Prompts in graphs with the nodes that people build prompts with: the right ones, or none and why; never another."""

from __future__ import annotations

import tracemalloc

import pytest

from comfyui_fewshot.augmentation.gallery.graphs.graph import Graph, Link, Node, known_nodes
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


# ----------------------------------------------------------------------------------------------------- not found

UNKNOWABLE = [
    (node("LLMNode", prompt="Describe this image in detail", image=["9", 0]), "through LLMNode, which is not known"),
    (node("TextGenerate", prompt="Describe this"), "a language model"),
    (node("WD14Tagger|pysssss", image=["9", 0], tags="1girl, solo"), "tags a picture when it runs"),
    (node("BLIP Analyze Image", images=["9", 0], question="what is it?"), "describes a picture"),
    (node("SDXLPromptStyler", text_positive="a dog", text_negative="x", style="anime"), "adds styles"),
    (node("DPRandomGenerator", text="a {dog|cat}", seed=1), "through DPRandomGenerator, which is not known"),
    (node("easy stylesSelector", styles="fooocus_styles", positive="a dog"), "adds styles"),
    (node("Prompt Styles Selector", style="anime"), "adds styles"),
    (node("LoadText|pysssss", file="prompts.txt"), "reads a file"),
    (node("Text Random Line", text="a dog\na fox", seed=1), "by chance"),
    (node("Power Puter (rgthree)", code="a + b"), "computed"),
    (node("ShowText|pysssss", text=["41", 0], text_0="of a run before"), "through LLMNode"),
    (node("ImpactWildcardProcessor", wildcard_text="a __x__", populated_text="a {cat|dog}"), "by chance"),
    (node("easy wildcards", text="a __cat__", seed=1), "by chance"),
    (node("Text Find and Replace", text="a dog", find="d.g", replace="cat"), "the pattern d.g"),
    (node("RegexReplace", string="a dog", regex_pattern="(a+)+$", replace="cat"), "the pattern"),
    (node("easy promptLine", prompt="a dog\na cat", start_index=0), "one line of several"),
    (node("StringFormat", f_string="{a.__class__}", **{"values.a": "x"}), "format"),
    (node("JoinStringMulti", inputcount=2, string_1="a", string_2="b", delimiter=",", return_list=True), "a list"),
    (node("StringConcatenate", string_a=["40", 0], string_b="x", delimiter=""), "in a circle"),
    (node("StringConcatenate", string_a=["99", 0], string_b="x", delimiter=""), "not in the metadata"),
    (node("StringTrim", string=["5", 0], mode="Both"), "made of a picture"),
]
LLM = {"41": node("LLMNode", prompt="Describe this image in detail")}


@pytest.mark.parametrize("made, why", UNKNOWABLE)
def test_what_cannot_be_known_is_not_found(made, why):
    nodes = {"40": made} | LLM | encoded("6", ["40", 0]) | encoded("7", UGLY)
    with pytest.raises(NotFound, match=why):
        read(nodes | saved(["6", 0], ["7", 0]))
    found = read(nodes | saved(["7", 0], ["6", 0]))
    assert (found.positive, found.negative) == (UGLY, "") and why.split(",")[0] in found.no_negative


def test_an_output_of_another_meaning_is_not_found():
    for kind, slot in (
        ("ImpactWildcardEncode", 0),
        ("Efficient Loader", 3),
        ("CLIPTextEncode", 1),
        ("FaceDetailer", 1),
    ):
        nodes = {"40": node(kind, positive="x", text="x", populated_text="x", image=["9", 0])}
        with pytest.raises(NotFound):
            read(nodes | encoded("7", UGLY) | saved(["40", slot], ["7", 0]))


def test_a_text_that_was_recorded_while_it_ran_is_taken():
    nodes = {"40": node("ShowText|pysssss", text=["41", 0])} | LLM | encoded("6", ["40", 0]) | encoded("7", UGLY)
    graph = nodes | saved(["6", 0], ["7", 0])
    shown = {"id": 40, "type": "ShowText|pysssss", "widgets_values": [[CAT]]}
    assert prompts(graph, workflow={"nodes": [shown]}) == (CAT, UGLY)
    with pytest.raises(NotFound):  # as the editor keeps it, it may be of a run before
        read(graph, workflow={"nodes": [shown | {"widgets_values": [CAT]}]})


def test_long_and_doubling_texts_end():
    graph = encoded("6", ["100", 0]) | encoded("7", UGLY) | saved(["6", 0], ["7", 0])
    for number in range(100, 130):
        link = [str(number + 1), 0] if number < 129 else CAT
        graph[str(number)] = node("StringConcatenate", string_a=link, string_b=link, delimiter=" ")
    with pytest.raises(NotFound, match="longer than"):
        read(graph)
    chain = encoded("6", ["100", 0]) | encoded("7", UGLY) | saved(["6", 0], ["7", 0])
    chain |= {str(number): node("StringTrim", string=[str(number + 1), 0]) for number in range(100, 900)}
    with pytest.raises(NotFound, match="nodes away"):
        read(chain)


LONG, MANY = "a" * 100_000, range(300)
GROWING = [
    node("StringReplace", string=LONG, find="a", replace="b" * 100_000),
    node("StringConcatenate", string_a=LONG, string_b=LONG, delimiter=LONG),
    node("StringFormat", f_string="{a}" * 30_000, **{"values.a": LONG}),
    node("StringFunction|pysssss", action="replace", tidy_tags="no", text_a=LONG, text_b="", text_c=LONG),
    node("StringFunction|pysssss", action="append", tidy_tags="no", text_a=LONG, text_b=LONG, text_c=LONG),
    node("Text Find and Replace", text=LONG, find="a", replace=LONG),
    node("JoinStringMulti", inputcount=300, delimiter=LONG, return_list=False, **{f"string_{i}": LONG for i in MANY}),
    node("Text Concatenate", delimiter=LONG, clean_whitespace="false", **{f"text_{c}": "a" for c in "abcd"}),
]


@pytest.mark.parametrize("made", GROWING)
def test_what_grows_too_long_is_never_made(made):
    assert made["class_type"] in known_nodes()
    tracemalloc.start()
    with pytest.raises(NotFound, match="longer than"):
        read({"40": made} | encoded("6", ["40", 0]) | encoded("7", UGLY) | saved(["6", 0], ["7", 0]))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 * sum(len(str(value)) for value in made["inputs"].values()) + 1_000_000


def test_many_long_texts_end():
    nodes = {"99": Node("PrimitiveString", {"value": "a " * 45_000})}
    for number in map(str, range(100, 350)):
        nodes[number] = Node("StringConcatenate", {"string_a": Link("99", 0), "string_b": number, "delimiter": ""})
    graph = Graph(nodes)
    with pytest.raises(NotFound, match="longer than"):
        for number in nodes:
            graph.value(Link(number, 0))


@pytest.mark.parametrize("workflow", [{"nodes": 5}, {"nodes": {"a": 1}}, {"nodes": [5, None, {"type": []}]}, [1], "x"])
def test_an_odd_workflow_or_setting_leaves_a_good_prompt(workflow):
    assert prompts(both() | saved(["6", 0], ["7", 0]), workflow=workflow) == (CAT, UGLY)
    odd = both() | saved(["6", 0], ["7", 0], seed=[], steps={}, cfg=[1, 2, 3], sampler_name=None)
    odd["4"]["inputs"]["ckpt_name"] = []
    assert prompts(odd, workflow=workflow) == (CAT, UGLY)


# ------------------------------------------------------------------------------------------- which sampler it was


def hires(**settings):
    """A second sampler with other prompts over what the first one drew."""
    second = {"positive": ["16", 0], "negative": ["17", 0], "latent_image": ["10", 0]} | settings
    return both() | encoded("16", "detailed") | encoded("17", "flat") | saved(["6", 0], ["7", 0]) | {
        "10": node("LatentUpscaleBy", samples=["3", 0], scale_by=2.0),
        "11": node("KSampler", model=["4", 0], seed=6, steps=9, **second),
        "12": node("VAEDecode", samples=["11", 0]),
        "9": node("SaveImage", images=["12", 0], filename_prefix="ComfyUI"),
    }  # fmt: skip


def test_the_first_sampler_s_prompt_is_the_picture_s():
    found = read(hires(denoise=0.4))
    assert (found.positive, found.negative, found.parameters["seed"]) == (CAT, UGLY, 5)


def test_a_base_and_its_refiner_are_one_picture():
    graph = hires()
    graph["3"] = node("KSamplerAdvanced", **graph["3"]["inputs"] | {"start_at_step": 0, "add_noise": "enable"})
    graph["11"] = node("KSamplerAdvanced", **graph["11"]["inputs"] | {"start_at_step": 20, "add_noise": "disable"})
    assert prompts(graph) == (CAT, UGLY)
    graph["11"] = node("KSamplerAdvanced", **graph["11"]["inputs"] | {"start_at_step": 0, "add_noise": "enable"})
    with pytest.raises(NotFound, match="2 samplers"):
        read(graph)


def test_a_switch_of_latents_does_not_hide_the_first_sampler():
    graph = hires(denoise=0.4, latent_image=["13", 0])
    graph["13"] = node("LatentSwitch", select=1, latent1=["10", 0])
    assert prompts(graph) == (CAT, UGLY)
    graph["13"] = node("ImpactSwitch", select=2, input1=["10", 0])
    with pytest.raises(NotFound, match="drawn over is not known"):
        read(graph)


def test_a_second_sampler_that_begins_from_noise_leaves_it_open():
    with pytest.raises(NotFound, match="2 samplers with different prompts"):
        read(hires(denoise=1.0))


REPAIRS = [
    node("FaceDetailer", image=["8", 0], positive=["16", 0], negative=["17", 0], wildcard="", seed=1),
    node("UltimateSDUpscale", image=["8", 0], positive=["16", 0], negative=["17", 0], seed=1),
    node("ImageUpscaleWithModel", image=["8", 0], upscale_model=["18", 0]),
    node("Unknown Sharpener", image=["8", 0], amount=0.5, method="lanczos"),
    node("Unknown Background Remover", image=["8", 0], model="u2net"),
    node("Unknown Restorer", image=["8", 0], facerestore_model=["18", 0]),
    node("ReActorFaceSwap", input_image=["8", 0], source_image=["19", 0]),
    node("ImageCompositeMasked", destination=["8", 0], source=["19", 0]),
]


@pytest.mark.parametrize("repair", REPAIRS)
def test_what_is_done_to_the_picture_is_not_its_prompt(repair):
    graph = both() | encoded("16", "detailed face") | encoded("17", "flat") | saved(["6", 0], ["7", 0])
    graph |= {"1": repair, "19": node("LoadImage", image="x.png"), "9": node("SaveImage", images=["1", 0])}
    assert prompts(graph) == (CAT, UGLY)


@pytest.mark.parametrize("kind, inputs", [
    ("Unknown Editor", {"prompt": "make it red"}), ("Unknown Painter", {"style": "a red house"}),
    ("Unknown Sampler", {"positive": ["16", 0]}), ("Unknown Redrawer", {"model": ["4", 0]}),
    ("Unknown Mixer", {"images": ["19", 0]}),
])  # fmt: skip
def test_an_unknown_node_that_may_draw_ends_the_search(kind, inputs):
    graph = both() | encoded("16", "a dog") | saved(["6", 0], ["7", 0])
    graph |= {"1": node(kind, image=["8", 0], **inputs), "19": node("LoadImage", image="x.png")}
    with pytest.raises(NotFound, match=f"{kind}, which is not known"):
        read(graph | {"9": node("SaveImage", images=["1", 0])})


def test_a_loaded_picture_has_no_prompt_of_this_graph():
    graph = both() | saved(["6", 0], ["7", 0]) | {"19": node("LoadImage", image="x.png")}
    with pytest.raises(NotFound, match="loaded from a file"):
        read(graph | {"9": node("SaveImage", images=["19", 0])})
    graph |= {"20": node("VAEEncode", pixels=["19", 0])}
    graph["3"]["inputs"] |= {"latent_image": ["20", 0], "denoise": 0.6}
    assert prompts(graph) == (CAT, UGLY)


def test_latents_of_an_unknown_size_picker_are_empty_and_those_of_an_unknown_sampler_are_not():
    graph = both() | saved(["6", 0], ["7", 0], latent_image=["21", 4])
    assert prompts(graph | {"21": node("CR Aspect Ratio", width=512, aspect_ratio="1:1", batch_size=1)}) == (CAT, UGLY)
    with pytest.raises(NotFound, match="Unknown Sampler"):
        read(graph | {"21": node("Unknown Sampler", positive=["6", 0], steps=3)})


def test_of_several_saved_pictures_the_file_s_name_says_which():
    graph = both() | encoded("16", "a dog") | encoded("17", "flat") | saved(["6", 0], ["7", 0])
    graph["9"]["inputs"]["filename_prefix"] = "made/cats"
    graph |= {
        "11": node("KSampler", positive=["16", 0], negative=["17", 0], latent_image=["5", 0], seed=1),
        "12": node("VAEDecode", samples=["11", 0]),
        "13": node("SaveImage", images=["12", 0], filename_prefix="made/dogs"),
        "14": node("PreviewImage", images=["12", 0]),
    }
    assert prompts(graph, file="cats_00012_.png") == (CAT, UGLY)
    assert prompts(graph, file="dogs_00003_.png") == ("a dog", "flat")
    assert prompts(graph, file="ComfyUI_temp_abcde_00001_.png") == ("a dog", "flat")
    with pytest.raises(NotFound, match="2 samplers with different prompts"):
        read(graph, file="renamed.png")


def test_without_a_saved_picture_all_samplers_must_have_one_prompt():
    graph = both() | encoded("16", "detailed face") | {
        "1": node("FaceDetailer", positive=["16", 0], negative=["7", 0], seed=1),
        "3": node("KSampler", positive=["6", 0], negative=["7", 0], seed=5),
    }  # fmt: skip
    assert prompts(graph) == (CAT, UGLY)
    graph["2"] = node("KSampler", positive=["16", 0], negative=["7", 0], seed=6)
    with pytest.raises(NotFound, match="2 samplers"):
        read(graph)
    with pytest.raises(NotFound, match="no sampler in it is known, nor is Unknown"):
        read(both() | {"1": node("Unknown", positive=["6", 0])})


def test_an_empty_and_a_missing_prompt_are_told():
    with pytest.raises(NotFound, match="is empty"):
        read(both() | encoded("6", " ") | saved(["6", 0], ["7", 0]))
    with pytest.raises(NotFound, match="no prompt is connected to KSampler"):
        read(both() | saved(None, ["7", 0]))
    assert prompts(both() | saved(["6", 0], None)) == (CAT, "")


# ------------------------------------------------------------------------------------------------------ the table


def test_the_tables_are_whole():
    rules = [rule for outputs in known_nodes().values() for rule in outputs]
    assert {name for rule in rules for name in functions_in(rule)} == set(OPERATIONS)
    assert len(known_nodes()) > 300
    with pytest.raises(ValueError, match="twice"):
        read_table("A = text\nA = text")
    with pytest.raises(ValueError, match="no rule"):
        read_table("A = text * 2")
