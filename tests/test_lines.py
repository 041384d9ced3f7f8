"""How far long work is, where there is no terminal to draw a bar on."""

from asmpg.cli.lines import part_lines


def written(path, reports) -> list[str]:
    with path.open("w") as stream, part_lines(stream) as lines:
        for report in reports:
            lines(*report)
    return path.read_text().splitlines()


def test_a_part_is_counted_from_one_and_the_last_is_not_passed(tmp_path):
    reports = [(0, 2, "first"), (1, 2, "second"), (2, 2, "over")]
    parts = [line.split(",")[0] + line.partition("]")[2] for line in written(tmp_path / "lines", reports)]
    assert parts == ["[1/2 first", "[2/2 second", "[2/2 over"]


def test_a_part_that_reports_often_is_written_once(tmp_path):
    assert len(written(tmp_path / "lines", [(0, 2, "first")] * 100)) == 1
