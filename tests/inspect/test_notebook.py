import json
import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOK = pathlib.Path(__file__).parents[2] / "notebooks" / "inspect_checkpoint.ipynb"


def execute(run, folder):
    """The cells of the notebook after it was run in a folder of its own."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    setting = notebook.cells[1]
    for line in ('SOURCE = ".."', 'RUN = ""'):
        assert line in setting.source
    source = setting.source.replace('SOURCE = ".."', f"SOURCE = {str(NOTEBOOK.parents[1])!r}")
    setting.source = source.replace('RUN = ""', f"RUN = {str(run)!r}")
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    return client.execute().cells


def text_and_figures(cells):
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not any("text/html" in x.get("data", {}) for x in outputs)
    figures = [x for x in outputs if "image/png" in x.get("data", {})]
    text = "".join(x.get("text", "") + x.get("data", {}).get("text/plain", "") for x in outputs)
    return text, len(figures)


def test_notebook_shows_a_run(finished, tmp_path):
    text, figures = text_and_figures(execute(finished, tmp_path))
    assert f"{finished}: finished, 4 phases" in text
    assert "Level 1: 1 of 2 slots in use" in text and "Who built it?" in text
    assert "leaves are identical" in text and "no difference" in text
    assert "'down': ((3, 2, 8), dtype('float32'))" in text
    assert figures == 4 and "\x1b" not in text


@pytest.mark.slow
def test_notebook_makes_a_run_if_there_is_none(tmp_path):
    text, figures = text_and_figures(execute("", tmp_path))
    assert "runs/tiny: finished, 8 phases" in text and figures == 4


def test_notebook_is_stored_without_output():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(not cell["outputs"] and not cell["execution_count"] for cell in code)
