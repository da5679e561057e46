"""results.json as a page for people, tables for programs, and pictures.

The page holds everything it shows: it can be sent as one file. All texts of a catalogue are
escaped, for reviews are written by strangers.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from indexer.artifacts.writing import written_whole
from indexer.evaluation.experiment.figures import Results, figures, named
from p4r_qdrant.errors import MissingExtraError

REPORT = "report.html"

LEAKS = (
    "One line of this experiment (group LEAK) was made with personas that saw held-out reviews, to "
    "show what a leak is worth. It is no result"
)

SURE = 0.05

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2833;--dim:#566573;--line:#d5d8dc;--head:#f4f6f7}
:root{--page:#fff;--base:#fbfcfc;--good:#eafaf1;--bad:#fdedec}
@media(prefers-color-scheme:dark){:root{--ink:#e5e8e8;--dim:#aab7b8;--line:#424949;--head:#212f3c}
:root{--page:#17202a;--base:#1c2833;--good:#0e3b26;--bad:#4a1c17}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page)}
body{max-width:76rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem}h2{margin-top:2.5rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
table{border-collapse:collapse;margin:1rem 0;font-size:.88rem}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line)}
td{vertical-align:top;white-space:nowrap}
td.t{white-space:normal;min-width:7rem}
th{background:var(--head)}
th:first-child,td:first-child,td.t,th.t{text-align:left}
tr.base td{background:var(--base);color:var(--dim)}tr.sure td{font-weight:600}
tr.leak td{background:var(--bad)}
small,.note{color:var(--dim)}.wide,figure{overflow-x:auto}
figure{margin:1rem 0}img{max-width:100%;min-width:42rem;background:#fff;border-radius:.3rem}
.banner{background:var(--bad);border-left:.4rem solid #b03a2e;padding:.6rem 1rem;margin:1rem 0}
.good{background:var(--good);border-left:.4rem solid #239b56;padding:.6rem 1rem;margin:1rem 0}
.user{border:1px solid var(--line);border-radius:.5rem;padding:.5rem 1rem;margin:1rem 0}
.truth{background:var(--good)}details{margin:.5rem 0}code{font-size:.85em}
pre{overflow-x:auto}
@media(max-width:40rem){.user tr,.user td{display:block}.user th{display:none}}
"""


def check_drawing() -> None:
    """Raise MissingExtraError where figures cannot be drawn: better now than at the end."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError(
            "an experiment needs matplotlib: pip install 'p4r-qdrant[experiment]'"
        )


def write_report(results: Results, folder: Path) -> Path:
    """Write report.html, its figures as PNG and its tables as CSV; return the page's path."""
    drawn = []
    for name, caption, figure in figures(results):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        _write_bytes(folder / name, buffer.getvalue())
        drawn.append((name, caption, buffer.getvalue()))
    for name, rows in _tables(results):
        with written_whole(folder / name) as write:
            write(_csv(rows))
    with written_whole(folder / REPORT) as write:
        write(_page(results, drawn))
    return folder / REPORT


def _write_bytes(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)


# --- tables for programs ----------------------------------------------------------------------


def _tables(results: Results) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    leaking = {"leaking": True} if results["leaking"] else {}
    main = []
    for row in results["main"]:
        flat = {key: value for key, value in row.items() if key not in ("metrics", "own", "best")}
        for name, one in row["metrics"].items():
            flat |= {name: one["mean"], f"{name} low": one["low"], f"{name} high": one["high"]}
        for against in ("own", "best"):
            found = row.get(against) or {}
            keys = ("generator", "mean", "relative", "low", "high", "p", "p_holm")
            flat |= {f"{against} {key}": found.get(key) for key in keys}
        main.append(flat | leaking)
    yield "main.csv", main
    yield "segments.csv", [row | leaking for row in results["segments"]]
    ablations = []
    for row in results["ablations"]:
        flat = {key: value for key, value in row.items() if key != "difference"}
        flat |= {f"difference {key}": value for key, value in row["difference"].items()}
        ablations.append(flat | {"form": json.dumps(row["form"])} | leaking)
    yield "ablations.csv", ablations
    yield "history.csv", [row | leaking for row in results["history"]]
    yield "options.csv", [row | leaking for row in results["options"]]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().removesuffix("\n")


