"""Which files are shipped: what the given paths hold, but for what is ignored.

A path below the submit directory keeps its place, any other lies under its own name. What
cannot travel, or would collide, is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from qsub_py.archive import FOLDER, MOST_ENTRIES, ArchiveError, check_path
from qsub_py.archive_pack import Item, item_of, ordered
from qsub_py.errors import SpecError
from qsub_py.ignore import Rule, is_ignored, read_rules
from qsub_py.text import quoted
from qsub_py.units import format_size

MOST_ROOTS = 64
_SHOWN_PARTS = 4


@dataclass(slots=True)
class Root:
    """One path that was given: where it lies here and where it will lie there."""

    shown: str
    source: str
    name: str
    items: list[Item] = field(default_factory=list)

    def place(self, path: str) -> str:
        """Return where what is at `path` in it will lie in the private directory."""
        parts = ("" if self.name == "." else self.name, path)
        return "/".join(part for part in parts if part)


def find_roots(
    paths: Sequence[str], *, base: str, ignore: Sequence[str], does_gitignore: bool, limit: int
) -> list[Root]:
    """Return what the paths hold; see `shipping.make_parcels`. Raises SpecError."""
    roots = _roots(paths, base)
    rules = read_rules(ignore)
    for root in roots:
        others = {other.name: other for other in roots if other is not root}
        _Walk(root, others, rules, _Git.of(root) if does_gitignore else None).run()
    _check_apart(roots)
    _check_limit(roots, limit)
    return roots


def _roots(paths: Sequence[str], base: str) -> list[Root]:
    found: dict[str, Root] = {}
    for path in dict.fromkeys(paths):
        if not path:
            raise SpecError("--ship is empty", hint="name a file or a folder")
        whole = os.path.normpath(os.path.join(base, os.path.expanduser(path)))
        name = _landing(whole, base)
        source = os.path.realpath(whole)
        if not os.path.exists(source):
            raise SpecError(f"--ship: there is no {quoted(path)}")
        before = found.setdefault(name, Root(path, source, name))
        if before.source != source:
            raise _clash(before.shown, path, name)
    if len(found) > MOST_ROOTS:
        raise SpecError(f"--ship can be given {MOST_ROOTS} times", hint="ship the folder above")
    return sorted(found.values(), key=lambda root: root.name)


def _landing(whole: str, base: str) -> str:
    """Return where a path will lie in the private directory: as here, if it is below `base`."""
    for top in (os.path.normpath(base), os.path.realpath(base)):
        if whole == top:
            return "."
        if whole.startswith(top.rstrip("/") + "/"):
            return whole[len(top.rstrip("/")) + 1 :]
    if whole == "/":
        raise SpecError("--ship: the whole of / cannot be shipped")
    return os.path.basename(whole)


def _clash(first: str, second: str, name: str) -> SpecError:
    return SpecError(
        f"--ship: {quoted(first)} and {quoted(second)} would both be {quoted(name)}",
        hint="rename one, or ship a folder that holds both",
    )


class _Git:
    """The .gitignore files that hold for a root, which lies at `own` in its repository."""

    def __init__(self, own: str, rules: list[Rule]) -> None:
        self._own, self.rules = own, rules

    @classmethod
    def of(cls, root: Root) -> _Git | None:
        """Return those above a root; None when they ignore it: who names it wants what is in it."""
        folders = [root.source if os.path.isdir(root.source) else os.path.dirname(root.source)]
        while not os.path.exists(os.path.join(folders[-1], ".git")):
            above = os.path.dirname(folders[-1])
            if above == folders[-1]:
                return cls("", [])  # no repository
            folders.append(above)
        top = folders.pop()
        own = os.path.relpath(root.source, top)
        own = "" if own == "." else own
        git = cls(own, [])
        parts = own.split("/") if own else []
        for count in range(len(parts)):
            path = "/".join(parts[:count])
            git.rules += _rules_in(os.path.join(top, path), path)
            is_folder = count + 1 < len(parts) or os.path.isdir(root.source)
            if is_ignored("/".join(parts[: count + 1]), git.rules, is_folder=is_folder):
                return None
        return git

    def place(self, path: str) -> str:
        """Return where what is at `path` in the root lies in the repository."""
        return "/".join(part for part in (self._own, path) if part)


def _rules_in(folder: str, place: str) -> list[Rule]:
    try:
        with open(os.path.join(folder, ".gitignore"), errors="surrogateescape") as file:
            return read_rules(file, place)
    except OSError:
        return []


class _Walk:
    """Lists what is in one root, but for what is ignored or comes with a root of its own."""

    def __init__(
        self, root: Root, others: dict[str, Root], rules: list[Rule], git: _Git | None
    ) -> None:
        self._root, self._others, self._rules, self._git = root, others, rules, git

    def run(self) -> None:
        """Fill the root's items; raises SpecError."""
        try:
            self._add("", self._root.source, os.stat(self._root.source))
            if os.path.isdir(self._root.source):
                self._look("", self._git.rules if self._git else [])
        except (ArchiveError, OSError) as error:
            raise unreadable(error, self._root) from None
        self._root.items = ordered(self._root.items)

    def _add(self, path: str, source: str, status: os.stat_result) -> None:
        if path:
            check_path(self._root.place(path))
        self._root.items.append(item_of(path, source, status))
        if len(self._root.items) > MOST_ENTRIES:
            raise SpecError(f"--ship: {quoted(self._root.shown)} has over {MOST_ENTRIES} files")

    def _look(self, path: str, above: list[Rule]) -> None:
        folder = os.path.join(self._root.source, path)
        git_rules = [*above, *_rules_in(folder, self._git.place(path))] if self._git else []
        with os.scandir(folder) as entries:
            for entry in entries:
                below = f"{path}/{entry.name}" if path else entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if self._is_left_out(below, git_rules, is_folder):
                    continue
                self._add(below, entry.path, entry.stat(follow_symlinks=False))
                if is_folder:
                    self._look(below, git_rules)

    def _is_left_out(self, path: str, git_rules: list[Rule], is_folder: bool) -> bool:
        place = self._root.place(path)
        other = self._others.get(place)
        if other is not None:
            source = os.path.join(self._root.source, path)
            if other.source != os.path.realpath(source):
                raise _clash(os.path.join(self._root.shown, path), other.shown, place)
            return True
        if self._git:
            if path.rpartition("/")[2] == ".git":
                return True
            if is_ignored(self._git.place(path), git_rules, is_folder=is_folder):
                return True
        return is_ignored(place, self._rules, is_folder=is_folder)


