"""`p4r review`: decisions on personas from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli.outputs import FLAGGED, REVIEW, Force, check_output, new_file
from indexer.cli.shared import Artifacts, AsJson, exit_for, print_json
from indexer.cli.tenant_option import of_tenant
from p4r_qdrant.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from indexer.review.desk import ReviewDesk

review = typer.Typer(
    help="Flag personas, decide on them elsewhere, and withdraw rejected ones.",
    no_args_is_help=True,
)
group = typer.Typer()
group.add_typer(review, name="review")

STATE_NAMES = (
    "open",
    "all",
    "changed",
    "pending",
    "asked",
    "edited",
    "approved",
    "locked",
    "rejected",
)


def _check_state(name: str) -> str:
    if name not in STATE_NAMES:
        raise InputError(f"--state is one of {', '.join(STATE_NAMES)}, not {name[:40]!r}")
    return name


def _check_flag(name: str) -> None:
    from indexer.review.flags import WEIGHTS

    if name not in WEIGHTS:
        raise InputError(f"--flag is one of {', '.join(WEIGHTS)}, not {name[:40]!r}")


@review.command(epilog="Example:  p4r review flag --artifacts examples/bookshop")
def flag(
    artifacts: Artifacts,
    no_encoder: Annotated[
        bool, typer.Option("--no-encoder", help="Skip weak grounding and near twins.")
    ] = False,
    force: Force = False,
) -> None:
    """Look for what is suspicious about each persona, and write DIR/flags.jsonl.

    Flags: injection, complaint, weak grounding, foreign language, near twin. The studio's queue
    is sorted by them, and p4r publish --hide-flagged uses them.
    """
    from importlib.util import find_spec

    if find_spec("py3langid") is None:
        raise MissingExtraError("flags need py3langid: pip install 'p4r-qdrant[indexer]'")
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.artifacts.lines import Refusals
    from indexer.artifacts.names import FLAGS
    from indexer.review.flagging import flag as find_flags
    from indexer.terminal.console import out
    from indexer.terminal.progress import ProgressBar, loading
    from indexer.terminal.tables import print_counts
    from p4r_qdrant.encoder.loading import load_encoder
    from p4r_qdrant.settings import Settings

    folder, refusals, encoder = ArtifactFolder(artifacts), Refusals(), None
    folder.personas()
    check_output(artifacts / FLAGS, (), force=force, ours=FLAGGED)
    if not no_encoder:
        with loading("the encoder"):
            encoder = load_encoder(Settings.load().encoder)
    with ProgressBar() as bar:
        counts = find_flags(folder, encoder, refusals, bar)
    print_counts("flagged", dict(counts.most_common()))
    out.say(f"written: {artifacts / FLAGS}")
    exit_for(refusals)


@review.command(epilog="Example:  p4r review status --artifacts examples/bookshop")
def status(artifacts: Artifacts, as_json: AsJson = False) -> None:
    """Print how many personas wait for a decision, and how many are in each state."""
    from indexer.review.standing import STATES
    from indexer.terminal.console import err
    from indexer.terminal.tables import print_counts

    desk = _desk(artifacts)
    counts, notes = desk.counts(), desk.notes()
    states: dict[str, int] = {one: counts.get(one, 0) for one in STATES}
    if as_json:
        print_json({"states": states, "decisions": desk.decisions, "notes": notes})
    else:
        print_counts("", {**states, "decisions": desk.decisions})
        for note in notes:
            err.say(note)
    exit_for(desk.broken)


@review.command(
    epilog="Example:  p4r review export --artifacts examples/bookshop --output review.csv"
)
def export(
    artifacts: Artifacts,
    output: Annotated[
        Path, typer.Option(metavar="FILE", help="A .csv file, or JSON Lines; - is standard output.")
    ],
    state: Annotated[
        str,
        typer.Option(help=f"One of {', '.join(STATE_NAMES)}.", callback=_check_state),
    ] = "open",
    flag: Annotated[str, typer.Option(help="Only personas with this flag.")] = "",
    reviews: Annotated[
        bool, typer.Option("--reviews", help="With the reviews behind each persona, by number.")
    ] = False,
    force: Force = False,
) -> None:
    """Write personas as a table for a team that decides elsewhere, the riskiest items first.

    Fill the columns decision (approve, edit, reject, lock, split, ask, undo), remark and by; for
    an edit, change the texts. A split also needs the texts of the second half (other_name, ...)
    and the numbers of the reviews that go to it (other_reviews). `p4r review import` reads the
    file.
    """
    from indexer.artifacts.evidence import QuotedEvidence
    from indexer.review.exchange import as_lines, rows

    if flag:
        _check_flag(flag)
    desk = _desk(artifacts)
    evidence = QuotedEvidence(artifacts) if reviews else None
    is_csv = output.name.casefold().removesuffix(".gz").endswith(".csv")
    found = rows(desk, "" if state == "all" else state, flag, evidence)
    with new_file(output, REVIEW, [artifacts], force=force) as write:
        for line in as_lines(found, is_csv=is_csv):
            write(line)
    exit_for(desk.broken)


@review.command(
    "import",
    epilog='Example:  p4r review import review.csv --artifacts books --by "Ann Lee"',
)
def import_(
    table: Annotated[Path, typer.Argument(metavar="FILE", help="The filled table.")],
    artifacts: Artifacts,
    by: Annotated[str, typer.Option(help="Reviewer of the rows that name none.")] = "",
) -> None:
    """Keep the decisions of a table that `p4r review export` wrote.

    Rows without a decision are skipped. A row about a persona that has changed since, or that
    somebody else has decided on, is refused. Killed and run again, it keeps none twice.
    """
    from indexer.artifacts.lines import Refusals
    from indexer.review.exchange import take
    from indexer.terminal.console import out

    refusals = Refusals()
    kept, already = take(_desk(artifacts), table, by, refusals)
    out.say(f"{kept:,} decisions kept, {already:,} were there already")
    exit_for(refusals)


@review.command(epilog="Example:  p4r review withdraw --artifacts examples/bookshop")
@of_tenant
def withdraw(artifacts: Artifacts) -> None:
    """Take all rejected personas out of the live index at once, without a publish."""
    from indexer.terminal.console import out
    from p4r_qdrant.index.opening import open_index
    from p4r_qdrant.settings import Settings

    desk = _desk(artifacts)
    with open_index(Settings.load()) as index:
        dropped = index.drop_personas(desk.items_decided_on(), desk.is_rejected)
        where = index.location
    out.say(f"{dropped:,} personas taken out of {where}")


def _desk(artifacts: Path) -> ReviewDesk:
    from indexer.artifacts.folder import ArtifactFolder
    from indexer.review.desk import ReviewDesk
    from p4r_qdrant.moderation import Rules
    from p4r_qdrant.settings import Settings

    folder = ArtifactFolder(artifacts)
    folder.personas()
    return ReviewDesk(folder, Rules.load(Settings.load().reasoning.rules))
