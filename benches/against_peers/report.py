"""From measurements to the table in docs/performance.md."""
import statistics

BEGIN = "<!-- against-peers: begin -->"
END = "<!-- against-peers: end -->"


def quantity(row, value):
    return f"{value / 2**30:.2f} GiB" if row.measure == "peak_bytes" else f"{value:.2f} s"


def table(rows, measured):
    """Markdown; `measured[row][side]` is a list with one number for each round, "velatura" among the sides. The ratio of a
    round is that of two neighbours in time."""
    lines = ["| | here | against | there | ratio, median of the rounds | range | aim |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        sides = measured.get(row.name, {})
        ours = sides.get("velatura", [])
        for peer in row.peers:
            theirs = sides.get(peer, [])
            # A round in which a side failed has no ratio.
            pairs = [(o, t) for o, t in zip(ours, theirs) if o and t]
            if not pairs:
                continue
            ratios = [t / o for o, t in pairs]
            here, there = (statistics.median(side) for side in zip(*pairs))
            lines.append(
                f"| {row.title} | {quantity(row, here)} | {peer} | {quantity(row, there)} "
                f"| **{statistics.median(ratios):.2f}** | {min(ratios):.2f} to {max(ratios):.2f} | {row.aim} |")
    return "\n".join(lines)


def write(path, text):
    """Puts the text between the two marks of a file; at its end where it has none."""
    old = path.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{text}\n{END}"
    if BEGIN in old and END in old:
        before, rest = old.split(BEGIN, 1)
        new = before + block + rest.split(END, 1)[1]
    else:
        new = f"{old.rstrip()}\n\n## Against other engines\n\n{block}\n"
    path.write_text(new, encoding="utf-8")
