"""Small random models of the classes that segment and caption, saved as people have them on disk."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from comfyui_fewshot.pocket.world import words

WORDS = "a photo of red dog cat chair on the grass . , locate in image with mask what does describe ?".split()


def seeded(build):
    """`build()` with random weights that are always the same."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return build()


def bert_tokenizer(folder: Path):
    """A BERT tokenizer of a few words, with the special tokens where Grounding DINO expects them."""
    vocabulary = ["[PAD]", *(f"[unused{n}]" for n in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary += [f"unused{n}" for n in range(1012 - len(vocabulary))] + [".", "?", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)) + "\n")
    return transformers.BertTokenizer(str(folder / "vocab.txt"))


def grounding_dino(folder: Path) -> Path:
    folder.mkdir(parents=True)
    backbone = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=1100, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, num_queries=8,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        num_feature_levels=4, disable_custom_kernels=True,
    )  # fmt: skip
    seeded(lambda: transformers.GroundingDinoForObjectDetection(config)).save_pretrained(folder)
    images = transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    transformers.GroundingDinoProcessor(images, bert_tokenizer(folder)).save_pretrained(folder)
    return folder


def owl(folder: Path) -> Path:
    folder.mkdir(parents=True)
    tokenizer = words.build(folder)
    text = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=16, pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    vision = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64,
                  patch_size=16)  # fmt: skip
    config = transformers.Owlv2Config(text_config=text, vision_config=vision, projection_dim=32)
    seeded(lambda: transformers.Owlv2ForObjectDetection(config)).save_pretrained(folder)
    images = transformers.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    tokenizer.model_max_length = 16
    transformers.Owlv2Processor(images, tokenizer).save_pretrained(folder)
    return folder


def clipseg(folder: Path, side: int = 64) -> Path:
    folder.mkdir(parents=True)
    tokenizer = words.build(folder)
    text = dict(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=words.LENGTH, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    vision = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=side,
                  patch_size=8)  # fmt: skip
    config = transformers.CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=32, extract_layers=[0, 1], reduce_dim=16,
        decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    seeded(lambda: transformers.CLIPSegForImageSegmentation(config)).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return folder


def sam(folder: Path) -> Path:
    folder.mkdir(parents=True)
    vision = transformers.SamVisionConfig(
        hidden_size=16, output_channels=32, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16,
        mlp_dim=16, num_pos_feats=16, window_size=0, global_attn_indexes=[],
    )  # fmt: skip
    prompt = transformers.SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = transformers.SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    seeded(lambda: transformers.SamModel(config)).save_pretrained(folder)
    images = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    transformers.SamProcessor(images).save_pretrained(folder)
    return folder


def sam2(folder: Path) -> Path:
    folder.mkdir(parents=True)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[128, 128], blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2], global_attention_blocks=[3],
        window_size_per_stage=[4, 4, 4, 4],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    prompt = transformers.Sam2PromptEncoderConfig(hidden_size=32, image_size=128, mask_input_channels=4)
    decoder = transformers.Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = transformers.Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    seeded(lambda: transformers.Sam2Model(config)).save_pretrained(folder)
    images = transformers.Sam2ImageProcessor(size={"height": 128, "width": 128}, mask_size={"height": 32, "width": 32})
    transformers.Sam2Processor(images).save_pretrained(folder)
    return folder


def sam_file(file: Path) -> Path:
    """A SAM 1.0 state dict as in models/sams, of a narrow network."""
    from segment_anything.build_sam import _build_sam

    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(seeded(lambda: _build_sam(16, 2, 2, [1])).state_dict(), file)
    return file


def byte_tokenizer(extra=(), **special):
    """A byte-level tokenizer without merges: any text can be encoded."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *alphabet]
    core = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", **special
    )
    made.add_tokens(list(extra))
    return made


def florence(folder: Path) -> Path:
    folder.mkdir(parents=True)
    places = [f"<loc_{n}>" for n in range(1000)] + ["<poly>", "</poly>", "<sep>"]
    tokenizer = byte_tokenizer(["<image>", *places], extra_special_tokens={"image_token": "<image>"})
    vision = dict(embed_dim=[8, 8, 16, 16], num_heads=[1, 1, 2, 2], num_groups=[1, 1, 2, 2], depths=[1, 1, 1, 1],
                  window_size=2, projection_dim=16, max_temporal_embeddings=4, max_position_embeddings=10)  # fmt: skip
    text = dict(model_type="bart", vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1,
                encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
                max_position_embeddings=256, bos_token_id=0, pad_token_id=1, eos_token_id=2,
                decoder_start_token_id=2, forced_eos_token_id=2)  # fmt: skip
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    config = transformers.Florence2Config(
        vision_config=vision, text_config=text, image_token_id=image_id, is_encoder_decoder=True
    )
    seeded(lambda: transformers.Florence2ForConditionalGeneration(config)).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False, crop_size={"height": 64, "width": 64}
    )
    images.image_seq_length = 5
    rules = {"polygons": {}, "pure_text": {}}
    transformers.Florence2Processor(images, tokenizer, post_processor_config=rules).save_pretrained(folder)
    return folder


CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def language_model(folder: Path) -> Path:
    """A Qwen 2 of two layers over bytes, with a chat template."""
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHAT
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=2, pad_token_id=1,
    )  # fmt: skip
    seeded(lambda: transformers.Qwen2ForCausalLM(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    folder.mkdir(parents=True)
    text = dict(vocab_size=1100, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
                encoder_hidden_size=16, bos_token_id=1015, sep_token_id=102, pad_token_id=0)  # fmt: skip
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32,
                  patch_size=16)  # fmt: skip
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    seeded(lambda: transformers.BlipForConditionalGeneration(config)).save_pretrained(folder)
    images = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    transformers.BlipProcessor(images, bert_tokenizer(folder)).save_pretrained(folder)
    return folder


def qwen_vl(folder: Path) -> Path:
    """A Qwen2-VL of one layer over bytes."""
    folder.mkdir(parents=True)
    tokenizer = byte_tokenizer(["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"])
    numbers = tokenizer.convert_tokens_to_ids
    text = dict(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, num_key_value_heads=2, bos_token_id=0, eos_token_id=2, pad_token_id=1,
                rope_scaling={"type": "mrope", "mrope_section": [1, 1, 2]})  # fmt: skip
    vision = dict(depth=1, embed_dim=16, hidden_size=16, num_heads=2, mlp_ratio=1, patch_size=14)
    config = transformers.Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=numbers("<|image_pad|>"),
        video_token_id=numbers("<|video_pad|>"), vision_start_token_id=numbers("<|vision_start|>"),
        vision_end_token_id=numbers("<|vision_end|>"),
    )  # fmt: skip
    seeded(lambda: transformers.Qwen2VLForConditionalGeneration(config)).save_pretrained(folder)
    images = transformers.Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=84 * 84)
    transformers.Qwen2VLProcessor(
        images, tokenizer, transformers.Qwen2VLVideoProcessor(), chat_template=CHAT
    ).save_pretrained(folder)
    return folder
