"""The driver: rounds of all rows, each with Velatura and its peers in turn."""
import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from against_peers import environment, report, sdcpp, velatura
from against_peers.rows import ROWS

HERE = Path(__file__).resolve().parents[1]


def arguments():
    parser = argparse.ArgumentParser(
        prog="against-peers", description="Runs Velatura and other engines on the same work in alternation and writes the "
        "table of ratios (their time over ours) into docs/performance.md.")
    names = [row.name for row in ROWS]
    parser.add_argument("--only", help=f"rows, comma separated: {','.join(names)}")
    parser.add_argument("--peers", default="torch,openvino,sdcpp", help="engines, comma separated (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each side in each round; the median counts")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--python", help="an interpreter that has the peers' packages, in place of a new environment")
    parser.add_argument("--sdcpp", help="the program of stable-diffusion.cpp, in place of a new build")
    parser.add_argument("--work", type=Path, default=Path("target/against-peers"),
                        help="folder of environment, build and models, some 15 GB (default: %(default)s)")
    parser.add_argument("--velatura", default="target/release/velatura")
    parser.add_argument("--write", type=Path, default=HERE.parent / "docs/performance.md",
                        help="the file that gets the table between its two marks; `-` prints it alone")
    parser.add_argument("--json", type=Path, help="a file for all measurements")
    a = parser.parse_args()
    a.only = a.only.split(",") if a.only else names
    a.peers = a.peers.split(",")
    for given, known in ((a.only, names), (a.peers, list(environment.PACKAGES))):
        if unknown := set(given) - set(known):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    a.work = a.work.resolve()
    return a