# --- the page ---------------------------------------------------------------------------------


def _page(results: Results, drawn: Sequence[tuple[str, str, bytes]]) -> str:
    pictures = {name: _picture(caption, content) for name, caption, content in drawn}
    attention = [LEAKS] if results["leaking"] else []
    attention += [check["vouched"] for check in results["leaks"] if check["vouched"]]
    banner = "".join(f'<p class="banner"><b>Attention.</b> {escape(one)}.</p>' for one in attention)
    name = escape(results["name"])
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{name}</title>",
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<style>{_STYLE}</style><h1>{name}: reranking by personas</h1>{banner}",
        _question(results),
        _in_short(results),
        _trust(results),
        "<h2>Main results</h2>",
        _main_text(results),
        pictures["main.png"],
        _main(results),
        "<h2>For whom?</h2>",
        _SEGMENT_TEXT,
        pictures.get("segments.png", "<p>There are too few users to tell segments apart.</p>"),
        _segments(results),
        "<h2>What matters?</h2>",
        _ablation_text(results),
        pictures["personas.png"],
        _ablations(results),
        "<h3>How much history</h3>",
        pictures["history.png"],
        _chosen(results),
        _seeds(results),
        _examples(results),
        _environment(results),
        banner,
        "</html>",
    ]
    return "\n".join(parts)


_SEGMENT_TEXT = (
    "<p>Warm and cold users are those with the longest and shortest training histories (20 % each, "
    "equals together); head items are the 20 % most popular ones, tail items the rest. The item "
    "meant is the one that was held out.</p>"
)

_EXAMPLE_TEXT = (
    "<h2>What it looks like</h2><p>Users from the one most helped to the one most harmed, evenly "
    "spaced, so that nothing is picked. The hidden item is green.</p>"
)


def _question(results: Results) -> str:
    data, counts = results["data"], results["config"]["candidates"]
    notes = "".join(f"<li>{escape(what)}: {count}</li>" for what, count in data["notes"].items())
    listed = " and ".join(str(count) for count in counts)
    return (
        f"<p>{data['users']:,} users, {data['items']:,} items, "
        f"{data['training_interactions']:,} training interactions. Of each user the last "
        "interaction is the <b>test item</b> and the last but one the <b>validation item</b>; both "
        "were hidden. A <b>generator</b>, a classic recommender, proposes "
        f"{listed} candidates. Personas (descriptions of who likes an item and why) then put them "
        "in another order, by how near the user's history is to the best persona of each. The "
        "question is where the hidden test item ends up.</p>"
        "<p><b>HR@k</b>: share of users whose item is among the first k. <b>MRR@k</b>: mean of "
        "1/place. <b>NDCG@k</b>: mean of 1/log2(place + 1). Users whose item is not among the "
        "first k count 0. The <b>ceiling</b> is the share of users whose item is among the "
        "candidates at all: no order gets beyond it. Brackets are 95 % bootstrap intervals over "
        f"users.</p>{f'<ul class=note>{notes}</ul>' if notes else ''}"
    )


