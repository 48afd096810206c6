"""stable-diffusion.cpp at work: one picture of few steps, whose log says what each part took."""
import re
import subprocess

TIMES = {
    "sampling": re.compile(r"sampling completed, taking ([\d.]+)s"),
    "decode": re.compile(r"decode_first_stage completed, taking ([\d.]+)s"),
}


def run(program, model, kind, out, threads, steps=1):
    """Seconds of a guided step and of the decoding, at 512x512."""
    command = [program, "--model", model, "--type", kind, "--prompt", "a cat on a chair", "--cfg-scale", "7.5",
               "--sampling-method", "euler", "--steps", str(steps), "--width", "512", "--height", "512", "--seed", "1",
               "--threads", str(threads), "--output", out, "--verbose"]
    result = subprocess.run(command, capture_output=True, text=True)
    log = result.stdout + result.stderr
    found = {part: pattern.search(log) for part, pattern in TIMES.items()}
    if result.returncode or not all(found.values()):
        raise RuntimeError(f"stable-diffusion.cpp failed: {log[-500:]}")
    return {"unet": float(found["sampling"][1]) / steps, "vae": float(found["decode"][1])}
