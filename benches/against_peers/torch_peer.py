"""PyTorch and diffusers at work; prints one JSON object. `--setting` is one of NCHW, channels-last, compile, or best,
which tries all and tells the best."""
import argparse
import json
import statistics
import time

import torch

from against_peers import models

SETTINGS = ("NCHW", "channels-last", "compile")


def median(run, runs):
    run()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def prepared(module, setting, dtype):
    form = torch.contiguous_format if setting == "NCHW" else torch.channels_last
    return module.to(dtype).to(memory_format=form), form


def unet(a, setting):
    dtype = getattr(torch, a.dtype)
    module, form = prepared(models.unet(a.arch), setting, dtype)
    sample, t, text, added = models.inputs(a.arch, a.batch)
    sample = sample.to(dtype).to(memory_format=form)
    added = {name: value.to(dtype) for name, value in added.items()}
    call = torch.compile(module) if setting == "compile" else module

    def run():
        with torch.inference_mode():
            return call(sample, t, text.to(dtype), added_cond_kwargs=added, return_dict=False)[0]
    return median(run, a.runs)


def vae(a, setting):
    dtype = getattr(torch, a.dtype)
    module, form = prepared(models.vae(), setting, dtype)
    latent = torch.randn(1, 4, 64, 64).to(dtype).to(memory_format=form)
    decode = torch.compile(module.decode) if setting == "compile" else module.decode

    def run():
        with torch.inference_mode():
            return decode(latent, return_dict=False)[0]
    return median(run, a.runs)


def train(a, setting):
    """Loss and gradients as diffusers' training scripts have them: autocast, and gradient checkpointing for all weights or
    adapters on the attention projections without."""
    module = models.unet(a.arch).train()
    if a.lora:
        from peft import LoraConfig
        module.requires_grad_(False)
        # As diffusers' script: what is frozen is kept in the narrow type.
        module = module.to(torch.bfloat16)
        targets = ["to_k", "to_q", "to_v", "to_out.0"]
        module.add_adapter(LoraConfig(r=a.lora, lora_alpha=a.lora, init_lora_weights="gaussian", target_modules=targets))
        for p in module.parameters():
            if p.requires_grad:
                p.data = p.data.float()
    else:
        module.enable_gradient_checkpointing()
    form = torch.contiguous_format if setting == "NCHW" else torch.channels_last
    module = module.to(memory_format=form)
    sample, t, text, added = models.inputs(a.arch, a.batch)
    sample, target = sample.to(memory_format=form), torch.randn_like(sample)
    call = torch.compile(module) if setting == "compile" else module

    def run():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = call(sample, t, text, added_cond_kwargs=added, return_dict=False)[0]
        (out.float() - target).pow(2).mean().backward()
        for p in module.parameters():
            p.grad = None
    return median(run, a.runs)


def picture(a, setting):
    """From the folder to the PNG; the process is what is timed, by whoever started it."""
    from diffusers import AutoencoderTiny, StableDiffusionPipeline
    pipe = StableDiffusionPipeline.from_pretrained(a.folder, torch_dtype=torch.bfloat16, safety_checker=None)
    if a.vae:
        pipe.vae = AutoencoderTiny.from_pretrained(a.vae, torch_dtype=torch.bfloat16)
    if setting != "NCHW":
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    start = time.perf_counter()
    image = pipe("a cat on a chair", num_inference_steps=a.steps, guidance_scale=a.guidance,
                 generator=torch.Generator().manual_seed(1)).images[0]
    image.save(a.out)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("unet", "vae", "train", "picture"))
    parser.add_argument("--arch", default="sd15")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--lora", type=int)
    parser.add_argument("--setting", default="best")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder")
    parser.add_argument("--vae")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--out")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    part = {"unet": unet, "vae": vae, "train": train, "picture": picture}[a.part]
    found, failed = {}, {}
    for setting in SETTINGS if a.setting == "best" else (a.setting,):
        try:
            found[setting] = part(a, setting)
        except Exception as error:  # A setting that this network or machine does not take is no reason to stop.
            failed[setting] = str(error)[:200]
    if not found:
        raise SystemExit(f"no setting works: {failed}")
    best = min(found, key=found.get)
    print(json.dumps({"median_s": found[best], "setting": best, "all": found, "failed": failed}))


if __name__ == "__main__":
    main()
