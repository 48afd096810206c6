"""Velatura at work."""
import json
import os
import subprocess
import time


def bench(program, arguments, threads, runs, env=None):
    """The JSON of `velatura bench`."""
    command = [program, "bench", *arguments, "--threads", str(threads), "--runs", str(runs), "--json"]
    return json.loads(checked(command, env))


def picture(program, model, arguments, threads, out):
    """Wall time and peak memory of `velatura generate`."""
    out.unlink(missing_ok=True)
    command = [program, "generate", "a cat on a chair", "--model", model, "--seed", "1", "--threads", str(threads),
               "--output", out, *arguments]
    return process(command)


def checked(command, env=None):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, env={**os.environ, **(env or {})})
    if result.returncode:
        raise RuntimeError((result.stderr or result.stdout).strip()[-500:])
    return result.stdout


def process(command, env=None):
    """Wall time of a whole process, and its largest resident memory."""
    start = time.perf_counter()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                             env={**os.environ, **(env or {})})
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(said.decode(errors="replace").strip()[-500:])
    return {"median_s": time.perf_counter() - start, "peak_bytes": usage.ru_maxrss * 1024}
