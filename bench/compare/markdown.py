"""A comparison as a Markdown document."""

from collections.abc import Sequence

from bench.compare.results import Case, Comparison, Figure, ScenarioResult

_UNITS = {
    "ttft_ms": "TTFT ms",
    "tpot_ms": "TPOT ms",
    "itl_ms": "ITL ms",
    "e2e_ms": "E2E ms",
    "requests_per_s": "requests/s",
    "output_tokens_per_s": "tokens/s",
    "start_s": "start s",
    "cpu_s": "CPU s",
    "cpu_us_per_token": "CPU us/token",
    "cpu_us_per_added_token": "CPU us/added token",
    "cpu_us_per_request": "CPU us/request",
    "rss_mib": "RSS MiB",
    "peak_rss_mib": "peak RSS MiB",
    "idle_share": "device idle, share",
    "idle_gap_us": "device idle between steps, us",
    "steps": "calls that gave the device work",
    "generator_cpu_share": "load generator, cores",
    "long_prompts_per_s": "long prompts/s",
    "delivered_tokens_per_s": "tokens/s",
    "device_busy_share": "device busy, share",
    "limit_tokens_per_s": "the device's limit, tokens/s",
    "limit_share": "share of the limit",
    "closed_loop_share": "of it within reach of a closed loop",
    "sequences_per_step": "sequences a step",
    "preempted_share": "preempted, share of sequences",
    "itl_p99_over_p50": "ITL p99 over p50",
    "heavy_tokens_per_s": "the heavy key's tokens/s",
}


def document(comparison: Comparison) -> str:
    """Return the document."""
    host = comparison.host
    lines = [
        "# V-Gate side by side",
        "",
        f"{comparison.started_at}, {comparison.mode} mode, {comparison.seconds:.0f} s.",
        f"{host['cpus']} x {host['cpu']}, {host['memory_gib']} GiB, Linux {host['kernel']},",
        f"load average {host['load_average_before']} before.",
        "",
        ", ".join(f"{name} {version}" for name, version in comparison.versions.items()) + ".",
        "",
        "A figure is the median of its repetitions, with the minimum and maximum in brackets.",
        "V-Gate's ratio is its value divided by the other's, in each repetition.",
    ]
    lines += [f"- {name} is left out: {_one_line(why)}" for name, why in comparison.skipped.items()]
    for failure in comparison.failures:
        lines += ["", f"**Wrong:** {_one_line(failure)}"]
    for scenario in comparison.scenarios:
        lines += ["", *_scenario(scenario)]
    if comparison.starts is not None:
        lines += ["", "## From the command to readiness, and memory at that moment", ""]
        lines += case_table(comparison.starts)
    return "\n".join(lines) + "\n"


def _scenario(scenario: ScenarioResult) -> list[str]:
    lines = [f"## {scenario.title} (`{scenario.name}`, {scenario.seconds:.0f} s)"]
    for note in scenario.notes:
        lines += ["", _one_line(note)]
    for case in scenario.cases:
        lines += ["", *case_table(case)]
    if scenario.targets:
        rows = [
            [one.what, one.limit, _number(one.value), "yes" if one.met else "**no**"]
            for one in scenario.targets
        ]
        lines += ["", *table(["target", "wanted", "found", "met"], rows)]
    return lines


def case_table(case: Case) -> list[str]:
    """Return the table of a case: a row for each measure, a column for each contender."""
    turns = "repetition" if case.repetitions == 1 else "repetitions"
    headers, columns = [""], []
    for row in case.rows:
        headers.append(row.contender)
        columns.append(row.measures)
        if row.ratios:
            headers.append("V-Gate's ratio")
            columns.append(row.ratios)
    rows = [
        [_title(name), *(_figure(column.get(name)) for column in columns)]
        for name in case.shown
        if any(name in column for column in columns)
    ]
    lines = [f"### {case.name} ({case.repetitions} {turns})", "", *table(headers, rows)]
    for row in case.rows:
        if row.failures:
            lines += ["", f"**{row.contender} failed:** {_one_line(row.failures[0])}"]
    return lines


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    return [f"| {' | '.join(cells)} |" for cells in (headers, ["---"] * len(headers), *rows)]


def _title(name: str) -> str:
    measure, _, rest = name.partition(".")
    return f"{_UNITS.get(measure, measure)} {rest.replace('.', ', ')}".strip()


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if len(figure.values) == 1:
        return _number(figure.median)
    return f"{_number(figure.median)} ({_number(figure.min)}-{_number(figure.max)})"


def _number(value: float) -> str:
    """Return three significant digits, or a whole number from 100 on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
