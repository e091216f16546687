"""The tables of the report in Markdown: this machine's ratios and the paper's."""

from collections.abc import Iterator

from benchmarks.paper import figures
from benchmarks.paper.encoders import ENCODERS, FASTVITHD
from benchmarks.paper.measure import Bench, Key, Time
from fastvlm_mlx.app.charts import number

TILING = (512, 768, 1024, 1536)
TILING_MODEL = "Qwen2-0.5B"
MULTI_SCALE_RESOLUTION = 768


def wanted() -> Iterator[Key]:
    """Everything that the report needs to know."""
    for table in figures.ENCODER_TABLES.values():
        for row in table:
            yield row.encoder, row.resolution, 1
    for row in figures.TABLE_10:
        for crops in row.encoders:
            yield crops.encoder, crops.resolution, 1
        yield row.language, row.tokens
    for resolution in TILING:
        for key in (direct(resolution), tiled(resolution)):
            yield from key
    for name in figures.MULTI_SCALE:
        yield name, MULTI_SCALE_RESOLUTION, 1


def direct(resolution: int) -> tuple[Key, Key]:
    """The whole image at `resolution`: what is encoded, what is prefilled."""
    tokens = ENCODERS[FASTVITHD].tokens(resolution)
    return (FASTVITHD, resolution, 1), (TILING_MODEL, tokens)


def tiled(resolution: int) -> tuple[Key, Key]:
    """The same in 2x2 tiles and an overview, each of half the side, as one batch."""
    tokens = 5 * ENCODERS[FASTVITHD].tokens(resolution // 2)
    return (FASTVITHD, resolution // 2, 5), (TILING_MODEL, tokens)


def show(time: Time) -> str:
    """Seconds, with a mark if they were computed."""
    return number(time.seconds) + ("" if time.measured else " *")


def encoder_table(bench: Bench, rows: tuple[figures.Encode, ...]) -> list[str]:
    """Seconds and ratios; the first row is what the others are divided by."""
    lines = [
        "| encoder | px | tokens | parameters | paper ms | here s | of limit |"
        " paper, ratio | here, ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    base = bench.time((rows[0].encoder, rows[0].resolution, 1)).seconds
    for row in rows:
        encoder = ENCODERS[row.encoder]
        time = bench.time((row.encoder, row.resolution, 1))
        lines.append(
            f"| {row.encoder} | {row.resolution} | {encoder.tokens(row.resolution)} |"
            f" {encoder.published:g}M | {row.milliseconds:g} | {show(time)} |"
            f" {time.fraction:.0%} | {row.milliseconds / rows[0].milliseconds:.2f}x |"
            f" {time.seconds / base:.2f}x |"
        )
    return lines


def system(bench: Bench, row: figures.System) -> tuple[Time, Time]:
    """Encoding all crops with all encoders, and prefilling the visual tokens."""
    parts = [bench.time((c.encoder, c.resolution, 1)) for c in row.encoders]
    counted = list(zip(parts, row.encoders, strict=True))
    seconds = sum(part.seconds * crops.images for part, crops in counted)
    least = sum(p.seconds * p.fraction * crops.images for p, crops in counted)
    measured = all(part.measured for part in parts)
    encode = Time(seconds, measured, least / seconds)
    return encode, bench.time((row.language, row.tokens))


def system_table(bench: Bench) -> list[str]:
    lines = [
        "| system | encoder | language model | px | tokens | paper ms: encode + prefill"
        " = TTFT | here s: encode + prefill = TTFT | paper, ratio | here, ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = figures.TABLE_10[0]
    base = sum(time.seconds for time in system(bench, first))
    for row in figures.TABLE_10:
        encode, prefill = system(bench, row)
        total = encode.seconds + prefill.seconds
        encoded, prefilled, ttft = row.milliseconds
        names = " + ".join(crops.encoder for crops in row.encoders)
        sizes = " + ".join(
            f"{c.images} x {c.resolution}" if c.images > 1 else f"{c.resolution}"
            for c in row.encoders
        )
        lines.append(
            f"| {row.name} | {names} | {row.language} | {sizes} | {row.tokens} |"
            f" {encoded:g} + {prefilled:g} = {ttft:g} |"
            f" {show(encode)} + {show(prefill)} = {number(total)} |"
            f" {ttft / first.milliseconds[2]:.2f}x | {total / base:.2f}x |"
        )
    return lines


def claims(bench: Bench) -> list[str]:
    """The factors of the abstract."""
    rows = {(row.name, row.resolution, row.language): row for row in figures.TABLE_10}
    lines = [
        "| slower | faster | the paper's text | the paper's table 10 | here |",
        "|---|---|---|---|---|",
    ]
    for slow, fast, claimed in figures.CLAIMS:
        ours = [
            sum(t.seconds for t in system(bench, rows[key])) for key in (slow, fast)
        ]
        theirs = [rows[key].milliseconds[2] for key in (slow, fast)]
        names = [f"{name} at {px} px, {model}" for name, px, model in (slow, fast)]
        lines.append(
            f"| {names[0]} | {names[1]} | {claimed:g}x | {theirs[0] / theirs[1]:.1f}x |"
            f" {ours[0] / ours[1]:.1f}x |"
        )
    return lines


def tiling_table(bench: Bench) -> list[str]:
    lines = [
        "| px | direct: tokens | encode s | TTFT s | 2x2 and overview: tokens |"
        " encode s | TTFT s | TTFT, 2x2 / direct |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for resolution in TILING:
        cells, totals = [], []
        for keys in (direct(resolution), tiled(resolution)):
            encode, prefill = (bench.time(key) for key in keys)
            totals.append(encode.seconds + prefill.seconds)
            mark = "" if encode.measured and prefill.measured else " *"
            cells += [str(keys[1][1]), show(encode), f"{number(totals[-1])}{mark}"]
        ratio = totals[1] / totals[0]
        lines.append(f"| {resolution} | {' | '.join(cells)} | {ratio:.2f}x |")
    return lines


def multi_scale_table(bench: Bench) -> list[str]:
    lines = ["| features | here s | ratio |", "|---|---|---|"]
    names = figures.MULTI_SCALE
    times = [bench.time((name, MULTI_SCALE_RESOLUTION, 1)) for name in names]
    for name, found in zip(names, times, strict=True):
        ratio = found.seconds / times[0].seconds
        lines.append(f"| {name} | {show(found)} | {ratio:.3f}x |")
    return lines


def computed_table(bench: Bench) -> list[str]:
    """How each time that was not measured came about."""
    lines = [
        "| computed | GFLOP | at | share of the limit, from |",
        "|---|---|---|---|",
    ]
    for key in dict.fromkeys(wanted()):
        time = bench.time(key)
        if time.measured:
            continue
        source = bench.source(key)
        taken = "the median of all" if source is None else describe(source)
        lines.append(
            f"| {describe(key)} | {bench.work(key).flops / 1e9:.0f} |"
            f" {time.fraction:.0%} | {taken} |"
        )
    return lines


def describe(key: Key) -> str:
    """A network and its size in words."""
    if len(key) == 2:
        return f"{key[0]}, {key[1]} tokens"
    images = f", {key[2]} images" if key[2] > 1 else ""
    return f"{key[0]}, {key[1]} px{images}"
