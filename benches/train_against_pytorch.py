#!/usr/bin/env python3
"""Times the training step of a diffusion recipe here and in PyTorch on the same machine, in turn.

    cargo build --release
    python3 benches/train_against_pytorch.py recipes/diffusion-128.toml [--batch 64] [--threads 2] [--rounds 3]

Needs the Python packages torch, diffusers and transformers. The PyTorch side builds the same U-Net and text transformer
with diffusers and transformers from the recipe's own fields, and trains them the usual way: bf16 autocast, AdamW (fused),
gradient clipping, in NCHW and in channels last, of which the better counts. Both sides do the whole step: forward,
backward, clipping, update, moving average. Here the update is the recipe's (Muon costs more than AdamW); there it is always
AdamW. Prints one JSON object.
"""
import argparse
import json
import statistics
import subprocess
import time
import tomllib

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

# Fields of the recipe that diffusers does not know, or that only matter to how weights begin.
OURS = {"pooled_projection_dim", "zero_init"}


def networks(recipe, vocabulary):
    fields = {k: v for k, v in recipe["unet"].items() if k not in OURS}
    # What diffusers calls the head dimension is the number of heads.
    if "num_attention_heads" in fields:
        fields["attention_head_dim"] = fields.pop("num_attention_heads")
    pooled = recipe["unet"].get("pooled_projection_dim")
    if pooled:
        # The same two linear layers added to the timestep's embedding, under diffusers' name for them.
        fields |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": pooled}
    unet = UNet2DConditionModel(**fields)
    text = recipe["text"]
    encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=text["hidden_size"], intermediate_size=text["intermediate_size"],
        num_hidden_layers=text.get("num_hidden_layers", text.get("layers", 2)),
        num_attention_heads=text.get("num_attention_heads", text.get("heads", 2)),
        max_position_embeddings=recipe.get("context", 32), eos_token_id=1, bos_token_id=0, pad_token_id=2))
    return unet, encoder, bool(pooled)


def step_of(recipe, batch, side, channels_last):
    unet, encoder, pooled = networks(recipe, 512)
    if channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    parameters = [*unet.parameters(), *encoder.parameters()]
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=5e-4, fused=True)
    latents = torch.randn(batch, recipe["unet"]["in_channels"], side, side)
    if channels_last:
        latents = latents.to(memory_format=torch.channels_last)
    tokens = torch.randint(3, 512, (batch, recipe.get("context", 32)))
    tokens[:, -1] = 1

    def step():
        noise, t = torch.randn_like(latents), torch.rand(batch)
        noisy = latents * (1 - t[:, None, None, None]) + noise * t[:, None, None, None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            said = encoder(tokens)
            labels = {"class_labels": said.pooler_output} if pooled else {}
            out = unet(noisy, t * 1000, said.last_hidden_state, **labels).sample
        loss = (out.float() - (noise - latents)).pow(2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 0.001)
    return step


def median_step(step, runs):
    step()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("recipe")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--side", type=int, default=16, help="height and width of the latent")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--runs", type=int, default=5, help="steps timed in each round")
    p.add_argument("--velatura", default="target/release/velatura")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    with open(a.recipe, "rb") as f:
        recipe = tomllib.load(f)
    torch_steps = {form: step_of(recipe, a.batch, a.side, form == "channels last") for form in ("NCHW", "channels last")}
    ours, theirs = [], {form: [] for form in torch_steps}
    for _ in range(a.rounds):
        out = subprocess.run([a.velatura, "bench", "train", "--recipe", a.recipe, "--batch", str(a.batch),
                              "--threads", str(a.threads), "--runs", str(a.runs), "--json"],
                             check=True, capture_output=True, text=True).stdout
        ours.append(json.loads(out)["median_s"])
        for form, step in torch_steps.items():
            theirs[form].append(median_step(step, a.runs))
    best = min(theirs, key=lambda form: statistics.median(theirs[form]))
    ratios = [t / o for t, o in zip(theirs[best], ours)]
    print(json.dumps({
        "batch": a.batch, "threads": a.threads, "velatura_s": round(statistics.median(ours), 4),
        "pytorch_s": round(statistics.median(theirs[best]), 4), "pytorch_form": best, "pytorch": torch.__version__,
        "ratio": round(statistics.median(ratios), 3), "ratios": [round(r, 3) for r in ratios]}))


if __name__ == "__main__":
    main()
