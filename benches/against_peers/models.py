"""Models of the published shapes with random weights, in diffusers. Run as a program, it writes the folders that whole
pictures are made from: `sd15` and `lcm` (with the tiny autoencoder `taesd` beside them)."""
import argparse
import gzip
import json
from pathlib import Path

import torch

UNETS = {
    "sd15": dict(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3),
    "sdxl": dict(
        sample_size=128, cross_attention_dim=2048, attention_head_dim=(5, 10, 20), block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",)),
}
VAE = dict(
    latent_channels=4, layers_per_block=2, block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
TEXT = dict(
    vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=768, bos_token_id=49406, eos_token_id=49407)
NOISE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def random(build):
    """The module that `build` makes, without its slow initialisation: Gaussian weights that keep activations near one."""
    with torch.device("meta"):
        module = build()
    module = module.to_empty(device="cpu").eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() > 1:
                p.normal_(0, (p[0].numel()) ** -0.5)
            else:
                p.normal_(1.0 if name.endswith("weight") else 0.0, 0.02)
        for name, b in module.named_buffers():
            if name.endswith("position_ids"):
                b.copy_(torch.arange(b.numel()).view(b.shape))
    return module


def unet(arch, **more):
    from diffusers import UNet2DConditionModel
    return random(lambda: UNet2DConditionModel(**UNETS[arch], **more))


def vae():
    from diffusers import AutoencoderKL
    return random(lambda: AutoencoderKL(**VAE))


def inputs(arch, batch):
    """What a U-Net is given: latents, timestep, text, and for SDXL what it is told beside."""
    torch.manual_seed(1)
    config = UNETS[arch]
    side = config["sample_size"]
    sample = torch.randn(batch, 4, side, side)
    text = torch.randn(batch, 77, config["cross_attention_dim"])
    added = {}
    if arch == "sdxl":
        added = {"text_embeds": torch.randn(batch, 1280), "time_ids": torch.full((batch, 6), 1024.0)}
    return sample, torch.tensor(500), text, added


def tokenizer(folder):
    """CLIP's vocabulary as transformers wants it, from the copy inside open_clip."""
    from importlib.util import find_spec
    from transformers import CLIPTokenizer
    # Found, not imported, which would ask for torchvision.
    packed = Path(find_spec("open_clip").origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.open(packed, "rt", encoding="utf-8").read().split("\n")[1:49152 - 256 - 2 + 1]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(b) for b in visible] + [chr(256 + n) for n in range(256 - len(visible))]
    words = alphabet + [c + "</w>" for c in alphabet] + ["".join(m.split()) for m in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token="<|endoftext|>",
                         model_max_length=77)


def pipeline(folder, scheduler, **unet_options):
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel
    text = random(lambda: CLIPTextModel(CLIPTextConfig(**TEXT)))
    pipe = StableDiffusionPipeline(
        vae=vae(), text_encoder=text, tokenizer=tokenizer(folder / "tokenizer"), unet=unet("sd15", **unet_options),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.to(torch.float16).save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("which", nargs="+", choices=("sd15", "lcm"))
    a = parser.parse_args()
    from diffusers import AutoencoderTiny, DDIMScheduler, LCMScheduler
    if "sd15" in a.which:
        # With the scheduler that both sides sample by.
        pipeline(a.folder / "sd15", DDIMScheduler(**NOISE, steps_offset=1, set_alpha_to_one=False, clip_sample=False))
    if "lcm" in a.which:
        pipeline(a.folder / "lcm", LCMScheduler(**NOISE), time_cond_proj_dim=256)
        random(AutoencoderTiny).to(torch.float16).save_pretrained(a.folder / "taesd")


if __name__ == "__main__":
    main()
