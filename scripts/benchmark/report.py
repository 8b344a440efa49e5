"""Everything that a run found out, as one JSON object, and as the text that goes into a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark.measure import Contestant
from benchmark.rows import REFERENCE
from benchmark.table import Record, compare, markdown, ratio, speeds_of, summarise

ADAPTIVE = "int8-adaptive"
# Engine, what it is held against, and the sentence that says so.
_RATIOS = (
    ("int8", "onnxruntime", "int8 over the plain graph in onnxruntime, fp32"),
    ("int8", "openvino-int8", "int8 over OpenVINO int8"),
    (ADAPTIVE, REFERENCE, "int8 adaptive over Keras"),
    ("winograd", "onnxruntime", "fp32 `--optimize cpu` over the plain graph in onnxruntime"),
    ("infer", "int8-loop", "`histo-infer` from files over the bare session loop"),
    ("infer-command", "int8-loop", "the same with the start of the process"),
)


def report(
    contestants: Sequence[Contestant], labels: NDArray[np.int64] | None, threshold: float, about: dict[str, Any]
) -> dict[str, Any]:
    """Put together what was measured; `about` says on what."""
    records = [record for contestant in contestants for record in _records(contestant)]
    probabilities = {c.row.key: c.probability for c in contestants if c.probability is not None and not c.why}
    if "infer" in probabilities:
        probabilities["infer-command"] = probabilities["infer"]
    rows = summarise(records, probabilities, labels, threshold)
    adaptive: Record = {"views": next((record["views"] for record in records if record["key"] == ADAPTIVE), None)}
    for key in (REFERENCE, "int8"):
        adaptive[key] = compare(probabilities.get(ADAPTIVE), probabilities.get(key), labels, threshold)
    return {**about, "ratios": _ratios(records), "adaptive": adaptive, "rows": rows}


def _records(contestant: Contestant) -> list[Record]:
    """Return a record of plain values; `histo-infer` gives two: in the run, and with the start of its process."""
    row = contestant.row
    file = Path(contestant.file)
    record = {
        "key": row.key,
        "title": row.title,
        "precision": row.precision,
        "peer": row.peer,
        "why": contestant.why,
        "versions": contestant.versions,
        "batch": contestant.batch,
        "views": float(np.mean([timed["views"] for timed in contestant.rounds])) if contestant.rounds else None,
        "memory_mb": contestant.memory_mb,
        "file_mb": file.stat().st_size / 1e6 if contestant.file and file.exists() else None,
        "rounds": [] if contestant.why else [_plain(timed, timed["seconds"]) for timed in contestant.rounds],
        "latencies": [] if contestant.why else contestant.latencies,
    }
    if contestant.why or not any(timed["inside"] for timed in contestant.rounds):
        return [record]
    inside = [_plain(timed, timed["inside"]) for timed in contestant.rounds]
    whole = {**record, "key": f"{row.key}-command", "title": f"{row.title}, with its start"}
    return [{**record, "rounds": inside, "latencies": []}, whole]


def _plain(timed: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {"patches": timed["patches"], "seconds": seconds}


def _ratios(records: Sequence[Record]) -> dict[str, float]:
    speeds = {record["key"]: speeds_of(record) for record in records}
    found = {text: ratio(speeds.get(key, []), speeds.get(other, [])) for key, other, text in _RATIOS}
    return {text: value for text, value in found.items() if value is not None}


def as_markdown(found: dict[str, Any]) -> str:
    """Write what a document needs: the table, on what it was measured, and the ratios that matter."""
    text = (
        markdown(found["rows"]),
        _measured_on(found["machine"], found["settings"], found["rows"]),
        *(f"- {text}: {value:.2f}" for text, value in found["ratios"].items()),
        *_adaptive_facts(found["adaptive"]),
    )
    return "\n".join(text) + "\n"


def _measured_on(machine: Record, settings: Record, rows: Sequence[Record]) -> str:
    features = f" ({', '.join(machine['features'])})" if machine["features"] else ""
    scored = max((row["scored"] for row in rows), default=0)
    rounds = max((len(row["rounds"]) for row in rows), default=0)
    versions = {package: version for row in rows for package, version in row["versions"].items()}
    packages = ", ".join(f"{package} {version}" for package, version in sorted(versions.items()))
    return (
        f"{machine['date']}. {machine['processor']}{features}, {machine['cores']} processors, {settings['threads']}"
        f" threads for every engine, {machine['system']}, Python {machine['python']}. {packages}.\n"
        f"{rounds} rounds of about {settings['seconds']:g} s each, engines in turn, each in a process of"
        f" its own: median (smallest-largest). {settings['on']}. AUC and largest difference over {scored} patches.\n"
    )


def _adaptive_facts(adaptive: Record) -> list[str]:
    lines = [f"- adaptive: {adaptive['views']:.2f} views a patch"] if adaptive["views"] is not None else []
    for key, name in ((REFERENCE, "Keras"), ("int8", "int8 under every view")):
        against = adaptive[key]
        if against["labels_changed"] is not None:
            auc = "" if against["auc_lead"] is None else f"AUC {against['auc_lead']:+.4f}, "
            lines.append(f"- adaptive against {name}: {auc}{100 * against['labels_changed']:.2f} % other labels")
    return lines
