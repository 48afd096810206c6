"""The peers' packages and programs: a virtual environment, and stable-diffusion.cpp built from its source archive."""
import os
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGES = {
    "torch": ["torch", "diffusers", "transformers", "accelerate", "safetensors", "open_clip_torch", "peft"],
    "openvino": ["openvino"],
    "sdcpp": ["cmake", "ninja"],
}
SDCPP = "stable-diffusion-cpp-python"
SDCPP_FLAGS = ["-DGGML_NATIVE=ON", "-DGGML_LLAMAFILE=ON", "-DSD_BUILD_EXAMPLES=ON", "-DCMAKE_BUILD_TYPE=Release"]


def python(given, work, peers):
    """The interpreter that runs the peers: the given one, or that of an environment made in the work folder."""
    if given:
        return given
    folder = work / "venv"
    program = folder / "bin" / "python"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    # PyTorch makes the models and the tokenizer for all.
    wanted = [name for peer in ("torch", *peers) for name in PACKAGES[peer]]
    subprocess.run([program, "-m", "pip", "install", "--quiet", *dict.fromkeys(wanted)], check=True)
    return str(program)


def sdcpp(given, work, interpreter):
    """The program of stable-diffusion.cpp: the given one, or one built in the work folder."""
    if given:
        return given
    folder = work / "sdcpp"
    if found := _program(folder):
        return found
    folder.mkdir(parents=True, exist_ok=True)
    pip = [interpreter, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", SDCPP, SDCPP]
    subprocess.run(pip, cwd=folder, check=True)
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    source = next(folder.glob("*/vendor/stable-diffusion.cpp"))
    tools = {**os.environ, "PATH": f"{Path(interpreter).parent}{os.pathsep}{os.environ['PATH']}"}
    configure = ["cmake", "-S", source, "-B", folder / "build", "-G", "Ninja", *SDCPP_FLAGS]
    subprocess.run(configure, env=tools, check=True)
    subprocess.run(["cmake", "--build", folder / "build"], env=tools, check=True)
    return _program(folder) or sys.exit(f"the build in {folder} made no program")


def _program(folder):
    """The command line program was renamed from sd to sd-cli."""
    paths = [folder / "build" / "bin" / name for name in ("sd-cli", "sd")]
    return next((str(path) for path in paths if path.exists()), None)
