"""What `accuracy` writes: tables for people, CSV, JSON, Markdown and plots."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import progress, sig, size
from protocols import PROTOCOLS, AccrueLearner, Cell, Protocol

Result = tuple[Cell, dict[str, float]]
Group = dict[tuple[str, str, str], list[dict[str, float]]]  # (method, views, setting)
VIEWS = {"one": "one view", "same": "the same views"}
INK, GREY = "#c0392b", "#7f8c8d"


def summary(results: Iterable[Result]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds, one entry for each protocol, method, views and setting."""
    groups: dict[tuple[str, str, str, str], list[dict[str, float]]] = {}
    for cell, numbers in results:
        key = (cell.protocol, cell.setting, cell.views, cell.method)
        groups.setdefault(key, []).append(numbers)
    found = []
    for (protocol, setting, views, method), runs in groups.items():
        entry: dict[str, Any] = {
            "protocol": protocol,
            "setting": setting,
            "views": views,
            "method": method,
            "seeds": len(runs),
        }
        for name in runs[0]:
            values = np.array([run[name] for run in runs])
            known = values[np.isfinite(values)]
            entry[name] = {
                "mean": float(known.mean()) if len(known) else math.nan,
                "sd": float(known.std(ddof=1)) if len(known) > 1 else 0.0,
            }
        found.append(entry)
    return found


def cell_text(entry: dict[str, Any], protocol: type[Protocol], name: str, spread: bool) -> str:
    """ "61.3 ± 1.8" in %, or a number with its unit; "-" where nothing was measured."""
    value = entry.get(name)
    if value is None or not math.isfinite(value["mean"]):
        return "-"
    if name.endswith("bytes"):
        return size(value["mean"])
    if name in protocol.plain:
        return sig(value["mean"])
    text = f"{100 * value['mean']:.1f}"
    return f"{text} ± {100 * value['sd']:.1f}" if spread and entry["seeds"] > 1 else text


def tables(
    entries: list[dict[str, Any]], spread: bool
) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, rows) of each table: methods down; across, the settings of the first
    measurement where there are many, or the measurements of one setting."""
    found = []
    for name, protocol in PROTOCOLS.items():
        mine = [e for e in entries if e["protocol"] == name]
        if not mine:
            continue
        settings = list(dict.fromkeys(e["setting"] for e in mine))
        for views in dict.fromkeys(e["views"] for e in mine):
            here = [e for e in mine if e["views"] == views]
            title = f"{name}, {VIEWS[views]}: {protocol.about}"
            if name in ("shots", "noise"):
                found.append((title, *_across(here, settings, protocol, spread)))
            else:
                for setting in settings:
                    some = [e for e in here if e["setting"] == setting]
                    found.append((f"{title} ({setting})", *_down(some, protocol, spread)))
    return found


def _across(
    entries: list[dict[str, Any]], settings: list[str], protocol: type[Protocol], spread: bool
) -> tuple[list[str], list[list[str]]]:
    first, *others = protocol.shown
    rows = []
    for method in dict.fromkeys(e["method"] for e in entries):
        by_setting = {e["setting"]: e for e in entries if e["method"] == method}
        row = [method]
        row += [cell_text(by_setting.get(s, {}), protocol, first, spread) for s in settings]
        last = by_setting.get(settings[-1], {})
        row += [cell_text(last, protocol, name, spread) for name in others]
        rows.append(row)
    tail = [f"{protocol.shown[name]} ({settings[-1]})" for name in others]
    return ["", *settings, *tail], rows


def _down(
    entries: list[dict[str, Any]], protocol: type[Protocol], spread: bool
) -> tuple[list[str], list[list[str]]]:
    rows = [
        [e["method"], *(cell_text(e, protocol, name, spread) for name in protocol.shown)]
        for e in entries
    ]
    return ["", *protocol.shown.values()], rows


def print_tables(entries: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for title, heads, rows in tables(entries, spread=True):
        table = Table(title=title, title_justify="left")
        for i, head in enumerate(heads):
            table.add_column(head, justify="right" if i else "left", no_wrap=True)
        best = _best(rows)
        for row in rows:
            style = "bold" if row[0] == AccrueLearner.name else ""
            table.add_row(
                *(f"[u]{c}[/u]" if (i, c) in best else c for i, c in enumerate(row)), style=style
            )
        console.print(table)


def _best(rows: Sequence[Sequence[str]]) -> set[tuple[int, str]]:
    """The largest share of each column."""
    found = set()
    for i in range(1, len(rows[0])):
        shares = [row[i] for row in rows if "±" in row[i]]
        if shares:
            found.add((i, max(shares, key=lambda text: float(text.split()[0]))))
    return found


def write_markdown(path: Path, entries: list[dict[str, Any]]) -> None:
    lines = []
    for title, heads, rows in tables(entries, spread=False):
        lines += [f"{title[0].upper()}{title[1:]}", "", f"| {' | '.join(heads)} |"]
        lines += ["|" + "---|" * len(heads)]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        lines.append("")
    path.write_text("\n".join(lines), encoding="utf-8")
    progress(f"wrote {path}")


def write_csv(path: Path, results: Iterable[Result]) -> None:
    """One line for each number: protocol, setting, views, method, seed, measurement, value."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["protocol", "setting", "views", "method", "seed", "measurement", "value"])
        for cell, numbers in results:
            for name, value in numbers.items():
                writer.writerow(
                    [cell.protocol, cell.setting, cell.views, cell.method, cell.seed, name, value]
                )
    progress(f"wrote {path}")


