"""Prompts in graphs: those of the sampler that drew the picture, or none and why; never another."""

from __future__ import annotations

import tracemalloc

import pytest

from comfyui_fewshot.augmentation.gallery.graphs.graph import Graph, Link, Node, known_nodes
from comfyui_fewshot.augmentation.gallery.prompts import NotFound
from comfyui_fewshot.tests.augmentation.gallery.graphs import CAT, UGLY, both, encoded, node, prompts, read, saved

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
