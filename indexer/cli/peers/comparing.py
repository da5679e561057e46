"""`p4r peers compare` and `p4r peers verdicts`."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from indexer.cli.outputs import VERDICTS, Force, check_output, check_outputs
from indexer.cli.peers.app import peers
from indexer.cli.peers.options import Results
from indexer.cli.shared import Artifacts, exit_for
from p4r_qdrant.errors import InputError

KEY, PAGE, RATED = "key.json", "explanations.html", "verdicts.json"


@peers.command(
    epilog="Example:  p4r peers compare --artifacts books --explanations personas=reranked.jsonl "
    "--explanations xrec=ranked/explained.jsonl --output compared --blind"
)
def compare(
    artifacts: Artifacts,
    explanations: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FILE",
            help="A system and its explanations: the output of p4r rerank or p4r peers rank.",
        ),
    ],
    output: Results,
    examples: Annotated[int, typer.Option(min=1, help="Users, one item each.")] = 50,
    raters: Annotated[int, typer.Option(min=1, help="Sheets, one for each rater.")] = 3,
    length: Annotated[int, typer.Option(min=1, help="Interactions of a history.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of examples and orders.")] = 0,
    blind: Annotated[
        bool, typer.Option("--blind", help="Show letters on the page, not the systems' names.")
    ] = False,
    force: Force = False,
) -> None:
    """Show explanations of the same items by several systems, and make sheets for raters.

    Each rater gets a CSV file whose letters hide the systems, every system in every place equally
    often; key.json says which is which. `p4r peers verdicts` reads the filled sheets.
    """
    from indexer.artifacts.derived import noted
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.writing import written_whole
    from indexer.leftovers import undone_unless_paid
    from indexer.peers import side_by_side
    from indexer.peers.material import Material
    from indexer.peers.side_by_side_page import page
    from indexer.peers.verdicts import Key, is_filled
    from indexer.terminal.console import out
    from indexer.terminal.tables import print_counts

    files = {name: Path(path) for name, _, path in (one.partition("=") for one in explanations)}
    wrong = next((one for one in explanations if not all(one.partition("=")[::2])), None)
    if wrong is not None or len(files) < len(explanations):
        raise InputError("--explanations needs NAME=FILE, with a name of its own for each")
    names = [f"rater-{number}.csv" for number in range(1, raters + 1)]
    mine = (output / KEY).is_file()
    check_outputs(output, [KEY, PAGE, *names], list(files.values()), force=force or mine)
    done = [name for name in names if (output / name).is_file() and is_filled(output / name)]
    if done and not force:
        raise InputError(
            f"raters have filled {', '.join(done)} in {output}: name another --output, or replace "
            "them with --force"
        )
    refusals, left_out = Refusals(), Counter[str]()
    with Material(ArtifactFolder(artifacts), refusals) as material:
        choosing = side_by_side.Choosing(examples, seed, length)
        found = side_by_side.examples(material, files, choosing, refusals, left_out)
    made = side_by_side.sheets(found, raters, seed)
    with noted(artifacts, output), undone_unless_paid(output):
        output.mkdir(parents=True, exist_ok=True)
        texts = {
            name: side_by_side.sheet_csv(found, one) for name, one in zip(names, made, strict=True)
        }
        texts |= {PAGE: page(found, made[0], blind=blind), KEY: Key.of(found, made).json_text()}
        for name, text in texts.items():
            with written_whole(output / name, private=True) as write:
                write(text)
    out.say(f"{len(found)} examples of {', '.join(files)}: {output / PAGE}, {', '.join(names)}")
    print_counts("", +left_out)
    exit_for(refusals)


@peers.command(epilog="Example:  p4r peers verdicts --folder compared")
def verdicts(
    folder: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The output of `p4r peers compare`, its sheets filled."),
    ],
    force: Force = False,
) -> None:
    """Read the sheets of raters: win rates with intervals, and how far raters agree.

    A cell holds the letter of the best explanation, or tie. A system wins an example if most
    raters say so.
    """
    from dataclasses import asdict

    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.writing import written_whole
    from indexer.peers.verdicts import Key, read_verdicts
    from indexer.terminal.console import out
    from indexer.terminal.peers import print_verdicts

    key = Key.read(folder / KEY)
    sheets = {
        rater: path for rater in key.orders if (path := folder / f"rater-{rater}.csv").is_file()
    }
    if not sheets:
        raise InputError(f"{folder} holds no sheet: rater-1.csv and so on")
    check_output(folder / RATED, sheets.values(), force=force, ours=VERDICTS)
    refusals = Refusals()
    found = read_verdicts(key, sheets, refusals)
    with written_whole(folder / RATED) as write:
        write(json.dumps(asdict(found), ensure_ascii=False, indent=2))
    print_verdicts(found)
    if absent := [f"rater-{one}.csv" for one in key.orders if one not in sheets]:
        out.say(f"not counted, for {folder} has no such file: {', '.join(absent)}")
    out.say(f"written: {folder / RATED}")
    exit_for(refusals)
