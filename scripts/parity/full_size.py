"""Velatura held against diffusers at full size: random pipelines of the true layout, tokenizer included.

Needs: pip install torch diffusers transformers accelerate open_clip_torch safetensors, and
       cargo build --release -p velatura --example networks
Run:   python3 scripts/parity/full_size.py sd15 FOLDER [--size 512x512] [--steps 5] [--threads 2]
for sd15, sd21 (v prediction) or sdxl. FOLDER gets the pipeline as a diffusers folder in half precision, reference.safetensors
and velatura.safetensors; what is there is used again. Both sides run in single precision, one after the other; the most
memory is what the denoiser takes in single precision (3.4 GB, 3.5 GB, 10.3 GB), and in velatura the text encoders beside it.

Prints, for each thing compared, the largest difference over the root mean square of diffusers' values, and for the picture
the peak signal-to-noise ratio. docs/parity.md records figures.
"""

import argparse
import gc
import gzip
import importlib.util
import json
import math
import pathlib
import subprocess
import time

import torch
from accelerate import init_empty_weights
from diffusers import (AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler, StableDiffusionPipeline,
                       StableDiffusionXLPipeline, UNet2DConditionModel)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

PROMPT, NEGATIVE, SEED = "a serene mountain lake at sunrise, photorealistic", "blurry, low quality", 12345
EXAMPLE = pathlib.Path(__file__).parents[2] / "target/release/examples/networks"
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1)
FOUR = dict(block_out_channels=(320, 640, 1280, 1280), layers_per_block=2,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3)
VAE = dict(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
           down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
CLIP_L = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
              hidden_act="quick_gelu")
OPENCLIP_H = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu")
OPENCLIP_G = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
                  hidden_act="gelu", projection_dim=1280)
MODELS = {
    "sd15": dict(
        unet=dict(**FOUR, sample_size=64, cross_attention_dim=768, attention_head_dim=8), vae=dict(**VAE, sample_size=512),
        text_encoder=CLIP_L, pads=["<|endoftext|>"],
        scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False)),
    "sd21": dict(
        unet=dict(**FOUR, sample_size=96, cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20],
                  use_linear_projection=True),
        vae=dict(**VAE, sample_size=768), text_encoder=OPENCLIP_H, pads=["!"],
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")),
    "sdxl": dict(
        unet=dict(sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2,
                  down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
                  up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), cross_attention_dim=2048,
                  attention_head_dim=[5, 10, 20], transformer_layers_per_block=[1, 2, 10], use_linear_projection=True,
                  addition_embed_type="text_time", addition_time_embed_dim=256,
                  projection_class_embeddings_input_dim=2816),
        vae=dict(**VAE, sample_size=1024, scaling_factor=0.13025), text_encoder=CLIP_L, text_encoder_2=OPENCLIP_G,
        pads=["<|endoftext|>", "!"], scheduler=EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")),
}


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


