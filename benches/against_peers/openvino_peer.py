"""OpenVINO at work, with static shapes; prints one JSON object. Converted models are kept in a folder."""
import argparse
import json
from pathlib import Path

import openvino as ov
import torch

from against_peers import models
from against_peers.torch_peer import median


class Unet(torch.nn.Module):
    def __init__(self, arch):
        super().__init__()
        self.inner = models.unet(arch)

    def forward(self, sample, t, text, text_embeds=None, time_ids=None):
        added = None if text_embeds is None else {"text_embeds": text_embeds, "time_ids": time_ids}
        return self.inner(sample, t, text, added_cond_kwargs=added, return_dict=False)[0]


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = models.vae()

    def forward(self, latent):
        return self.inner.decode(latent, return_dict=False)[0]


def example(a):
    if a.part == "vae":
        return (torch.randn(1, 4, 64, 64),)
    sample, t, text, added = models.inputs(a.arch, a.batch)
    return (sample, t, text, *added.values())


def converted(a, given):
    path = Path(a.folder) / f"{a.part}-{a.arch}-{a.batch}.xml"
    if not path.exists():
        module = Decoder() if a.part == "vae" else Unet(a.arch)
        with torch.no_grad():
            model = ov.convert_model(module, example_input=given, input=[list(x.shape) for x in given])
        path.parent.mkdir(parents=True, exist_ok=True)
        ov.save_model(model, path)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("unet", "vae"))
    parser.add_argument("--arch", default="sd15")
    parser.add_argument("--precision", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", required=True)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    given = example(a)
    core = ov.Core()
    compiled = core.compile_model(core.read_model(converted(a, given)), "CPU", {
        "INFERENCE_PRECISION_HINT": a.precision, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": a.threads})
    request = compiled.create_infer_request()
    arrays = [x.numpy() for x in given]
    print(json.dumps({"median_s": median(lambda: request.infer(arrays), a.runs), "setting": f"static, {a.precision}"}))


if __name__ == "__main__":
    main()
