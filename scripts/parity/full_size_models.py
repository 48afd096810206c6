"""The published models' dimensions, and pipelines of random weights with them: as diffusers' folders, and as single files in
the original naming (for `full_size.py`)."""

import gzip
import importlib.util
import json
import math
import pathlib
import sys

import torch
from accelerate import init_empty_weights
from diffusers import (AutoencoderKL, DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler,
                       UNet2DConditionModel)
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "fixtures"))
from ldm_names import openclip_name, unet_names, vae_names  # noqa: E402

BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1)
FOUR = dict(block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
VAE = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
           down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
VAE_4 = {**VAE, "block_out_channels": (128, 256, 512), "down_block_types": ("DownEncoderBlock2D",) * 3,
         "up_block_types": ("UpDecoderBlock2D",) * 3}
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
              hidden_act="quick_gelu")
OPENCLIP_H = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")
OPENCLIP_G = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
                  hidden_act="gelu", projection_dim=1280)
XL = dict(sample_size=128, layers_per_block=2, use_linear_projection=True, addition_embed_type="text_time",
          addition_time_embed_dim=256)
SD15 = dict(
    pipeline="StableDiffusionPipeline",
    unet=dict(**FOUR, sample_size=64, cross_attention_dim=768, attention_head_dim=8), vae=dict(**VAE, sample_size=512),
    text_encoder=CLIP_L, pads=["<|endoftext|>"],
    scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False))
MODELS = {
    "sd15": SD15,
    "inpainting": {**SD15, "pipeline": "StableDiffusionInpaintPipeline", "unet": {**SD15["unet"], "in_channels": 9}},
    "pix2pix": {**SD15, "pipeline": "StableDiffusionInstructPix2PixPipeline", "unet": {**SD15["unet"], "in_channels": 8}},
    "sd21": dict(
        pipeline="StableDiffusionPipeline",
        unet=dict(**FOUR, sample_size=96, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20],
                  use_linear_projection=True),
        vae=dict(**VAE, sample_size=768), text_encoder=OPENCLIP_H, pads=["!"],
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")),
    "upscaler": dict(
        pipeline="StableDiffusionUpscalePipeline",
        unet=dict(sample_size=128, in_channels=7, num_class_embeds=1000, block_out_channels=(256, 512, 512, 1024),
                  layers_per_block=2, down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 3,
                  up_block_types=("CrossAttnUpBlock2D",) * 3 + ("UpBlock2D",), cross_attention_dim=1024,
                  attention_head_dim=8, use_linear_projection=True, only_cross_attention=(True, True, True, False)),
        vae=dict(**VAE_4, sample_size=256, scaling_factor=0.08333), text_encoder=OPENCLIP_H, pads=["!"],
        scheduler=DDIMScheduler(**{**BETAS, "beta_start": 0.0001, "beta_end": 0.02}, clip_sample=False,
                                set_alpha_to_one=False, prediction_type="v_prediction"),
        low_res_scheduler=DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear",
                                        num_train_timesteps=1000)),
    "sdxl": dict(
        pipeline="StableDiffusionXLPipeline",
        unet=dict(**XL, block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
                  up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), cross_attention_dim=2048,
                  attention_head_dim=[5, 10, 20], transformer_layers_per_block=[1, 2, 10],
                  projection_class_embeddings_input_dim=2816),
        vae=dict(**VAE, sample_size=1024, scaling_factor=0.13025), text_encoder=CLIP_L, text_encoder_2=OPENCLIP_G,
        pads=["<|endoftext|>", "!"], scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")),
    "refiner": dict(
        pipeline="StableDiffusionXLImg2ImgPipeline",
        unet=dict(**XL, block_out_channels=(384, 768, 1536, 1536),
                  down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2 + ("DownBlock2D",),
                  up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), cross_attention_dim=1280,
                  attention_head_dim=[6, 12, 24, 24], transformer_layers_per_block=4,
                  projection_class_embeddings_input_dim=2560),
        vae=dict(**VAE, sample_size=1024, scaling_factor=0.13025), text_encoder_2=OPENCLIP_G, pads=[None, "!"],
        scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")),
}
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def tokenizer(folder, pad):
    """OpenAI's vocabulary, from the copy inside open_clip."""
    open_clip = pathlib.Path(importlib.util.find_spec("open_clip").submodule_search_locations[0])
    merges = gzip.open(open_clip / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8").read().split("\n")
    merges = merges[1:49152 - 256 - 2 + 1]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(b) for b in visible] + [chr(256 + n) for n in range(256 - len(visible))]
    vocab = alphabet + [c + "</w>" for c in alphabet] + ["".join(m.split()) for m in merges]
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocab)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    tokens = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=pad, model_max_length=77)
    tokens.save_pretrained(folder)


