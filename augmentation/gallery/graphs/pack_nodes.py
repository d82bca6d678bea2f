"""Nodes of other packs; `rules.py` says how a line is read. A node that is not here ends the search for a prompt."""

PACK_NODES = """
FewShotPromptInspiration = never("finds its prompts when it runs"); never("finds its prompts when it runs")
ImpactWildcardProcessor = settled(populated_text)
ImpactWildcardEncode, WildcardEncode //Inspire = _; _; settled(populated_text); settled(populated_text)
ImpactSwitch, SEGSSwitch = choose(select, "input{}"); _; select
LatentSwitch = choose(select, "input{}") | choose(select, "latent{}"); _; select
ImpactConditionalBranch = choose(cond, tt_value, ff_value)
ImpactCombineConditionings, ImpactConcatConditionings = joined(*conditioning)
ImpactStringSelector = selected_line(strings, multiline, select)
ToBasicPipe, ToDetailerPipe, ToDetailerPipeSDXL = wire(positive=positive, negative=negative)
EditBasicPipe = wire(basic_pipe, positive=positive, negative=negative)
EditDetailerPipe = wire(detailer_pipe, positive=positive, negative=negative)
FromBasicPipe = _; _; _; basic_pipe.positive; basic_pipe.negative
FromBasicPipe_v2 = basic_pipe; _; _; _; basic_pipe.positive; basic_pipe.negative
FromDetailerPipe = _; _; _; detailer_pipe.positive; detailer_pipe.negative
FromDetailerPipe_v2, FromDetailerPipeSDXL = detailer_pipe; _; _; _; detailer_pipe.positive;
    detailer_pipe.negative
AnyPipeToBasic = any_pipe
BasicPipeToDetailerPipe = basic_pipe
BasicPipeToDetailerPipeSDXL = base_basic_pipe
DetailerPipeToBasicPipe = detailer_pipe; _
ImpactKSamplerBasicPipe, ImpactKSamplerAdvancedBasicPipe = basic_pipe; draw(basic_pipe.positive,
    basic_pipe.negative, latent_image); _
KSamplerPipe //Inspire, KSamplerAdvancedPipe //Inspire = draw(basic_pipe.positive, basic_pipe.negative,
    latent_image); _
KSamplerProvider, KSamplerAdvancedProvider = basic_pipe
RegionalSampler = draw(base_sampler.positive, base_sampler.negative, samples)
RegionalSamplerAdvanced, TwoSamplersForMask = draw(base_sampler.positive, base_sampler.negative, latent_image)
FaceDetailer, FaceDetailerPipe, DetailerForEach, DetailerForEachPipe, DetailerForEachDebug = image
DetailerForEachDebugPipe, MaskDetailerPipe, SEGSPaste = image
IterativeImageUpscale = pixels
IterativeLatentUpscale = samples
KSampler //Inspire, KSamplerAdvanced //Inspire, KSamplerProgress //Inspire = draw(positive, negative,
    latent_image)
ZipPrompt //Inspire = wire(positive=positive, negative=negative)
UnzipPrompt //Inspire = zipped_prompt.positive; zipped_prompt.negative
PromptBuilder //Inspire, CLIPTextEncodeWithWeight //Inspire = text

Efficient Loader = _; positive; negative; blank
Eff. Loader SDXL = wire(positive=positive, negative=negative); blank
Pack SDXL Tuple = wire(positive=base_positive, negative=base_negative)
Unpack SDXL Tuple = _; _; sdxl_tuple.positive; sdxl_tuple.negative
KSampler (Efficient), KSampler Adv. (Efficient) = _; positive; negative; draw(positive, negative,
    latent_image); _; draw(positive, negative, latent_image)
KSampler SDXL (Eff.) = sdxl_tuple; draw(sdxl_tuple.positive, sdxl_tuple.negative, latent_image); _;
    draw(sdxl_tuple.positive, sdxl_tuple.negative, latent_image)
Apply ControlNet Stack = positive; negative
AdvancedCLIPTextEncode, BNK_CLIPTextEncodeAdvanced = text
BNK_CLIPTextEncodeSDXLAdvanced = text_g + text_l
BNK_AddCLIPSDXLParams, BNK_AddCLIPSDXLRParams, AddCLIPSDXLParams, AddCLIPSDXLRParams = conditioning
smZ CLIPTextEncode = either_encoder(with_SDXL, text, text_g, text_l)
TiledKSampler, TiledKSamplerAdvanced, BNK_TiledKSampler, BNK_TiledKSamplerAdvanced = draw(positive, negative,
    latent_image)
ReActorFaceSwap = input_image
UltimateSDUpscale, UltimateSDUpscaleCustomSample = draw(positive, negative, image)
UltimateSDUpscaleNoUpscale = draw(positive, negative, upscaled_image)

Power Prompt (rgthree) = prompt; _; _; prompt
Power Prompt - Simple (rgthree) = prompt; prompt
SDXL Power Prompt - Positive (rgthree) = prompt_g + prompt_l; _; _; prompt_g; prompt_l
SDXL Power Prompt - Simple / Negative (rgthree) = prompt_g + prompt_l; prompt_g; prompt_l
Any Switch (rgthree) = first(*any_)
Power Primitive (rgthree) = value
Power Puter (rgthree) = never("is computed when it runs")
Context (rgthree) = wire(base_ctx, positive=positive, negative=negative, latent=latent, images=images); _; _;
    _; out.positive; out.negative; out.latent; out.images
Context Big (rgthree) = wire(base_ctx, positive=positive, negative=negative, latent=latent, images=images,
    pos_g=text_pos_g, pos_l=text_pos_l, neg_g=text_neg_g, neg_l=text_neg_l); _; _; _; out.positive;
    out.negative; out.latent; out.images; _; _; _; _; _; _; _; _; _; out.pos_g; out.pos_l; out.neg_g;
    out.neg_l
Context Switch (rgthree) = first(*ctx_); _; _; _; out.positive; out.negative; out.latent; out.images
Context Switch Big (rgthree) = first(*ctx_); _; _; _; out.positive; out.negative; out.latent; out.images; _;
    _; _; _; _; _; _; _; _; out.pos_g; out.pos_l; out.neg_g; out.neg_l
Context Merge (rgthree) = last(*ctx_); _; _; _; out.positive; out.negative; out.latent; out.images
Context Merge Big (rgthree) = last(*ctx_); _; _; _; out.positive; out.negative; out.latent; out.images; _; _;
    _; _; _; _; _; _; _; out.pos_g; out.pos_l; out.neg_g; out.neg_l
SDXL Empty Latent Image (rgthree) = blank

ShowText|pysssss = shown(text)
StringFunction|pysssss = appended(action, tidy_tags, text_a, text_b, text_c)
ReroutePrimitive|pysssss = value
LoadText|pysssss = never("reads a file when it runs")
WD14Tagger|pysssss = never("tags a picture when it runs")

easy positive = positive
easy negative = negative
easy string = value
easy prompt = text
easy wildcards = single(settled(text)); single(settled(text))
easy promptConcat = glued(prompt1, separator, prompt2)
easy promptReplace = replaced(prompt, find1, replace1, find2, replace2, find3, replace3)
easy promptLine = single(prompt)
easy textSwitch = choose(input, "text{}")
easy textIndexSwitch = choose(index, "text{}")
easy anythingIndexSwitch = choose(index, "value{}")
easy conditioningIndexSwitch = choose(index, "cond{}")
easy imageIndexSwitch = choose(index, "image{}")
easy imageSwitch = choose(boolean, image_a, image_b)
easy ifElse = choose(boolean, on_true, on_false)
easy showAnything = shown(anything)
easy stylesSelector = never("adds styles that are not in the metadata")
easy imageInterrogator, easy joyCaption2API = never("describes a picture when it runs")
easy fullLoader = wire(positive=settled(positive), negative=settled(negative), latent=blank); _; _; _;
    out.positive; out.negative; blank
easy a1111Loader, easy comfyLoader, easy hunyuanDiTLoader,
    easy kolorsLoader = wire(positive=settled(positive), negative=settled(negative), latent=blank); _; _
easy pixArtLoader, easy mochiLoader = wire(positive=settled(positive), negative=settled(negative),
    latent=blank); _; _
easy fluxLoader = wire(positive=settled(positive), negative="", latent=blank); _; _
easy controlnetLoader, easy controlnetLoaderADV, easy controlnetLoader++ = pipe; pipe.positive; pipe.negative
easy controlnetStackApply, easy pipeBatchIndex = pipe
easy pipeIn = wire(pipe, positive=pos, negative=neg, latent=latent | image, images=image)
easy pipeOut = pipe; _; pipe.positive; pipe.negative; pipe.latent; _; _; pipe.images; _
easy pipeToBasicPipe = pipe
easy preSampling, easy preSamplingAdvanced, easy preSamplingDynamicCFG = wire(pipe,
    latent=image_to_latent | latent)
easy preSamplingCustom = wire(pipe, latent=image_to_latent | latent)
easy kSampler, easy kSamplerTiled, easy kSamplerSDTurbo = wire(pipe, images=out.latent,
    latent=draw(pipe.positive, pipe.negative, pipe.latent)); out.latent
easy kSamplerDownscaleUnet, easy kSamplerInpainting = wire(pipe, images=out.latent, latent=draw(pipe.positive,
    pipe.negative, pipe.latent)); out.latent
easy kSamplerCustom = wire(pipe, images=out.latent, latent=draw(pipe.positive, pipe.negative, pipe.latent));
    out.latent; out.latent; out.latent
easy fullkSampler = wire(pipe, positive=positive, negative=negative, images=out.latent,
    latent=draw(out.positive, out.negative, latent | pipe.latent)); out.latent; _; out.positive; out.negative;
    out.latent; _; _; _
easy hiresFix = pipe; image | pipe.images; image | pipe.images
easy detailerFix = pipe; pipe.images

JoinStrings = glued(string1, delimiter, string2)
JoinStringMulti = chained(inputcount, delimiter, return_list, *string_)
StringConstant = string
StringConstantMultiline = one_line(string, strip_newlines)
SomethingToString = glued(prefix, input, suffix)
WidgetToString = never("reads another node's widget when it runs")
ConditioningMultiCombine = counted(inputcount, *conditioning_); _
ConditioningSetMaskAndCombine, ConditioningSetMaskAndCombine3,
    ConditioningSetMaskAndCombine4 = joined(*positive_); joined(*negative_)
ConditioningSetMaskAndCombine5 = joined(*positive_); joined(*negative_)
ColorMatch = image_target
ImageResizeKJ, ImageResizeKJv2, GetImageSizeAndCount = image

CLIPTextEncodeSDXL+ = text
TextEncodeForSamplerParams+ = single(text)
ConditioningCombineMultiple+ = joined(*conditioning_)
SD3NegativeConditioning+ = conditioning
FluxSamplerParams+ = draw(conditioning, "", latent_image); _
KSamplerVariationsWithNoise+, KSamplerVariationsStochastic+ = draw(positive, negative, latent_image)
SimpleCondition+ = choose(evaluate, on_true, on_false)

Text Multiline = uncommented(text)
Text Multiline (Code Compatible), String to Text, Text to String, Text to Console, Text to Conditioning = text
Text String = text; text_b; text_c; text_d
Text Concatenate = listed(delimiter, clean_whitespace, text_a, text_b, text_c, text_d, text_e, text_f, text_g)
Text Find and Replace = plainly_replaced(text, find, replace)
Text Find and Replace Input = replaced(text, find, replace)
Text Input Switch = choose(boolean, text_a, text_b)
Conditioning Input Switch = choose(boolean, conditioning_a, conditioning_b)
Latent Input Switch = choose(boolean, latent_a, latent_b)
Image Input Switch = choose(boolean, image_a, image_b)
CLIPTextEncode (NSP), CLIPTextEncode (BlenderNeko Advanced + NSP) = settled(text); settled(text); text
Text Parse Noodle Soup Prompts = settled(text)
Text Random Line, Text Random Prompt, Text Shuffle = never("draws by chance")
Text Load Line From File, Load Text File = never("reads a file when it runs")
Prompt Styles Selector, Prompt Multiple Styles Selector = never("adds styles that are not in the metadata")
BLIP Analyze Image = never("describes a picture when it runs")
KSampler (WAS) = draw(positive, negative, latent_image)
Image Save = images

CR Text = text
CR Prompt Text = prompt
CR Multiline Text = plain_lines(text, convert_from_csv, remove_chars, split_string)
CR Combine Prompt = glued(part1, separator, part2, separator, part3, separator, part4)
CR Text Concatenate = glued(text1, separator, text2)
CR Text Replace = replaced(text, find1, replace1, find2, replace2, find3, replace3)
CR Text Input Switch, CR Text Input Switch (4 way) = choose(Input, "text{}")
CR Conditioning Input Switch = choose(Input, "conditioning{}")
CR Image Input Switch, CR Image Input Switch (4 way) = choose(Input, "image{}")
CR Latent Input Switch = choose(Input, "latent{}")
CR SDXL Base Prompt Encoder = pos_g + pos_l; neg_g + neg_l
CR Apply ControlNet = conditioning
CR Apply Multi-ControlNet = base_positive; base_negative
CR Load Prompt Style = never("adds styles that are not in the metadata")

ttN text, ttN textDebug = text
ttN concat = listed(delimiter, "", text1, text2, text3)
String Literal (Image Saver), String Literal = string
Primitive string [Crystools], Primitive string multiline [Crystools], LayerUtility: String = string
Switch any [Crystools], Switch string [Crystools] = choose(boolean, on_true, on_false)
Switch conditioning [Crystools], Switch image [Crystools] = choose(boolean, on_true, on_false)
Switch latent [Crystools] = choose(boolean, on_true, on_false)
LayerUtility: TextBox, Text _O = text
SDXLPromptStyler, SDXLPromptStylerAdvanced = never("adds styles that are not in the metadata")
Conditioning Concat Optional (Image Saver) = conditioning_to + conditioning_from
"""
