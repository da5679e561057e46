"""Turn a published data set into items.jsonl, reviews.jsonl and splits.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from indexer.artifacts.lines import Refusals
from indexer.artifacts.names import ITEMS, REVIEWS, SPLITS
from indexer.artifacts.writing import written_whole
from indexer.datasets import tables
from indexer.datasets.columns import NamedColumns, checked_columns
from indexer.datasets.delimited import Layout, TextRow
from indexer.datasets.output_folder import output_folder
from indexer.datasets.own_fields import OwnFields
from indexer.datasets.selection import Selection
from indexer.datasets.sources import Format, Kind, LeftOut, Row, Source, read_rows
from indexer.datasets.store import Store
from indexer.datasets.values import storable
from indexer.progress import SILENT, Progress
from p4r_qdrant.errors import InputError
from p4r_qdrant.records import Item, Review
from p4r_qdrant.validation import validation_sentence

_REPORT_EVERY = 1000


def as_parquet(name: str) -> str:
    """The name of an artifact's Parquet file."""
    return Path(name).with_suffix(".parquet").name


FILES = tuple(file for name in (ITEMS, REVIEWS, SPLITS) for file in (name, as_parquet(name)))
"""What `prepare` writes."""


@dataclass
class PrepareReport:
    """Numbers of lines written, by file, and of records left out, by reason."""

    written: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Dataset:
    """The files or data frames of a data set, in one format. `items` may be empty.

    review_layout, item_layout: of files with separators.
    """

    form: Format
    reviews: Sequence[Source]
    items: Sequence[Source] = ()
    review_layout: Layout = field(default_factory=Layout)
    item_layout: Layout = field(default_factory=Layout)

    def sources(self, kind: Kind) -> tuple[Sequence[Source], Layout]:
        """The files of items or of reviews, and their layout."""
        if kind == "items":
            return self.items, self.item_layout
        return self.reviews, self.review_layout


def prepare(
    dataset: Dataset,
    output: Path,
    refusals: Refusals,
    *,
    selection: Selection | None = None,
    parquet: bool = False,
    progress: Progress = SILENT,
) -> PrepareReport:
    """Turn a data set into artifacts, which appear in `output` when all are written.

    The same sources give the same bytes. A row that is no valid record is refused.

    parquet: write each file as Parquet too.
    progress: each row that is read is a step.
    Raises: InputError if a source cannot be read to its end, or if no interaction is left.
    """
    selection = selection or Selection()
    if parquet:
        tables.check_installed()
    report = PrepareReport()
    rows = _Rows(dataset, refusals, report, progress)
    with output_folder(output, _replace_files) as folder, Store(report.left_out) as store:
        store.add_items(rows.items(), selection)
        store.add_reviews(rows.reviews())
        rows.check()
        filtered = bool(selection.cities or selection.categories)
        store.relate(not filtered and (selection.unknown_items or not dataset.items))
        store.select(selection)
        if not store.count("kept"):
            raise InputError(_nothing_left(refusals, report))
        artifacts = {
            ITEMS: rows.own_fields.typed(store.items()),
            REVIEWS: store.reviews(),
            SPLITS: store.splits(selection),
        }
        for name, lines in artifacts.items():
            with written_whole(folder / name) as write:
                for line in lines:
                    write(line)
                    report.written[name] += 1
            if parquet:
                tables.write_parquet(folder / name, folder / as_parquet(name))
    return report


def _nothing_left(refusals: Refusals, report: PrepareReport) -> str:
    why = [f"{count} {reason}" for reason, count in (refusals.counts + report.left_out).items()]
    first = f"; the first refusal: {refusals.sentences[0]}" if refusals.sentences else ""
    return f"no interaction is left, nothing was written: {', '.join(why) or 'no rows'}{first}"


class _Rows:
    """Reads the sources of a data set as records; what is no record is refused."""

    def __init__(
        self, dataset: Dataset, refusals: Refusals, report: PrepareReport, progress: Progress
    ) -> None:
        self._dataset = dataset
        self._refusals = refusals
        self._left_out = report.left_out
        self._progress = progress
        self._columns = NamedColumns(dataset.form, refusals)
        self.own_fields = OwnFields()

    def items(self) -> Iterator[Item]:
        form = self._dataset.form
        for where, row in self._read("items"):
            try:
                item = Item.model_validate(storable(form.item(row)))
            except ValueError as error:
                self._refusals.add(f"{where}: {_sentence(error)}", "broken item")
                continue
            own = item.model_extra or {}
            self.own_fields.see(where, own, only_texts=isinstance(row, TextRow))
            yield item

    def reviews(self) -> Iterator[Review]:
        form = self._dataset.form
        for where, row in self._read("reviews"):
            try:
                yield Review.model_validate(form.review(row))
            except LeftOut as reason:
                self._left_out[str(reason)] += 1
            except ValueError as error:
                self._refusals.add(f"{where}: {_sentence(error)}", "broken review")

    def check(self) -> None:
        """Raise InputError if a named column was in no row; note what became of own fields."""
        self._columns.check()
        self.own_fields.tell(self._refusals)

    def _read(self, kind: Kind) -> Iterator[tuple[str, Row]]:
        form = self._dataset.form
        sources, layout = self._dataset.sources(kind)
        unreported = 0
        for source in sources:
            name = f"reading {source.name}" if isinstance(source, Path) else "reading rows"
            self._progress.start(name)
            rows = read_rows(
                source, self._refusals, python_literals=form.python_literals, layout=layout
            )
            for where, row in checked_columns(source, kind, form, rows):
                unreported += 1
                if unreported == _REPORT_EVERY:
                    self._progress.advance(unreported)
                    unreported = 0
                self._columns.see(kind, row)
                yield where, row
        self._progress.advance(unreported)


def _sentence(error: ValueError) -> str:
    return validation_sentence(error) if isinstance(error, ValidationError) else str(error)


def _replace_files(written: Path, output: Path) -> None:
    """Replace the artifacts of a folder; reviews.jsonl is missing until all others are there."""
    (output / REVIEWS).unlink(missing_ok=True)
    for name in (ITEMS, SPLITS, REVIEWS):
        for file in (as_parquet(name), name):
            if (written / file).exists():
                (written / file).replace(output / file)
            else:
                (output / file).unlink(missing_ok=True)