def plot(folder: Path, entries: list[dict[str, Any]]) -> None:
    """`shots.svg` and `.png`, and the same for the other protocols, as far as they were run."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "accrue"  # the same bytes each time
    for protocol in PROTOCOLS:
        mine = [e for e in entries if e["protocol"] == protocol]
        if mine:
            _lines(folder, protocol, mine) if protocol in ("shots", "noise") else _bars(
                folder, protocol, mine
            )


def _lines(folder: Path, protocol: str, entries: list[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    views = list(dict.fromkeys(e["views"] for e in entries))
    settings = list(dict.fromkeys(e["setting"] for e in entries))
    measured = next(iter(PROTOCOLS[protocol].shown))
    figure, axes = plt.subplots(
        1, len(views), figsize=(6.5 * len(views), 5), sharey=True, squeeze=False
    )
    for axis, view in zip(axes[0], views, strict=True):
        here = [e for e in entries if e["views"] == view]
        for method in dict.fromkeys(e["method"] for e in here):
            by_setting = {e["setting"]: e for e in here if e["method"] == method}
            known = [i for i, s in enumerate(settings) if s in by_setting]
            runs = [by_setting[settings[i]][measured] for i in known]
            ours = method == AccrueLearner.name
            axis.errorbar(
                known,
                [100 * r["mean"] for r in runs],
                [100 * r["sd"] for r in runs],
                label=method,
                marker="o",
                markersize=3,
                capsize=2,
                linewidth=2.5 if ours else 1,
                color=INK if ours else None,
                zorder=3 if ours else 2,
            )
        axis.set_xticks(range(len(settings)), settings)
        axis.set_title(VIEWS[view])
        axis.set_xlabel({"shots": "shots a class", "noise": "wrong labels"}[protocol])
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][-1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, folder / protocol)


def _bars(folder: Path, protocol: str, entries: list[dict[str, Any]]) -> None:
    import matplotlib.pyplot as plt

    measured = next(iter(PROTOCOLS[protocol].shown))
    panels = list(dict.fromkeys((e["setting"], e["views"]) for e in entries))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.5 * len(panels) + 1, 4.5), squeeze=False, sharey=True
    )
    for axis, (setting, view) in zip(axes[0], panels, strict=True):
        here = [e for e in entries if (e["setting"], e["views"]) == (setting, view)][::-1]
        axis.barh(
            [e["method"] for e in here],
            [100 * e[measured]["mean"] for e in here],
            xerr=[100 * e[measured]["sd"] for e in here],
            color=[INK if e["method"] == AccrueLearner.name else GREY for e in here],
        )
        axis.set_title(f"{setting}, {VIEWS[view]}", fontsize="medium")
        axis.set_xlabel(f"{PROTOCOLS[protocol].shown[measured]}, %")
        axis.grid(axis="x", alpha=0.3)
    _save(figure, folder / protocol)


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    for suffix in ("svg", "png"):
        target = path.with_suffix(f".{suffix}")
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(target, bbox_inches="tight", dpi=130, metadata=metadata)
    plt.close(figure)
    progress(f"wrote {path}.svg and .png")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Without NaN, which JSON does not know."""
    path.write_text(json.dumps(_plain(value), indent=1) + "\n", encoding="utf-8")
    progress(f"wrote {path}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
