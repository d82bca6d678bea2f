"""ComfyUI's own nodes, and those of its partners that take a prompt; `rules.py` says how a line is read."""

CORE_NODES = """
CLIPTextEncode, CLIPTextEncodeSDXLRefiner, CLIPTextEncodePixArtAlpha, PhotoMakerEncode = text
CLIPTextEncodeFlux = clip_l + t5xxl
CLIPTextEncodeSD3 = clip_l + clip_g + t5xxl
CLIPTextEncodeSDXL = text_g + text_l
CLIPTextEncodeHiDream = clip_l + clip_g + t5xxl + llama
CLIPTextEncodeHunyuanDiT = bert + mt5xl
CLIPTextEncodeKandinsky5 = clip_l + qwen25_7b
CLIPTextEncodeLumina2 = user_prompt
TextEncodeQwenImageEdit, TextEncodeQwenImageEditPlus, TextEncodeZImageOmni, TextEncodeJoyImageEdit = prompt
TextEncodeHunyuanVideo_ImageToVideo = prompt
TextEncodeBooguEdit, TextEncodeMageFlowEdit = prompt; negative_prompt; blank
ConditioningZeroOut, ImpactNegativeConditioningPlaceholder = ""
ConditioningCombine = conditioning_1 + conditioning_2
ConditioningConcat = conditioning_to + conditioning_from
ConditioningAverage = mixed(conditioning_to, conditioning_from, conditioning_to_strength)
ConditioningMultiply, ConditioningSetArea, ConditioningSetAreaPercentage,
    ConditioningSetAreaStrength = conditioning
ConditioningSetAreaPercentageVideo, ConditioningSetMask, ConditioningSetTimestepRange = conditioning
ConditioningSetProperties = cond_NEW
ConditioningSetPropertiesAndCombine = cond + cond_NEW
ConditioningSetDefaultCombine = cond + cond_DEFAULT
ControlNetApply, FluxGuidance, FluxDisableGuidance, FluxKontextMultiReferenceLatentMethod = conditioning
ReferenceLatent, StyleModelApply, unCLIPConditioning, CLIPTextEncodeControlnet = conditioning
GLIGENTextBoxApply = conditioning_to
PiDConditioning = positive
ControlNetApplyAdvanced, ControlNetApplySD3, ControlNetInpaintingAliMamaApply, LTXVConditioning = positive;
    negative
HiDreamO1ReferenceImages, CondPassThrough = positive; negative
PairConditioningSetProperties = positive_NEW; negative_NEW
PairConditioningSetPropertiesAndCombine = positive + positive_NEW; negative + negative_NEW
PairConditioningCombine = positive_A + positive_B; negative_A + negative_B
PairConditioningSetDefaultCombine = positive + positive_DEFAULT; negative + negative_DEFAULT
InpaintModelConditioning = positive; negative; pixels
InstructPixToPixConditioning, SD_4XUpscale_Conditioning = positive; negative; blank
WanImageToVideo, WanFunControlToVideo, Wan22FunControlToVideo, WanFunInpaintToVideo = positive; negative; blank
WanFirstLastFrameToVideo, WanVaceToVideo, WanCameraImageToVideo, LTXVImgToVideo = positive; negative; blank
HunyuanVideo15ImageToVideo, Kandinsky5ImageToVideo = positive; negative; blank
WanPhantomSubjectToVideo = positive; _; _; blank
HunyuanRefinerLatent, LTXVAddGuide, LTXVCropGuides = positive; negative; latent
HunyuanImageToVideo = positive; blank
StableCascade_StageB_Conditioning = never("draws the second half of a picture in two stages")

BasicGuider = wire(positive=conditioning, negative="")
CFGGuider, PerpNegGuider, DualModelGuider = wire(positive=positive, negative=negative)
DualCFGGuider = wire(positive=cond1, negative=negative)
KSampler, KSamplerAdvanced = draw(positive, negative, latent_image)
SamplerCustom = draw(positive, negative, latent_image); out
SamplerCustomAdvanced = draw(guider.positive, guider.negative, latent_image); out

EmptyLatentImage, EmptySD3LatentImage, EmptyFlux2LatentImage, EmptyHunyuanImageLatent, EmptyImage = blank
EmptyHunyuanLatentVideo, EmptyHunyuanVideo15Latent, EmptyMochiLatentVideo, EmptyLTXVLatentVideo = blank
EmptyCosmosLatentVideo, EmptyChromaRadianceLatentImage, EmptyHiDreamO1LatentImage = blank
EmptyQwenImageLayeredLatentImage, LoadLatent, WebcamCapture, LoadImageDataSetFromFolder = blank
Wan22ImageToVideoLatent, CosmosImageToVideoLatent, CosmosPredict2ImageToVideoLatent, MaskToImage = blank
StableCascade_EmptyLatentImage = blank; blank
StableCascade_StageC_VAEEncode = image; blank
LoadImage, LoadImageOutput = blank; _
VAEDecode, VAEDecodeTiled, LatentUpscale, LatentUpscaleBy, LatentCrop, LatentFlip, LatentRotate,
    LatentCut = samples
LatentMultiply, LatentFromBatch, LatentCutToBatch, LatentBatchSeedBehavior, LatentApplyOperation = samples
RepeatLatentBatch, SetLatentNoiseMask, TrimVideoLatent, LTXVLatentUpsampler, SaveLatent = samples
HunyuanVideo15LatentUpscaleWithModel = samples
AddNoise = latent_image
RebatchLatents = latents
LatentAdd, LatentSubtract, LatentInterpolate, LatentBlend, LatentBatch, LatentConcat = samples1 + samples2
LatentComposite = samples_to + samples_from
LatentCompositeMasked, ImageCompositeMasked = destination + source
PorterDuffImageComposite = destination + source; _
VAEEncode, VAEEncodeTiled, VAEEncodeForInpaint = pixels
ImageBatch, ImageBlend, ImageStitch = image1 + image2
BatchImagesNode = joined(*images.image)
ImageScale, ImageScaleBy, ImageScaleToTotalPixels, ImageScaleToMaxDimension, ImageUpscaleWithModel = image
ImageSharpen, ImageBlur, ImageInvert, ImageQuantize, ImageCrop, ImageCropV2, ImageFlip, ImageRotate = image
ImageAddNoise, ImageFromBatch, RepeatImageBatch, ResizeAndPadImage, FluxKontextImageScale, Canny = image
JoinImageWithAlpha, Morphology, LTXVPreprocess, SplitImageToTileList = image
ImagePadForOutpaint, SplitImageWithAlpha = image; _
ColorTransfer = image_target
ResizeImageMaskNode = input("input")
SaveImage, PreviewImage, SaveAnimatedWEBP, SaveAnimatedPNG, SaveImageAdvanced, RebatchImages, ImageGrid = images
AdjustBrightness, AdjustContrast, NormalizeImages, CenterCropImages, RandomCropImages, TextOverlay = images
ResizeImagesByShorterEdge, ResizeImagesByLongerEdge = images

PrimitiveString, PrimitiveStringMultiline, PrimitiveInt, PrimitiveFloat, PrimitiveBoolean, PrimitiveNode = value
Reroute = input("")
StringConcatenate = glued(string_a, delimiter, string_b)
StringReplace = replaced(string, find, replace)
StringTrim = trimmed(string, mode)
CaseConverter = cased(string, mode)
StringSubstring = cut(string, start, end)
StringFormat = formatted(f_string, "abcdefghij", input("values.a"), input("values.b"), input("values.c"),
    input("values.d"), input("values.e"), input("values.f"), input("values.g"), input("values.h"),
    input("values.i"), input("values.j"))
RegexReplace = plainly_replaced(string, regex_pattern, replace)
PreviewAny = source
SaveText = text
CustomCombo = choice; _
ComfySwitchNode, ComfySoftSwitchNode = choose(switch, on_true, on_false)
TextGenerate, TextGenerateLTX2Prompt = never("is a language model, which writes when it runs")

OpenAIDalle2, OpenAIDalle3, OpenAIGPTImage1, GeminiImageNode, GeminiImage2Node = draw(prompt, "")
FluxProUltraImageNode, ByteDanceImageNode, ByteDanceSeedreamNode, GrokImageNode = draw(prompt, "")
RecraftTextToImageNode = draw(prompt, negative_prompt)
"""
