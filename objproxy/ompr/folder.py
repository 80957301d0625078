"""Files of a folder in, files of a folder out."""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from objproxy.ompr.runner import OMPRunner
from objproxy.ompr.worker import RunningWorker


class RunningWorkerFolder(RunningWorker):
    """Base of the classes whose objects make one file of another."""

    @abstractmethod
    def process(self, file_source_path: str, file_target_path: str, **kwargs: Any) -> Any:
        """Process one file.

        Parameters
        ----------
        file_source_path, file_target_path : str
            The file to read, and the file to write; its folder is there.
        **kwargs
            What was given to `FolderMP.process_files_mp`.
        """


class FolderMP:
    """A folder whose files are processed by many workers.

    Parameters
    ----------
    full_path : path
        The folder.
    recursive : bool
        Whether the files of folders inside it belong to it.

    Raises
    ------
    NotADirectoryError
        There is no such folder.
    """

    def __init__(self, full_path: str | os.PathLike[str], recursive: bool = True) -> None:
        self.full_path = Path(full_path)
        self.recursive = recursive
        if not self.full_path.is_dir():
            raise NotADirectoryError(f"{str(full_path)!r} is not a folder")

    def files(self, include: Any = None, exclude: Any = None) -> Iterator[str]:
        """Yield the files, as sorted paths relative to the folder.

        Parameters
        ----------
        include, exclude : str or iterable of str, or None
            Parts of the path: a file is in if it has any of `include` and none of `exclude`.
        """
        wanted, unwanted = _as_parts("include", include), _as_parts("exclude", exclude)
        found = self.full_path.rglob("*") if self.recursive else self.full_path.glob("*")
        for path in sorted(str(path.relative_to(self.full_path)) for path in found if path.is_file()):
            if (wanted is None or any(part in path for part in wanted)) and not any(part in path for part in unwanted or ()):
                yield path

    def process_files_mp(
        self,
        rww_class: type[RunningWorkerFolder],
        path_processed: str | os.PathLike[str],
        add_ext: str | None = None,
        include: Any = None,
        exclude: Any = None,
        devices: Any = "all",
        rww_init_kwargs: Mapping[str, Any] | None = None,
        raise_rww_exception: bool = False,
        report_interval: float | None = 60,
        *,
        progress_bar: bool = True,
        runner_options: Mapping[str, Any] | None = None,
        **processing_func_kwargs: Any,
    ) -> None:
        """Process the files of the folder, one task for each, into another folder with the same paths.

        Parameters
        ----------
        rww_class : type
            The class of the workers' objects.
        path_processed : path
            The folder to write to; folders are made as they are needed.
        add_ext : str or None
            Added to the names of the files that are written.
        include, exclude : str or iterable of str, or None
            Which files; see `files`.
        devices, rww_init_kwargs, raise_rww_exception, report_interval
            As for `OMPRunner`.
        progress_bar : bool
            Whether a bar is shown.
        runner_options : mapping or None
            Further options of `OMPRunner`.
        **processing_func_kwargs
            Given to every call of ``process``.

        Notes
        -----
        A file that fails is logged, and the others are processed; with ``raise_rww_exception=True`` the first failure is
        raised.
        """
        target = Path(path_processed)
        tasks = []
        for path in self.files(include, exclude):
            file_target = target / f"{path}{add_ext or ''}"
            file_target.parent.mkdir(parents=True, exist_ok=True)
            paths = {"file_source_path": str(self.full_path / path), "file_target_path": str(file_target)}
            tasks.append({**paths, **processing_func_kwargs})
        options = {"ordered_results": False, "report_interval": report_interval, **(runner_options or {})}
        with OMPRunner(
            rww_class, rww_init_kwargs, devices=devices, raise_rww_exception=raise_rww_exception, **options
        ) as runner:
            runner.process(tasks)
            for _ in _with_bar(range(len(tasks)), progress_bar):
                runner.get_result()


def _as_parts(name: str, parts: Any) -> tuple[str, ...] | None:
    if parts is None:
        return None
    found = (parts,) if isinstance(parts, str) else tuple(parts) if isinstance(parts, Iterable) else None
    if found is None or not all(isinstance(part, str) for part in found):
        raise TypeError(f"{name}={parts!r}: expected a part of a path, or several of them")
    return found


def _with_bar(numbers: range, is_shown: bool) -> Iterable[int]:
    from tqdm import tqdm  # who shows no bar never loads it

    # tqdm fails where the program has closed its error stream.
    bar: Iterable[int] = tqdm(numbers, unit="file") if is_shown and sys.stderr is not None else numbers
    return bar