class Bench:
    """What is measured with, and what was found out on the way."""

    def __init__(self, a):
        self.a = a
        a.work.mkdir(parents=True, exist_ok=True)
        self.python = environment.python(a.python, a.work, a.peers)
        self.sdcpp = environment.sdcpp(a.sdcpp, a.work, self.python) if "sdcpp" in a.peers else None
        self.env = {"PYTHONPATH": str(HERE)}
        # The best setting of each of PyTorch's works, found in the first round.
        self.settings = {}
        # What one run of a process gives beside what was asked for.
        self.kept = {}

    def rows(self):
        chosen = [row for row in ROWS if row.name in self.a.only]
        for row in chosen:
            engine = lambda peer: "torch" if peer.engine == "recipe" else peer.engine  # noqa: E731
            row.peers = {name: peer for name, peer in row.peers.items() if engine(peer) in self.a.peers}
        return [row for row in chosen if row.peers]

    def models(self, rows):
        """Writes the folders of models that the rows need and that are not there yet."""
        wanted = {row.picture for row in rows if row.picture}
        if any(peer.engine == "sdcpp" for row in rows for peer in row.peers.values()):
            wanted.add("sd15")
        if missing := [name for name in sorted(wanted) if not (self.a.work / name / "model_index.json").exists()]:
            velatura.checked([self.python, "-m", "against_peers.models", self.a.work, *missing], self.env)
        self.single = self.a.work / "sd15.safetensors"
        if "sd15" in wanted and self.sdcpp and not self.single.exists():
            velatura.checked([self.a.velatura, "convert", self.a.work / "sd15", self.single])

    def ours(self, row):
        if row.name == "recipe":
            return self.recipe_step(row)["velatura_s"]
        if not row.picture:
            return velatura.bench(self.a.velatura, row.ours, self.a.threads, self.a.runs, row.env)[row.measure]
        extra = ["--vae", self.a.work / "taesd", "--guidance", "1"] if row.picture == "lcm" else []
        return self.once("velatura", row, lambda: velatura.picture(
            self.a.velatura, self.a.work / row.picture, [*row.ours, *extra], self.a.threads, self.a.work / "ours.png"))

    def theirs(self, name, row, peer):
        return getattr(self, peer.engine)(name, row, peer)

    def torch(self, name, row, peer):
        key = (name, *peer.arguments)
        setting = self.settings.get(key, "best")
        command = [self.python, "-m", "against_peers.torch_peer", *peer.arguments, "--threads", self.a.threads,
                   "--runs", self.a.runs]
        env = {**self.env, **peer.env}
        if row.picture:
            command += ["--folder", self.a.work / row.picture, "--out", self.a.work / "theirs.png", "--setting", "channels-last"]
            command += ["--vae", self.a.work / "taesd", "--guidance", "1"] if row.picture == "lcm" else []
            return self.once(name, row, lambda: velatura.process(command, env))
        found = json.loads(velatura.checked([*command, "--setting", setting], env).splitlines()[-1])
        self.settings[key] = found["setting"]
        return found["median_s"]

    def openvino(self, name, row, peer):
        command = [self.python, "-m", "against_peers.openvino_peer", *peer.arguments, "--threads", self.a.threads,
                   "--runs", self.a.runs, "--folder", self.a.work / "openvino"]
        return json.loads(velatura.checked(command, self.env).splitlines()[-1])["median_s"]

    def recipe_step(self, row):
        """Both sides of one round, which the script by itself runs in turn."""
        [peer] = row.peers.values()
        recipes = [HERE.parent / recipe for recipe in peer.arguments]
        script = [self.python, HERE / "train_against_pytorch.py", *recipes, "--threads", self.a.threads, "--rounds", 1,
                  "--runs", self.a.runs, "--velatura", self.a.velatura]
        self.kept["recipe"] = json.loads(velatura.checked(script, self.env).splitlines()[-1])
        return self.kept["recipe"]

    def recipe(self, name, row, peer):
        if "recipe" not in self.kept:
            raise RuntimeError("not run, since the script failed")
        return self.kept.pop("recipe")["pytorch_s"]

    def sdcpp_part(self, kind, part):
        """One run of a process for two rows, as in `once`."""
        if (kind, part) in self.kept:
            return self.kept.pop((kind, part))
        found = sdcpp.run(self.sdcpp, self.single, kind, self.a.work / "theirs.png", self.a.threads)
        if {"unet-bf16", "vae"} <= set(self.a.only):
            self.kept.update({(kind, other): found[other] for other in ("unet", "vae") if other != part})
        return found[part]

    @staticmethod
    def read(*folders):
        """Brings files into memory, so that neither side waits for the disk."""
        for file in (file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()):
            with file.open("rb") as stream:
                while stream.read(16 << 20):
                    pass

    def once(self, side, row, run):
        """One run of a process for both rows, that of its time and that of its memory."""
        key = (side, row.picture)
        other = "memory" if row.name == "picture" else "picture"
        if (key, row.name) in self.kept:
            return self.kept.pop((key, row.name))[row.measure]
        self.read(self.a.work / row.picture, self.a.work / "taesd")
        found = run()
        if row.name in ("picture", "memory") and other in self.a.only:
            self.kept[(key, other)] = found
        return found[row.measure]

    def measure(self, number, row, measured):
        """All sides of a row in turn; what was measured so far is kept in the file of measurements."""
        sides = [("velatura", lambda: self.ours(row))]
        for name, peer in row.peers.items():
            if peer.engine == "sdcpp":
                kind, part = peer.arguments
                sides.append((name, lambda kind=kind, part=part: self.sdcpp_part(kind, part)))
            else:
                sides.append((name, lambda name=name, peer=peer: self.theirs(name, row, peer)))
        for name, measure in sides:
            start = time.perf_counter()
            try:
                value = measure()
            except RuntimeError as error:
                value = None
                print(f"round {number + 1}, {row.name}, {name}: {error}", file=sys.stderr)
            measured.setdefault(row.name, {}).setdefault(name, []).append(value)
            if value is not None:
                print(f"round {number + 1}, {row.name}, {name}: {report.quantity(row, value)} "
                      f"({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
            if self.a.json:
                self.a.json.write_text(json.dumps({
                    "rounds": number + 1, "threads": self.a.threads, "machine": platform.processor(),
                    "settings": {" ".join(map(str, k)): v for k, v in self.settings.items()}, "measured": measured}, indent=1))


def main():
    a = arguments()
    bench = Bench(a)
    rows = bench.rows()
    bench.models(rows)
    measured = {}
    try:
        for number in range(a.rounds):
            for row in rows:
                bench.measure(number, row, measured)
    except KeyboardInterrupt:
        print("interrupted: what was measured is printed, and the table in the file left as it is", file=sys.stderr)
        a.write = Path("-")
    text = report.table(rows, measured)
    print(text)
    if str(a.write) != "-":
        said = f"`benches/against-peers --rounds {a.rounds} --runs {a.runs} --threads {a.threads}`; ratios are their time (or memory) over ours."
        report.write(a.write, f"{said}\n\n{text}")