def _in_short(results: Results) -> str:
    """What came out, in sentences that are made of the figures and of nothing else."""
    lines = []
    encoder = results["ablations_encoder"]
    for count, strongest in results["chosen"]["strongest"].items():
        rows = [row for row in results["main"] if str(row["candidates"]) == count]
        own = {row["line"]: row for row in rows if row["generator"] == strongest}
        found = [
            f"{what} {row['metrics']['NDCG@10']['mean']:.3f} "
            f"({row['own']['relative'] or 0:+.0%}, corrected p {row['own']['p_holm']:.2f})"
            for what, line in (("by personas", "personas"), ("by both", "fused"))
            for row in [own[f"{line}, {encoder}"]]
        ]
        alone = own["generator alone"]["metrics"]["NDCG@10"]["mean"]
        lines.append(
            f"<li>{count} candidates of the strongest generator, {_name(strongest)}: NDCG@10 "
            f"{alone:.3f} as they come, {', '.join(found)}.</li>"
        )
    for fused, what in ((False, "personas alone"), (True, "both together")):
        gaps = [
            row["own"]
            for row in results["main"]
            if row["encoder"] == encoder and row["fused"] is fused and not row["options"]
        ]
        better = sum(one["mean"] > 0 for one in gaps)
        sure = sum(one["mean"] > 0 and one["p_holm"] < SURE for one in gaps)
        lines.append(
            f"<li>Over all generators and numbers of candidates, {what} are ahead of the generator "
            f"in {better} of {len(gaps)} cases, beyond chance (corrected p below 0.05) in {sure}."
            "</li>"
        )
    return (
        f"<h2>In short</h2><p>By the encoder <i>{escape(encoder)}</i>:</p><ul>{''.join(lines)}</ul>"
    )


def _trust(results: Results) -> str:
    body = [
        (
            "",
            [
                escape(check["name"]),
                f"{check['looked_at']:,}",
                "not checked" if check["vouched"] else str(check["leaks"]),
            ],
        )
        for check in results["leaks"]
    ]
    elsewhere = any(check["vouched"] for check in results["leaks"])
    lists = "The lists that were made here" if elsewhere else "The lists"
    return (
        f'<h2>Can it be trusted?</h2><p class="good">{lists} were made from a copy of the data in '
        "which a marker stands in place of every test item. Settings were chosen on validation "
        "items. Before anything was scored, these checks looked for held-out interactions in all "
        f"that was made:</p><details><summary>{len(body)} checks, "
        f"{sum(check['leaks'] for check in results['leaks'])} leaks</summary>"
        f"{_table(['check', 'looked at', 'leaks'], body)}</details>"
    )


def _main_text(results: Results) -> str:
    strongest = ", ".join(
        f"{_name(name)} ({count} candidates)"
        for count, name in results["chosen"]["strongest"].items()
    )
    return (
        "<p>These lines went through the persona index and the reranker that serve online. "
        "<i>Untrained</i>: the text encoder as it comes; <i>trained</i>: with the adapter that "
        "learnt from training interactions. <i>Fused</i>: with the generator's own score, its "
        f"weight chosen on validation items. {_options_text(results)}"
        "<i>vs. own</i>: NDCG@10 against the same generator alone; <i>vs. strongest</i>: against "
        f"the generator that is best on validation items, {strongest}. p: paired randomization "
        "test, Holm-corrected over this table; lines that beat their own generator with p below "
        "0.05 are bold.</p>"
    )


def _options_text(results: Results) -> str:
    found = [
        f"{escape(name)}, single interests {form['interests']:g} and persona prior "
        f"{form['prior']:g}"
        for name, one in results["chosen"]["encoders"].items()
        for form in one["forms"][1:]
    ]
    if not found:
        return ""
    return (
        "<i>Options</i>: those of the reranker that are best on validation items where Eq. 10 is "
        f"not ({'; '.join(found)}). "
    )


def _main(results: Results) -> str:
    others = ("HR@10", "MRR@10", "NDCG@5", "NDCG@20")
    head = ["generator", "", "NDCG@10", "vs. own", "vs. strongest", *others, "ceiling"]
    body = []
    for row in results["main"]:
        one = row["metrics"]["NDCG@10"]
        cells = [
            f"{_name(row['generator'])},&nbsp;{row['candidates']}",
            escape(row["line"]),
            f"{one['mean']:.4f}<br><small>[{one['low']:.3f}, {one['high']:.3f}]</small>",
            *(_gap(row[against]) if row.get(against) else "" for against in ("own", "best")),
            *(f"{row['metrics'][name]['mean']:.4f}" for name in others),
            f"{row['ceiling']:.3f}",
        ]
        better = row.get("own") and row["own"]["mean"] > 0 and row["own"]["p_holm"] < SURE
        kind = "base" if row["encoder"] is None else "sure" if better else ""
        body.append((kind, cells))
    return _table(head, body, left=2)