def make(name, folder):
    """Writes the pipeline in half precision: matrices that keep the variance, scales around one, small biases."""
    model = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
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
        stem = "model" if part.startswith("text") else "diffusion_pytorch_model"
        save_file(tensors, folder / part / f"{stem}.safetensors", {"format": "pt"})
        if part.startswith("text"):
            module.config.architectures = [type(module).__name__]
            module.config.save_pretrained(folder / part)
        else:
            module.save_config(folder / part)
        print(f"{part}: {sum(p.numel() for p in module.parameters()):,} weights", flush=True)
    for i, pad in enumerate(model["pads"]):
        tokenizer(folder / ("tokenizer" if i == 0 else "tokenizer_2"), pad)
    model["scheduler"].save_pretrained(folder / "scheduler")
    index = {"_class_name": "StableDiffusionXLPipeline" if name == "sdxl" else "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps({**index, "force_zeros_for_empty_prompt": name == "sdxl"}))


def encoded(name, folder):
    """Prompt and negative prompt as the pipeline encodes them, with the pooled text of both for XL."""
    load = dict(dtype=torch.float32)
    tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    text = CLIPTextModel.from_pretrained(folder / "text_encoder", **load).eval()
    if name != "sdxl":
        pipe = StableDiffusionPipeline(vae=None, text_encoder=text, tokenizer=tokens, unet=None, scheduler=None,
                                       safety_checker=None, feature_extractor=None, requires_safety_checker=False)
        return pipe.encode_prompt(PROMPT, "cpu", 1, True, NEGATIVE) + (None, None)
    second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", **load).eval()
    pipe = StableDiffusionXLPipeline(vae=None, text_encoder=text, text_encoder_2=second, tokenizer=tokens,
                                     tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"), unet=None,
                                     scheduler=None, add_watermarker=False)
    return pipe.encode_prompt(PROMPT, device="cpu", negative_prompt=NEGATIVE)


def last(x):
    return x.permute(0, 2, 3, 1)[0].contiguous()


def reference(name, folder, width, height, steps):
    """What diffusers makes of it."""
    xl = name == "sdxl"
    prompt, negative, pooled, negative_pooled = encoded(name, folder)
    gc.collect()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(1, 4, height // 8, width // 8, generator=generator)
    picture = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    scale = vae.config.scaling_factor
    out = {"latent": last(latent), "picture": last(picture), "prompt": prompt[0], "negative": negative[0]}
    added = None
    if xl:
        out["pooled"] = pooled[0]
        added = {"text_embeds": pooled, "time_ids": torch.tensor([[height, width, 0.0, 0.0, height, width]])}
    began = time.time()
    out["answer"] = last(unet(latent, 501, prompt, added_cond_kwargs=added).sample)
    print(f"one forward: {time.time() - began:.0f} s", flush=True)
    out["encoded"] = last(vae.encode(picture).latent_dist.mean * scale)
    out["decoded"] = last(vae.decode(latent / scale).sample)
    common = dict(vae=vae, unet=unet, scheduler=DDIMScheduler.from_config(
        json.loads((folder / "scheduler/scheduler_config.json").read_text()), clip_sample=False,
        timestep_spacing="leading"), text_encoder=None, tokenizer=None)
    given = dict(prompt_embeds=prompt, negative_prompt_embeds=negative)
    if xl:
        pipe = StableDiffusionXLPipeline(**common, text_encoder_2=None, tokenizer_2=None, add_watermarker=False)
        given.update(pooled_prompt_embeds=pooled, negative_pooled_prompt_embeds=negative_pooled)
    else:
        pipe = StableDiffusionPipeline(**common, safety_checker=None, feature_extractor=None,
                                       requires_safety_checker=False)
    guidance = 5.0 if xl else 7.5
    latents = pipe(**given, num_inference_steps=steps, guidance_scale=guidance, width=width, height=height,
                   generator=torch.Generator().manual_seed(SEED), output_type="latent").images
    out["latents"] = last(latents)
    made = pipe.image_processor.postprocess(vae.decode(latents / scale).sample, output_type="np")[0]
    out["made"] = torch.from_numpy(made * 255).round().to(torch.uint8).contiguous()
    request = dict(prompt=PROMPT, negative=NEGATIVE, seed=SEED, steps=steps, guidance=guidance, width=width, height=height,
                   sampler="ddim", schedule="leading", precision="f32")
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "reference.safetensors",
              {"request": json.dumps(request)})


def compare(folder):
    theirs, ours = load_file(folder / "reference.safetensors"), load_file(folder / "velatura.safetensors")
    for key in ("prompt", "negative", "pooled", "answer", "encoded", "decoded", "latents"):
        if key in theirs and key in ours:
            a, b = ours[key].double().flatten(), theirs[key].double().flatten()
            print(f"{key}: {(a - b).abs().max() / b.square().mean().sqrt():.1e}")
    difference = (ours["made"].double().flatten() - theirs["made"].double().flatten()).square().mean()
    print(f"picture: {10 * math.log10(255 ** 2 / max(difference.item(), 1e-9)):.1f} dB")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", choices=MODELS)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--size", default="512x512", help="width and height in pixels, multiples of 8")
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(a.threads)
    width, height = (int(n) for n in a.size.split("x"))
    if not (a.folder / "model_index.json").exists():
        make(a.model, a.folder)
    known = a.folder / "reference.safetensors"
    asked = {}
    if known.exists():
        with safe_open(known, "pt") as file:
            asked = json.loads(file.metadata()["request"])
    if [asked.get(key) for key in ("width", "height", "steps")] != [width, height, a.steps]:
        reference(a.model, a.folder, width, height, a.steps)
        gc.collect()
    began = time.time()
    subprocess.run([EXAMPLE, a.folder, known, a.folder / "velatura.safetensors", str(a.threads)], check=True)
    print(f"velatura: {time.time() - began:.0f} s")
    compare(a.folder)


if __name__ == "__main__":
    main()
