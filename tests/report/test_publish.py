import io

import pytest
from etils import epath
from matplotlib.figure import Figure

from sleep_jax.report.publish import publish, save_figure

MARKS = ("<!-- here -->", "<!-- there -->")


def test_publish_replaces_the_text_between_the_marks_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    for text in ("| a |", "| b |"):
        publish(page, MARKS, text)
        assert page.read_text() == f"before\n{MARKS[0]}\n\n{text}\n\n{MARKS[1]}\nafter\n"


@pytest.mark.parametrize(("left", "lacking"), [(0, 1), (1, 0)])
def test_publish_refuses_a_page_without_a_mark(tmp_path, left, lacking):
    page = tmp_path / "README.md"
    page.write_text(MARKS[left])
    with pytest.raises(ValueError, match=f"lacks the mark '{MARKS[lacking]}'"):
        publish(page, MARKS, "text")
    assert page.read_text() == MARKS[left]


def test_save_figure_writes_to_an_address(monkeypatch):
    written = {}

    class File(io.BytesIO):
        def close(self):
            written[self.address] = self.getvalue()

    def open_address(path, mode):
        file = File()
        file.address = str(path)
        return file

    path = epath.Path("gs://bucket/run/comparison")
    monkeypatch.setattr(type(path), "open", open_address)
    save_figure(Figure(), path)
    drawn = {f"{path}.svg": b"<?xml", f"{path}.png": b"\x89PNG"}
    assert {
        address: content[: len(drawn[address])] for address, content in written.items()
    } == drawn
