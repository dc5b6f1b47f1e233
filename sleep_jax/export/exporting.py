"""Writes a run in another format, compares it with the run, and only then gives it its name."""

import contextlib
import gc
import pathlib
import shutil
from collections.abc import Iterator

import jax

from sleep_jax.errors import UnrecoverableError
from sleep_jax.export import verify
from sleep_jax.export.card import card, is_verified, without_checks
from sleep_jax.export.delta import DeltaExport
from sleep_jax.export.gguf import GGUFExport
from sleep_jax.export.hf import HuggingFaceExport
from sleep_jax.export.options import Export, Options
from sleep_jax.export.peft import PeftExport
from sleep_jax.export.questions import questions_of
from sleep_jax.export.run_model import RunModel
from sleep_jax.export.serving import serving_lines
from sleep_jax.runtime.progress import phase_progress

FORMATS = {
    "hf": HuggingFaceExport,
    "gguf": GGUFExport,
    "delta": DeltaExport,
    "peft": PeftExport,
}


class ExportRefused(UnrecoverableError):
    """An export differs from its run; it is left under another name."""


def export(workdir: str, folder: str, options: Options) -> verify.Verification | None:
    """Exports a run.

    Args:
      workdir: of the run.
      folder: to be made.
      options: how.

    Returns:
      How the export compares with the run; None where it was not asked for.

    Raises:
      ExportRefused: it differs from the run by more than rounding.
      ValueError, OSError: the run cannot be exported so, or the folder cannot be written; says what
        to do.
    """
    target = pathlib.Path(folder).expanduser()
    draft = target.with_name(f"{target.name}.unverified")
    for path in (target, draft):
        if path.exists():
            raise FileExistsError(f"{path} exists; delete it, or give another folder")
    model = RunModel.open(workdir)
    exported: Export = FORMATS[options.to](model, options)
    _check_disk(target, exported.size)
    with _made(draft):
        with phase_progress("write", exported.tensors, "tensor") as bar:
            exported.write(draft, bar.advance)
        checked = None
        if options.questions:
            checked = _verified(model, exported, draft, options.questions)
        how_to_use, facts = exported.description(target.name)
        facts += _serving_facts(draft)
        text = card(model, options.to, how_to_use, facts, checked)
        (draft / "README.md").write_text(text, encoding="utf-8")
    if checked and checked.problems:
        raise ExportRefused(
            f"the export is not the model of {workdir}: {'; '.join(checked.problems)}. It is left "
            f"in {draft}"
        )
    draft.rename(target)
    return checked


def is_exported(workdir: str, folder: str, options: Options) -> bool:
    """Whether a folder is there already, with this export in it, verified.

    Args:
      workdir, folder, options: as for `export`.

    Raises:
      FileExistsError: it is there, and holds something else.
      ValueError, OSError: as `export`.
    """
    target = pathlib.Path(folder).expanduser()
    if not target.exists():
        return False
    model = RunModel.open(workdir)
    how_to_use, facts = FORMATS[options.to](model, options).description(target.name)
    facts += _serving_facts(target)
    readme = target / "README.md"
    written = readme.read_text(encoding="utf-8") if readme.exists() else ""
    expected = card(model, options.to, how_to_use, facts, None)
    if without_checks(written) != without_checks(expected):
        raise FileExistsError(
            f"{target} exists, and is not this export of {workdir}; delete it, or give another "
            "folder"
        )
    if not is_verified(written):
        raise FileExistsError(f"{target} exists, but was not verified; delete it")
    return True


def _serving_facts(folder: pathlib.Path) -> list[str]:
    return [x for line in serving_lines(folder) for x in ("", f"{line}.")]


@contextlib.contextmanager
def _made(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder, and removes it again where what fills it fails."""
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_disk(target: pathlib.Path, size: int) -> None:
    parent = next(path for path in target.absolute().parents if path.exists())
    if (free := shutil.disk_usage(parent).free) < size:
        raise OSError(f"{target} needs {size / 1e9:.1f} GB, {parent} has {free / 1e9:.1f} GB left")


def _verified(
    model: RunModel, exported: Export, draft: pathlib.Path, count: int
) -> verify.Verification:
    """The export asked beside the run; one model is in memory at a time."""
    questions = questions_of(model.checkpoint.record["run"], count)
    longest, dtype = model.base.settings.evaluation.max_new_tokens, exported.reference_dtype
    with phase_progress("verify", 2 * verify.STEPS, "step") as bar:
        program = (verify.run_program if exported.has_base else verify.exact_run)(model, dtype)
        run = verify.answers_of(program, questions, longest, None, bar.advance)
        del program
        if not exported.has_base and not exported.is_merged:
            run = verify.with_rounding(run, verify.rounded_run(model, exported.precision))
        _free()
        with exported.program(draft) as program:
            other = verify.answers_of(program, questions, longest, run, bar.advance)
    _free()
    reference = f"the run in {dtype}" if exported.has_base else "both computed in float32"
    return verify.compare(run, other, reference, exported.precision)


def _free() -> None:
    """Gives back what no name holds any more, programs with their constants included."""
    jax.clear_caches()
    gc.collect()