def _gap(found: Mapping[str, Any]) -> str:
    relative = f" ({found['relative']:+.1%})" if found["relative"] is not None else ""
    p = f" p {found['p_holm']:.3f}" if found["p_holm"] is not None else ""
    interval = f"<small>[{found['low']:+.3f}, {found['high']:+.3f}]{p}</small>"
    return f"{found['mean']:+.4f}{relative}<br>{interval}"


def _segments(results: Results) -> str:
    body = [
        (
            "base" if row["line"] == "generator alone" else "",
            [
                _name(row["generator"]),
                escape(row["line"]),
                str(row["candidates"]),
                f"{escape(row['segment'])} <small>({escape(row['rule'])})</small>",
                f"{row['users']:,}",
                f"{row['mean']:.4f} <small>[{row['low']:.3f}, {row['high']:.3f}]</small>",
                f"{row['ceiling']:.3f}",
            ],
        )
        for row in results["segments"]
    ]
    head = ["generator", "", "candidates", "segment", "users", "NDCG@10", "ceiling"]
    return f"<details><summary>All segments</summary>{_table(head, body, left=2)}</details>"


def _ablation_text(results: Results) -> str:
    return (
        "<p>Persona reranking with one thing changed at a time, by the encoder "
        f"<i>{escape(results['ablations_encoder'])}</i>, computed from the same vectors: NDCG@10 "
        "of personas alone, and fused with the generator's scores. The difference is paired: from "
        "persona reranking as it is (Eq. 10 of the paper), for the same users; its interval is not "
        "corrected for the number of lines. Where a line has several forms, the one best on "
        "validation items is shown.</p>"
    )


def _ablations(results: Results) -> str:
    head = ["what", "generator", "candidates"]
    for what in ("alone", "fused"):
        head += [f"{what}, validation", f"{what}, test", "difference"]
    tables = []
    fused = {_key(row): row for row in results["ablations"] if row["fused"]}
    groups: dict[str, list[tuple[str, list[str]]]] = {}
    for row in results["ablations"]:
        if row["fused"]:
            continue
        form = ", ".join(f"{name} {value}" for name, value in row["form"].items())
        cells = [
            escape(row["name"]) + (f" <small>({escape(form)})</small>" if form else ""),
            _name(row["generator"]),
            str(row["candidates"]),
        ]
        for one in (row, fused[_key(row)]):
            gap = one["difference"]
            cells += [
                f"{one['valid']:.4f}",
                f"{one['mean']:.4f}<br><small>[{one['low']:.3f}, {one['high']:.3f}]</small>",
                f"{gap['mean']:+.4f}<br><small>[{gap['low']:+.3f}, {gap['high']:+.3f}]</small>",
            ]
        kind = "leak" if row["group"] == "LEAK" else ""
        groups.setdefault(row["group"], []).append((kind, cells))
    for group, body in groups.items():
        opened = " open" if group == "LEAK" else ""
        warning = f'<p class="banner">{LEAKS}.</p>' if group == "LEAK" else ""
        tables.append(
            f"<details{opened}><summary>{escape(group)}</summary>{warning}"
            f"{_table(head, body, left=2)}</details>"
        )
    return "".join(tables)


def _name(generator: str) -> str:
    return escape(named(generator))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["group"], row["name"], row["generator"], row["candidates"])


def _chosen(results: Results) -> str:
    lines = []
    for name, one in results["chosen"]["encoders"].items():
        for form in one["forms"]:
            weights = ", ".join(
                f"{escape(where)}: {weight:g}" for where, weight in form["weights"].items()
            )
            lines.append(
                f"<li>{escape(name)} ({escape(one['name'])}): {one['length']} interactions, decay "
                f"{one['decay']:g}, single interests {form['interests']:g}, persona prior "
                f"{form['prior']:g}; weight of the persona score in fusion: {weights}</li>"
            )
    body = [
        (
            "",
            [
                escape(row["encoder"]),
                f"{row['interests']:g}",
                f"{row['prior']:g}",
                f"{row['valid']:.4f}",
            ],
        )
        for row in results["options"]
    ]
    head = [
        "encoder",
        "single interests",
        "persona prior",
        "NDCG@10, validation, mean of generators",
    ]
    options = f"<details><summary>Options that were tried</summary>{_table(head, body)}</details>"
    return f"<p>Chosen on validation items:</p><ul>{''.join(lines)}</ul>{options}"


