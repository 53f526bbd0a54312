"""Pose recordings with texts.

A folder holds for each split NAME its recordings in `NAME.skels` (or in another format, such as `NAME.npz`), their
texts in `NAME.text`, and optionally their glosses in `NAME.gloss` and names in `NAME.files`, line by line in the order
of the recordings: the layout of Progressive Transformers. Or recordings lie in any files, and a table (.tsv, or .csv)
says with the columns `name` and `text`, and optionally `split` and `gloss`, what is signed in which.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtskel.errors import FormatError
from rtskel.formats import Recording, read

BESIDE = (".text", ".gloss", ".files")
"""Suffixes of what lies beside the recordings of a split."""


@dataclass(frozen=True)
class Sentence:
    """A recording, what is signed in it, and its glosses (None: unknown)."""

    poses: Recording
    text: str
    gloss: str | None = None

    @property
    def name(self) -> str:
        """Of the recording."""
        return self.poses.name


def sentences(path: str | Path, split: str, table: str | Path | None = None, **reading: Any) -> list[Sentence]:
    """The sentences of a split.

    Args:
        path: a folder in the layout above; with `table` recordings, or a folder of them.
        table: names, texts, glosses and splits of the recordings. Without a column `split` all belong to every split.
        reading: what `rtskel.formats.read` is told about the recordings.

    Raises:
        FormatError: no such split, lines that do not match, an empty text, recordings that are 2D or cannot be read.
    """
    path = Path(path)
    found = _from_table(path, split, Path(table), reading) if table else _from_folder(path, split, reading)
    for number, sentence in enumerate(found, 1):
        if not sentence.text:
            raise FormatError(f"{path}: split {split!r}, sentence {number} ({sentence.name}): empty text")
        if sentence.poses.dims != 3:
            raise FormatError(f"{path}: recording {sentence.name!r} is 2D, 3D is translated (see rtskel lift)")
        if sentence.poses.skeleton != found[0].poses.skeleton:
            raise FormatError(f"{path}: recordings of several skeletons: {found[0].poses.skeleton!r} and "
                              f"{sentence.poses.skeleton!r}")  # fmt: skip
    return found


def _from_folder(folder: Path, split: str, reading: dict[str, Any]) -> list[Sentence]:
    if not folder.is_dir():
        raise FormatError(f"{folder}: no such folder (recordings elsewhere need a table of texts: --table)")
    texts = _lines(folder / f"{split}.text") if (folder / f"{split}.text").is_file() else None
    if texts is None:
        known = sorted(file.stem for file in folder.glob("*.text"))
        raise FormatError(
            f"{folder}: no split {split!r}: {split}.text is absent (splits: {', '.join(known) or 'none'})"
        )
    files = sorted(file for file in folder.glob(f"{split}.*") if file.suffix not in BESIDE and file.is_file())
    if len(files) != 1:
        what = f"{files[0].name} and {files[1].name}" if files else f"no {split}.skels"
        raise FormatError(f"{folder}: one file of recordings of the split {split!r} expected, found {what}")
    recordings = read(files[0], **reading)
    glosses: Sequence[str | None] = [None] * len(recordings)
    if (folder / f"{split}.gloss").is_file():
        glosses = _lines(folder / f"{split}.gloss")
    for suffix, lines in ((".text", texts), (".gloss", glosses)):
        if len(lines) != len(recordings):
            raise FormatError(f"{folder / split}{suffix}: {len(lines)} lines for the {len(recordings)} recordings of "
                              f"{files[0].name}")  # fmt: skip
    return [Sentence(*of) for of in zip(recordings, texts, glosses, strict=True)]


def _lines(path: Path) -> list[str]:
    try:
        return [" ".join(line.split()) for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read ({error})") from None


def _from_table(path: Path, split: str, table: Path, reading: dict[str, Any]) -> list[Sentence]:
    rows = {row["name"]: row for row in _rows(table, split)}
    found, unread = dict[str, Sentence](), dict[str, FormatError]()
    for recording in recordings_of(path, reading, unread):
        row = rows.get(recording.name)
        if row is not None and recording.name in found:
            raise FormatError(f"{path}: two recordings are named {recording.name!r}, of which {table} tells one text")
        if row is not None:
            found[recording.name] = Sentence(recording, row["text"], row.get("gloss") or None)
    absent = [name for name in rows if name not in found]
    for name in absent:
        if name in unread:
            raise unread[name]
    if absent:
        raise FormatError(f"{table}: no recording {absent[0]!r} in {path} ({len(absent)} of its names are absent)")
    return [*found.values()]


def recordings_of(path: Path, reading: dict[str, Any], unread: dict[str, FormatError]) -> Iterator[Recording]:
    """The recordings of a file; of a folder, those of all its files, in the order of their names. Files of a folder
    that cannot be read, such as videos and notes, are passed over; `unread` gets the reasons by their names.
    """
    if path.is_dir() and (files := sorted(file for file in path.iterdir() if file.is_file())):
        for file in files:
            if file.suffix in (*BESIDE, ".tsv", ".csv"):
                continue
            try:
                yield from read(file, **reading)
            except FormatError as error:
                unread[file.stem] = error
    else:
        yield from read(path, **reading)


def _rows(table: Path, split: str) -> Iterable[dict[str, str]]:
    """The rows of a split, each name once."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="," if table.suffix == ".csv" else "\t", restval="")
            columns = list(reader.fieldnames or [])
            rows = [{key: " ".join(str(value).split()) for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(f"{table}: cannot be read ({error})") from None
    if absent := {"name", "text"} - set(columns):
        raise FormatError(f"{table}: no column {min(absent)!r} (found: {', '.join(columns) or 'none'})")
    names = Counter(row["name"] for row in rows)
    if repeated := next((name for name, count in names.items() if count > 1), None):
        raise FormatError(f"{table}: name {repeated!r} is repeated")
    if "split" in columns:
        splits = list(dict.fromkeys(row["split"] for row in rows))
        rows = [row for row in rows if row["split"] == split]
        if not rows:
            raise FormatError(f"{table}: no split {split!r} (splits: {', '.join(splits) or 'none'})")
    if not rows:
        raise FormatError(f"{table}: no rows")
    return rows
