"""Velatura held against diffusers at full size: random pipelines of the true layout, tokenizer included.

Needs: pip install torch diffusers transformers accelerate open_clip_torch safetensors, and
       cargo build --release -p velatura --example networks
Run:   python3 scripts/parity/full_size.py sd15 FOLDER [--size 512x512] [--steps 5] [--batch 1] [--threads 2] [--single-file]
for sd15, sd21 (v prediction), sdxl, refiner, inpainting, pix2pix or upscaler. FOLDER gets the pipeline as a diffusers folder
in half precision, reference.safetensors and velatura.safetensors; what is there is used again. Both sides run in single
precision, one after the other; the most memory is what the denoiser takes in single precision (3.4 GB, 3.5 GB, 10.3 GB, 9.1
GB), and in velatura the text encoders beside it. With --single-file velatura reads the same weights from one file in the
original naming, without configurations.

Prints, for each thing compared, the largest difference over the root mean square of diffusers' values, and for the picture
the peak signal-to-noise ratio. docs/parity.md records figures.
"""

import argparse
import gc
import json
import math
import pathlib
import subprocess
import sys
import time

import numpy as np
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionInpaintPipeline,
                       StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline, StableDiffusionUpscalePipeline,
                       StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline, UNet2DConditionModel)
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from full_size_models import MODELS, make, single_file

PROMPT, NEGATIVE, SEED = "a serene mountain lake at sunrise, photorealistic", "blurry, low quality", 12345
STRENGTH = 0.7  # of the refiner's picture
EXAMPLE = pathlib.Path(__file__).parents[2] / "target/release/examples/networks"
PIPELINES = {kind.__name__: kind for kind in (
    StableDiffusionInpaintPipeline, StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline,
    StableDiffusionUpscalePipeline, StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline)}


def encoded(name, folder):
    """Prompt and negative prompt as the pipeline encodes them, with the pooled text of both for XL."""
    load = dict(dtype=torch.float32)
    tokens = text = None
    if "text_encoder" in MODELS[name]:
        tokens = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        text = CLIPTextModel.from_pretrained(folder / "text_encoder", **load).eval()
    if "text_encoder_2" not in MODELS[name]:
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


def asked_steps(name, steps):
    """Steps to ask for so that as many are taken: the refiner begins from a picture."""
    return math.ceil(steps / STRENGTH) if name == "refiner" else steps