def weights_file(folder, part):
    stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
    return folder / part / f"{stem}.safetensors"


def make(name, folder):
    """Writes the pipeline in half precision: matrices that keep the variance, scales around one, small biases."""
    model = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    for part in PARTS:
        if part not in model:
            continue
        with init_empty_weights():
            if part == "unet":
                module = UNet2DConditionModel(**model[part])
            elif part == "vae":
                module = AutoencoderKL(**model[part])
            else:
                kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
                module = kind(CLIPTextConfig(**model[part], bos_token_id=49406, eos_token_id=49407))
        tensors = {}
        for key, p in module.named_parameters():
            u = torch.rand(p.shape, generator=generator) * 2 - 1
            if p.dim() == 1:
                u = 1 + 0.25 * u if key.endswith("weight") else 0.1 * u
            else:
                u *= math.sqrt(3 / math.prod(p.shape[1:]))
            if part.startswith("text") and not key.startswith("text_"):
                key = "text_model." + key
            tensors[key] = u.half()
        (folder / part).mkdir(parents=True)
        save_file(tensors, weights_file(folder, part), {"format": "pt"})
        if part.startswith("text"):
            module.config.architectures = [type(module).__name__]
            module.config.save_pretrained(folder / part)
        else:
            module.save_config(folder / part)
        print(f"{part}: {sum(p.numel() for p in module.parameters()):,} weights", flush=True)
    for i, pad in enumerate(model["pads"]):
        if pad:
            tokenizer(folder / ("tokenizer" if i == 0 else "tokenizer_2"), pad)
    for part in ("scheduler", "low_res_scheduler"):
        if part in model:
            model[part].save_pretrained(folder / part)
    if "text_encoder_2" in model:
        # As in the published folders, for those who run another sampler than Euler's.
        path = folder / "scheduler/scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "set_alpha_to_one": False, "skip_prk_steps": True}))
    index = {"_class_name": model["pipeline"], "force_zeros_for_empty_prompt": name == "sdxl"}
    (folder / "model_index.json").write_text(json.dumps(index))


def single_file(name, folder, path):
    """The same weights in one file, in the naming of the published originals."""
    model, out = MODELS[name], {}
    unet = unet_names(UNet2DConditionModel.load_config(folder / "unet"))
    out |= {unet(k): v for k, v in load_file(weights_file(folder, "unet")).items()}
    vae = vae_names(AutoencoderKL.load_config(folder / "vae"))
    for key, v in load_file(weights_file(folder, "vae")).items():
        key = vae(key)
        out[key] = v[:, :, None, None] if ".mid.attn_1." in key and v.dim() == 2 else v
    for part in PARTS[2:]:
        if part not in model:
            continue
        tensors = load_file(weights_file(folder, part))
        if model[part] is CLIP_L:
            prefix = "conditioner.embedders.0.transformer." if name == "sdxl" else "cond_stage_model.transformer."
            out |= {prefix + k: v for k, v in tensors.items()}
            continue
        prefix = {"sdxl": "conditioner.embedders.1.model.", "refiner": "conditioner.embedders.0.model."}
        prefix = prefix.get(name, "cond_stage_model.model.")
        if model[part] is OPENCLIP_H:
            # The published files have a layer more, which is not read, and a projection.
            tensors |= {k.replace("layers.22.", "layers.23."): -v for k, v in tensors.items() if "layers.22." in k}
            tensors["text_projection.weight"] = torch.eye(1024, dtype=torch.half)
        for key, v in tensors.items():
            if "k_proj" in key or "v_proj" in key:
                continue
            if "q_proj" in key:
                v = torch.cat([tensors[key.replace("q_proj", f"{which}_proj")] for which in "qkv"])
            out[prefix + openclip_name(key)] = v.T.contiguous() if key == "text_projection.weight" else v
    save_file(out, path, {"format": "pt"})
