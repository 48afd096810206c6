"""The rows of the table: what is run on both sides, and what is aimed at."""
from dataclasses import dataclass, field


@dataclass
class Peer:
    """A peer's side of a row: which engine, and its arguments."""
    engine: str
    arguments: list = field(default_factory=list)
    env: dict = field(default_factory=dict)


@dataclass
class Row:
    """One line of the table. `ours` are arguments of `velatura bench`, or of `velatura generate` for pictures."""
    name: str
    title: str
    ours: list
    peers: dict
    aim: str
    env: dict = field(default_factory=dict)
    picture: str = ""
    measure: str = "median_s"


SDCPP = {f"stable-diffusion.cpp {kind}": kind for kind in ("f16", "q8_0")}
AVX2 = {"DNNL_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
GUIDED = ["unet", "--arch", "sd15", "--batch", "2"]
OPENVINO_UNET = Peer("openvino", [*GUIDED, "--precision", "bf16"])
TWENTY = ["--steps", "20", "--guidance", "7.5"]

ROWS = [
    Row("unet-bf16", "SD1.5 guided step (batch 2), default precision", [*GUIDED, "--precision", "bf16"], {
        "PyTorch bf16": Peer("torch", GUIDED),
        "OpenVINO bf16": OPENVINO_UNET,
        **{name: Peer("sdcpp", [kind, "unet"]) for name, kind in SDCPP.items()},
    }, "2.0, 1.4, 9, 9"),
    Row("unet-int8", "the same, int8", [*GUIDED, "--precision", "int8"], {"OpenVINO bf16": OPENVINO_UNET}, "1.8"),
    Row("vae", "VAE decode at 512", ["vae", "--size", "512", "--precision", "bf16"], {
        "PyTorch bf16": Peer("torch", ["vae"]),
        "OpenVINO bf16": Peer("openvino", ["vae"]),
        **{name: Peer("sdcpp", [kind, "vae"]) for name, kind in SDCPP.items()},
    }, "2.0, 1.6, -, -"),
    Row("sdxl", "SDXL guided step at 1024", ["unet", "--arch", "sdxl", "--batch", "2", "--precision", "bf16"],
        {"PyTorch bf16": Peer("torch", ["unet", "--arch", "sdxl", "--batch", "2"])}, "1.7"),
    Row("unet-f32", "SD1.5 guided step, f32", [*GUIDED, "--precision", "f32"],
        {"PyTorch f32": Peer("torch", [*GUIDED, "--dtype", "float32"])}, "2.0"),
    Row("unet-avx2", "SD1.5 guided step held to AVX2, f32", [*GUIDED, "--precision", "f32"],
        {"PyTorch f32, AVX2": Peer("torch", [*GUIDED, "--dtype", "float32"], AVX2)}, "1.6", {"VELATURA_ISA": "avx2"}),
    Row("train", "training step, SD1.5 U-Net, all weights, checkpointed, batch 1",
        ["train", "--arch", "sd15", "--checkpointing"],
        {"PyTorch bf16 autocast": Peer("torch", ["train", "--arch", "sd15"])}, "2.2"),
    Row("train-lora", "training step, SD1.5 LoRA of rank 16, batch 1", ["train", "--arch", "sd15", "--lora", "16"],
        {"PyTorch bf16 autocast": Peer("torch", ["train", "--arch", "sd15", "--lora", "16"])}, "2.0"),
    Row("recipe", "training step of the shipped recipe, optimizer included", [],
        {"PyTorch bf16 autocast, AdamW": Peer("recipe", ["recipes/diffusion-128.toml"])}, "1.6"),
    Row("picture", "20 guided steps of SD1.5, process start to PNG", TWENTY,
        {"diffusers bf16": Peer("torch", ["picture", *TWENTY])}, "70 s here", picture="sd15"),
    Row("memory", "peak memory of that", TWENTY,
        {"diffusers bf16": Peer("torch", ["picture", *TWENTY])}, "1/0.7", picture="sd15", measure="peak_bytes"),
    Row("lcm", "4 steps of LCM with TAESD, no guidance, process start to PNG", ["--steps", "4"],
        {"diffusers bf16": Peer("torch", ["picture", "--steps", "4"])}, "8 s here", picture="lcm"),
]
