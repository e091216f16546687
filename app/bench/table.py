"""A benchmark's report as tables for people, and the ratios of two reports."""

from typing import Any

from fastvlm_mlx.app import machine
from fastvlm_mlx.files.disk_space import format_size

# Rows of the table: the report's name, and what people read.
ROWS = {
    "decode": "decode image",
    "preprocess": "preprocess",
    "encode": "encode",
    "project": "project",
    "prefill": "prefill",
    "first_token": "first token",
    "ttft": "TTFT (path and prompt to first text)",
    "paper_ttft": "paper's TTFT (encode + visual prefill)",
    "cold_ttft": "cold TTFT (from process start)",
    "follow_up_ttft": "follow-up TTFT",
    "decode_token": "one token of decoding",
}


def table(report: dict[str, Any]) -> str:
    """The whole report: machine, one block per resolution, what was left out."""
    settings, speed = report["settings"], report["speed"]
    lines = [
        f"model     {report['model']}, {report['dtype']}",
        f"machine   {machine.line(report['machine'])}",
        f"limits    {speed['flops'] / 1e9:.0f} GFLOP/s in matrix products, "
        f"{speed['bytes'] / 1e9:.1f} GB/s copying, measured",
        f"runs      {settings['runs']} after {settings['warmup']} of warm-up; "
        f"image {settings['image'][0]}x{settings['image'][1]} "
        f"{settings['image'][2]}",
    ]
    for result in report["results"]:
        lines += ["", *_block(result)]
    for what, reason in report["not_measured"].items():
        lines += ["", f"not measured: {what}: {reason}"]
    return "\n".join(lines)


def _block(result: dict[str, Any]) -> list[str]:
    lines = [
        f"{result['resolution']} px, encoder {result['encoder']}: "
        f"{result['prompt_tokens']} prompt tokens, {result['visual_tokens']} of them "
        f"visual, {result['cached_tokens']} cached",
        f"{'milliseconds':40}{'median':>10}{'p95':>10}{'of limit':>10}",
    ]
    for name, words in ROWS.items():
        if name in result["seconds"]:
            value = result["seconds"][name]
            share = result["limits"].get(name, {}).get("fraction")
            lines.append(
                f"{words:40}{milliseconds(value['median']):>10}"
                f"{milliseconds(value['p95']):>10}"
                f"{'' if share is None else f'{share:.0%}':>10}"
            )
    if result["generation_tps"]:
        lines.append(f"{'tokens per second':40}{result['generation_tps']:>10.1f}")
    if "peak_memory" in result:
        lines.append(
            f"peak memory: {format_size(result['peak_memory'])} for a whole process, "
            f"{format_size(result['peak_mlx'])} of it in MLX arrays"
        )
    if result["predictions"]:
        lines.append(
            "prediction (not a measurement: 70% of the GPU's 16-bit peak, no idle"
            " time):"
        )
    for chip in result["predictions"]:
        rate = chip["generation_tps"]
        lines.append(
            f"  {chip['chip']:<20} TTFT {milliseconds(chip['ttft']):>6} ms, paper's "
            f"{milliseconds(chip.get('paper_ttft', 0)):>6} ms, "
            f"{rate or 0:>5.0f} tokens per second"
        )
    return lines


def milliseconds(seconds: float) -> str:
    """With as many digits as a person needs: 0.41, 5.3, 87, 1234."""
    value = 1000 * seconds
    digits = 0 if value >= 20 else 1 if value >= 2 else 2
    return f"{value:.{digits}f}"


def ratios(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Per encoder and resolution in both reports: seconds of the second, divided by
    those of the first. Below 1 is faster."""
    found = []
    for new in after["results"]:
        for old in before["results"]:
            if any(new[key] != old[key] for key in ("encoder", "resolution")):
                continue
            medians = [
                {name: value["median"] for name, value in result["seconds"].items()}
                for result in (old, new)
            ]
            shared = [
                name
                for name in ROWS
                if all(medians_of.get(name) for medians_of in medians)
            ]
            found.append(
                {
                    "encoder": new["encoder"],
                    "resolution": new["resolution"],
                    "before": {name: medians[0][name] for name in shared},
                    "after": {name: medians[1][name] for name in shared},
                    "ratio": {
                        name: medians[1][name] / medians[0][name] for name in shared
                    },
                }
            )
    return found


def comparison(
    before: dict[str, Any], after: dict[str, Any], found: list[dict[str, Any]]
) -> str:
    """Both reports side by side, with a warning where their conditions differ."""
    lines = []
    for label, report in (("before", before), ("after", after)):
        lines.append(f"{label:<8}  {report['model']}, {report['dtype']}")
        lines.append(f"{'':8}  {machine.line(report['machine'])}")
    differing = [
        name
        for name in ("chip", "device", "blas")
        if before["machine"][name] != after["machine"][name]
    ]
    differing += [
        name
        for name in ("image", "prompt", "tiles", "max_tokens")
        if before["settings"][name] != after["settings"][name]
    ]
    if differing:
        lines.append(f"note      the conditions differ: {', '.join(differing)}")
    for case in found:
        lines += [
            "",
            f"{case['resolution']} px, encoder {case['encoder']}",
            f"{'milliseconds':40}{'before':>10}{'after':>10}{'ratio':>10}",
        ]
        lines += [
            f"{ROWS[name]:40}{milliseconds(case['before'][name]):>10}"
            f"{milliseconds(case['after'][name]):>10}{ratio:>9.2f}x"
            for name, ratio in case["ratio"].items()
        ]
    return "\n".join(lines)
