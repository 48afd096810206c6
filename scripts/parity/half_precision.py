#!/usr/bin/env python3
"""How far half precision is from single: one forward of the denoiser and one decode by the autoencoder, of PyTorch in bf16 and
of velatura in bf16 and int8, each against PyTorch in f32 on the same inputs (root mean square of the difference over that of
the result). Needs what full_size.py needs.

    python scripts/parity/half_precision.py sd15 FOLDER [--size 512x512]

for sd15, sd21 or sdxl.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from full_size import EXAMPLE, reference
from full_size_models import make

SHOWN = {"answer": "denoiser, one forward", "decoded": "VAE decode"}


def error(found, wanted):
    found, wanted = found.double().flatten(), wanted.double().flatten()
    return ((found - wanted).square().mean() / wanted.square().mean()).sqrt().item()


def first(x):
    """One picture with the channels first."""
    return x.permute(2, 0, 1)[None].contiguous()


def pytorch(folder, given):
    """The same forwards in bf16: weights, activations and inputs."""
    half = torch.bfloat16
    sample = first(given["sample"]).to(half)
    told = {}
    if "pooled" in given:
        size = [8.0 * side for side in sample.shape[2:]]
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=half)
        told = {"added_cond_kwargs": {"text_embeds": given["pooled"][None].to(half), "time_ids": ids}}
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=half).eval()
    answer = unet(sample, 501, given["prompt"][None].to(half), **told).sample
    del unet
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=half).eval()
    decoded = vae.decode(first(given["latent"]).to(half) / vae.config.scaling_factor).sample
    return {"answer": answer[0].permute(1, 2, 0), "decoded": decoded[0].permute(1, 2, 0)}


def velatura(folder, request, given, precision, threads):
    with tempfile.TemporaryDirectory() as scratch:
        asked, made = pathlib.Path(scratch) / "asked.safetensors", pathlib.Path(scratch) / "made.safetensors"
        save_file(given, asked, {"request": json.dumps({**request, "precision": precision})})
        subprocess.run([EXAMPLE, folder, asked, made, str(threads)], check=True)
        return load_file(made)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", choices=("sd15", "sd21", "sdxl"))
    p.add_argument("folder", type=pathlib.Path)
    p.add_argument("--size", default="512x512", help="width and height in pixels, multiples of 8")
    p.add_argument("--threads", type=int, default=2)
    a = p.parse_args()
    torch.set_grad_enabled(False)
    torch.set_num_threads(a.threads)
    if not (a.folder / "model_index.json").exists():
        make(a.model, a.folder)
    path = a.folder / "reference.safetensors"
    if not path.exists():
        reference(a.model, a.folder, *map(int, a.size.split("x")), 1, 1)
    given = load_file(path)
    with safe_open(path, "pt") as file:
        request = {**json.loads(file.metadata()["request"]), "steps": 1}
    measured = {"PyTorch bf16": pytorch(a.folder, given)}
    for precision in ("bf16", "int8"):
        measured[f"velatura {precision}"] = velatura(a.folder, request, given, precision, a.threads)
    for key, what in SHOWN.items():
        errors = {side: error(made[key], given[key]) for side, made in measured.items()}
        theirs = errors["PyTorch bf16"]
        print(what + ": " + ", ".join(f"{side} {e:.2e} ({e / theirs:.2f})" for side, e in errors.items()))


if __name__ == "__main__":
    main()