def pictures(name, folder, width, height):
    """What a model of this kind reads, as pictures and as arguments for its pipeline and for a request."""
    y, x = np.mgrid[:height, :width]
    picture = Image.fromarray(np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x // 8 + y // 8) % 2 * 200],
                                       axis=-1).astype(np.uint8))
    white = (x >= width // 4) & (x < width * 3 // 4) & (y >= height // 5) & (y < height * 4 // 5)
    given = {}
    if name == "upscaler":
        given["init"] = picture.resize((width // 4, height // 4), Image.Resampling.LANCZOS)
    elif name in ("inpainting", "pix2pix", "refiner"):
        given["init"] = picture
    if name == "inpainting":
        given["mask"] = Image.fromarray(np.where(white, 255, 0).astype(np.uint8))
    request = {}
    for key, image in given.items():
        request[key] = str((folder / f"{key}.png").resolve())
        image.save(request[key])
    arguments = {{"init": "image", "mask": "mask_image"}[key]: image for key, image in given.items()}
    more = {"inpainting": dict(strength=1.0), "pix2pix": dict(image_guidance_scale=1.5), "refiner": dict(strength=STRENGTH),
            "upscaler": dict(noise_level=20)}.get(name, {})
    request |= {{"image_guidance_scale": "image_guidance"}.get(key, key): value for key, value in more.items()}
    return arguments | more, request


def pipeline(name, folder, unet, vae):
    """diffusers' pipeline without text encoders, and the guidance that it is asked for."""
    kind = PIPELINES[MODELS[name]["pipeline"]]
    scheduler = DDIMScheduler.from_config(json.loads((folder / "scheduler/scheduler_config.json").read_text()),
                                          clip_sample=False, timestep_spacing="leading")
    parts = dict(vae=vae, unet=unet, scheduler=scheduler, text_encoder=None, tokenizer=None)
    if "text_encoder_2" in MODELS[name]:
        scores = {"requires_aesthetics_score": True} if name == "refiner" else {}
        return kind(**parts, text_encoder_2=None, tokenizer_2=None, add_watermarker=False, **scores), 5.0
    if name == "upscaler":
        parts["low_res_scheduler"] = DDPMScheduler.from_pretrained(folder / "low_res_scheduler")
        return kind(**parts), 9.0
    return kind(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False), 7.5


def reference(name, folder, width, height, steps, batch):
    """What diffusers makes of it."""
    prompt, negative, pooled, negative_pooled = encoded(name, folder)
    gc.collect()
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, unet.config.in_channels, height // factor, width // factor, generator=generator)
    picture = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    latent, scale = sample[:, :4], vae.config.scaling_factor
    out = {"sample": last(sample), "latent": last(latent), "picture": last(picture), "prompt": prompt[0],
           "negative": negative[0]}
    told = {}
    if pooled is not None:
        out["pooled"] = pooled[0]
        ids = [height, width, 0.0, 0.0, *([6.0] if name == "refiner" else [height, width])]
        told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.tensor([ids])}
    if unet.config.num_class_embeds:
        told["class_labels"] = torch.zeros(1, dtype=torch.long)
    began = time.time()
    out["answer"] = last(unet(sample, 501, prompt, **told).sample)
    print(f"one forward: {time.time() - began:.0f} s", flush=True)
    moments = vae.encode(picture).latent_dist
    out["encoded"], out["deviation"] = last(moments.mean * scale), last(moments.std * scale)
    out["decoded"] = last(vae.decode(latent / scale).sample)
    pipe, guidance = pipeline(name, folder, unet, vae)
    given = dict(prompt_embeds=prompt, negative_prompt_embeds=negative)
    if pooled is not None:
        given |= dict(pooled_prompt_embeds=pooled, negative_pooled_prompt_embeds=negative_pooled)
    read, asked = pictures(name, folder, width, height)
    given |= read
    if not read or name == "inpainting":
        given |= dict(width=width, height=height)
    generators = [torch.Generator().manual_seed(SEED + i) for i in range(batch)]
    latents = pipe(**given, num_inference_steps=asked_steps(name, steps), guidance_scale=guidance, output_type="latent",
                   num_images_per_prompt=batch, generator=generators if batch > 1 else generators[0]).images
    out["latents"] = latents.permute(0, 2, 3, 1).contiguous()
    decoded = torch.cat([vae.decode(latent[None] / scale).sample for latent in latents])
    made = pipe.image_processor.postprocess(decoded, output_type="np")
    out["made"] = torch.from_numpy(made * 255).round().to(torch.uint8).contiguous()
    request = dict(prompt=PROMPT, negative=NEGATIVE, seed=SEED, steps=asked_steps(name, steps), guidance=guidance, width=width,
                   height=height, batch=batch,
                   sampler="ddim", schedule="leading", precision="f32", **asked)
    save_file({k: v.contiguous() for k, v in out.items()}, folder / "reference.safetensors",
              {"request": json.dumps(request)})


def compare(theirs, ours):
    theirs, ours = load_file(theirs), load_file(ours)
    for key in ("prompt", "negative", "pooled", "answer", "encoded", "deviation", "decoded", "latents"):
        if key in theirs:
            a, b = ours[key].double().flatten(), theirs[key].double().flatten()
            print(f"{key}: {(a - b).abs().max() / b.square().mean().sqrt():.1e}")
    difference = (ours["made"].double().flatten() - theirs["made"].double().flatten()).square().mean()
    print(f"picture: {10 * math.log10(255 ** 2 / max(difference.item(), 1e-9)):.1f} dB")


def prepare(a, known, model):
    """Makes what is not there yet: the pipeline, what diffusers makes of it, the single file."""
    width, height = (int(n) for n in a.size.split("x"))
    if not (a.folder / "model_index.json").exists():
        make(a.model, a.folder)
    asked = {}
    if known.exists():
        with safe_open(known, "pt") as file:
            asked = json.loads(file.metadata()["request"])
    wanted = [width, height, asked_steps(a.model, a.steps), a.batch]
    if [asked.get(key) for key in ("width", "height", "steps", "batch")] != wanted:
        reference(a.model, a.folder, width, height, a.steps, a.batch)
        gc.collect()
    if not model.exists():
        single_file(a.model, a.folder, model)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", choices=MODELS)
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--size", default="512x512", help="width and height in pixels, multiples of 8")
    p.add_argument("--steps", type=int, default=5, help="guided steps that are taken")
    p.add_argument("--batch", type=int, default=1, help="pictures of a run, with seeds that count up")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--single-file", action="store_true", help="velatura reads a file in the original naming")
    p.add_argument("--reference-only", action="store_true", help="make the files and stop when diffusers is done")
    a = p.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(a.threads)
    known = a.folder / "reference.safetensors"
    model = a.folder / f"{a.model}.safetensors" if a.single_file else a.folder
    if a.reference_only:
        prepare(a, known, model)
        return
    # In a process of its own, whose memory is given back: a large model does not fit beside what it leaves behind.
    subprocess.run([sys.executable, *sys.argv, "--reference-only"], check=True)
    began, found = time.time(), a.folder / "velatura.safetensors"
    subprocess.run([EXAMPLE, model, known, found, str(a.threads)], check=True)
    print(f"velatura: {time.time() - began:.0f} s")
    compare(known, found)


if __name__ == "__main__":
    main()