def unreadable(error: Exception, root: Root) -> SpecError:
    """Return what to tell of a file that cannot be packed."""
    if isinstance(error, OSError):
        shown = quoted(os.fsdecode(error.filename or "?"), width=200)
        text, hint = f"cannot read {shown}: {error.strerror}", "leave it out with --ship-ignore"
    else:
        text, hint = str(error), "leave it out with --ship-ignore, or ship a folder around it"
    return SpecError(f"--ship {root.shown}: {text}", hint=hint)


def _check_apart(roots: Sequence[Root]) -> None:
    """Raise SpecError when two roots would make the same file, or one a folder of the other's."""
    owners: dict[str, tuple[Root, str]] = {}
    for root in roots:
        for item in root.items:
            place = root.place(item.entry.path)
            owner, kind = owners.setdefault(place, (root, item.entry.kind))
            if owner is not root and (kind, item.entry.kind) != (FOLDER, FOLDER):
                raise _clash(owner.shown, root.shown, place)
    for root in roots:
        parts = root.name.split("/")
        for count in range(1, len(parts)):
            above = owners.get("/".join(parts[:count]))
            if above is not None and above[1] != FOLDER:
                raise _clash(above[0].shown, root.shown, "/".join(parts[:count]))


def _check_limit(roots: Sequence[Root], limit: int) -> None:
    total = sum(item.entry.size for root in roots for item in root.items)
    if not limit or total <= limit:
        return
    sizes: dict[str, int] = {}
    for root in roots:
        for item in root.items:
            first = item.entry.path.partition("/")[0]
            part = os.path.join(root.shown, first) if first else root.shown
            sizes[part] = sizes.get(part, 0) + item.entry.size
    largest = sorted(sizes.items(), key=lambda pair: -pair[1])[:_SHOWN_PARTS]
    shown = ", ".join(f"{quoted(part)} {format_size(size)}" for part, size in largest if size)
    raise SpecError(
        f"--ship: {format_size(total)} are more than job.ship_limit ({format_size(limit)}):"
        f" {shown}",
        hint="leave parts out with --ship-ignore or --gitignore, or raise the limit",
    )