def _seeds(results: Results) -> str:
    if not results["seeds"]:
        return ""
    names = [
        name for name in results["seeds"][0] if name not in ("generator", "candidates", "seed")
    ]
    body = [
        (
            "",
            [
                _name(row["generator"]),
                str(row["candidates"]),
                str(row["seed"]),
                *(f"{row[name]:.4f}" for name in names),
            ],
        )
        for row in results["seeds"]
    ]
    head = ["generator", "candidates", "seed", *names]
    return (
        "<h3>How much is chance?</h3><p>Generators that begin at random, with other seeds "
        f"(NDCG@10 on test items; the tables above are of the first).</p>{_table(head, body)}"
    )


def _examples(results: Results) -> str:
    if not results["examples"]:
        return ""
    parts = [_EXAMPLE_TEXT]
    for one in results["examples"]:
        history = "".join(
            f"<li>{escape(past['item'])} <small>{escape('; '.join(past['aspects']))}</small></li>"
            for past in one["history"]
        )
        rows = "".join(
            f"<tr{' class=truth' if item['is_truth'] else ''}><td>{item['rank']} "
            f"<small>(was {item['was']})</small>"
            f'<td class="t">{escape(item["item"])}<td class="t">{_why(item)}</tr>'
            for item in one["ranking"]
        )
        parts.append(
            f'<div class="user"><b>{escape(one["user"])}</b>: the hidden item, '
            f"<i>{escape(one['truth'])}</i>, went from place {one['before']} "
            f"({_name(one['generator'])}) to place <b>{one['after']}</b>."
            f"<details open><summary>History, newest first</summary><ul>{history}</ul></details>"
            f'<div class="wide"><table><tr><th>place<th class="t">item<th class="t">persona '
            f"that won, and the past items that drove it</tr>{rows}</table></div></div>"
        )
    return "".join(parts)


def _why(item: Mapping[str, Any]) -> str:
    if item["persona"] is None:
        return "<small>no personas: kept behind, in the generator's order</small>"
    because = "; ".join(f"{escape(one['item'])} {one['share']:.0%}" for one in item["because"])
    return f"<b>{escape(item['persona'])}</b>: {escape(item['reason'])}<br><small>{because}</small>"


def _environment(results: Results) -> str:
    def shown(value: Any) -> str:
        return escape(json.dumps(value, indent=1, ensure_ascii=False))

    return (
        "<h2>How it was made</h2><details><summary>Configuration</summary>"
        f"<pre>{shown(results['config'])}</pre></details><details><summary>Machine, versions, git "
        f"revision</summary><pre>{shown(results['environment'])}</pre></details><details><summary>"
        f"Seconds of each stage</summary><pre>{shown(results['seconds'])}</pre></details>"
    )


def _picture(caption: str, content: bytes) -> str:
    encoded = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{encoded}">'
        f"<figcaption><small>{escape(caption)}</small></figcaption></figure>"
    )


def _table(head: Sequence[str], body: Sequence[tuple[str, Sequence[str]]], left: int = 1) -> str:
    """Cells are HTML; the first `left` columns are texts, each row has a class."""

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag} class="t">{cell}' if place < left else f"<{tag}>{cell}"
            for place, cell in enumerate(cells)
        )

    rows = "".join(
        f"<tr{f' class={kind}' if kind else ''}>{row(cells, 'td')}</tr>" for kind, cells in body
    )
    return f'<div class="wide"><table><tr>{row(head, "th")}</tr>{rows}</table></div>'
