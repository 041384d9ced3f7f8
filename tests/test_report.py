"""The page: what is on it, that it needs nothing else, and that it works in a browser."""

import base64
import importlib.util
import json
import math
import pathlib
import re
import shlex
import shutil

import numpy as np
import pytest

import asmpg
import sweeping
from asmpg.cli import main
from asmpg.core.files import to_line
from asmpg.experiments import EXPERIMENTS, reproduce, training
from asmpg.experiments import results as results_module
from asmpg.report import build_report, LIMIT, own
from asmpg.training.runs import RunWarning
from asmpg.training.runs.folder import RunFolder
from asmpg.training.runs.records import History
from asmpg.training.stored_config import to_json
from training_tables import fake_tables


# One white pixel.
PICTURE = base64.b64decode(
    b"iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mP8/x8AAwMCAO+ip1sAAAAASUVORK5CYII="
)
FINALS = {
    "lstm": {20: 0.95, 100: 0.93, 500: 0.9},
    "one-step": {20: 0.95, 100: 0.9, 500: 0.2},
    "sac": {20: 0.5, 100: 0.4},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two tables as `reproduce` leaves them, of runs that never were; and a picture."""
    root = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "measure_suite", lambda *_: fake_tables(FINALS, rise={"sac": 1.0}))
        patch.setattr(training.AbstractSweepExperiment, "suite", lambda *_: None)
        patch.setattr(results_module, "encode", lambda *_: PICTURE)
        reproduce(EXPERIMENTS["7"], "7", "cpu", root / "myriad", command="asmpg reproduce 7 --scale cpu")
        pendulum = fake_tables({"simulator": {100: 0.1}, "lstm": {100: 0.8}}, ("double_pendulum",))
        patch.setattr(training, "measure_suite", lambda *_: pendulum)
        reproduce(EXPERIMENTS["4"], "4", "smoke", root / "pendulum")
    return root


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    """The page about them."""
    path = tmp_path_factory.mktemp("page") / "new" / "report.html"
    content = build_report(results, path)
    assert content["bytes"] == path.stat().st_size < LIMIT
    assert content["results"] == ["pendulum", "myriad"]
    return path


def test_the_page_says_what_was_done(page, results):
    text = page.read_text()
    stored = [json.loads(path.read_text()) for path in results.rglob("verdicts.json")]
    for content in stored:
        for verdict in content["verdicts"]:
            assert verdict["id"] in text
    for number in ("4", "6", "7", "10", "13", "14"):
        assert f"Figure {number}: {EXPERIMENTS[number].texts[number].title}" in text
    assert text.index('<h2 id="verdicts-title"') < text.index("Figure 4:")
    assert '<code class="command">asmpg reproduce 7 --scale cpu</code>' in text
    assert "8,000" in text and "cpu (reduced)" in text and "0.930" in text
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text, re.DOTALL)[1])
    assert {chart["figure"] for chart in charts.values()} == {"4", "6", "7", "10", "13", "14"}
    assert len(re.findall("data-chart=", text)) == len(charts)


def test_the_page_needs_no_network(page):
    """No element loads anything, and a policy forbids what a script might try."""
    text = page.read_text()
    assert "default-src 'none'" in text
    addresses = re.findall(r'<(?:script|link|img|iframe|source)[^>]*?(?:src|href)="([^"]*)"', text)
    assert all(address.startswith("data:") for address in addresses)
    assert "@import" not in text and not re.search(r"url\((?!data:)", text)


def test_every_figure_has_a_text():
    for figure, experiment in EXPERIMENTS.items():
        assert experiment.texts[figure].title and experiment.texts[figure].claim


def test_words_of_others_cannot_break_the_page(results, tmp_path):
    """Whatever is in a file of results is text."""
    copy = tmp_path / "copy"
    shutil.copytree(results / "pendulum", copy)
    content = json.loads((copy / "verdicts.json").read_text())
    content["command"] = content["title"] = "</script><script>alert(1)</script>"
    (copy / "verdicts.json").write_text(json.dumps(content))
    build_report(copy, tmp_path / "page.html")
    assert "<script>alert" not in (tmp_path / "page.html").read_text()


def test_what_is_no_result_is_left_out_with_a_word(results, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    (copy / "other").mkdir()
    (copy / "other" / "verdicts.json").write_text('{"figure": "7"}')
    (copy / "myriad" / "verdicts.json").write_text("{")
    with pytest.warns(RunWarning, match="left out") as caught:
        content = build_report(copy, tmp_path / "page.html")
    assert content["results"] == ["pendulum"] and len(caught) == 2


@pytest.mark.parametrize("part", ["reason", "hours", "iqm", "protocol"])
def test_a_result_that_cannot_be_shown_is_left_out_with_a_word(results, tmp_path, part):
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    content = json.loads((copy / "myriad" / "verdicts.json").read_text())
    match part:
        case "reason":
            del content["verdicts"][0]["numbers"]["reason"]
        case "hours":
            content["protocol"]["hours"] = None
        case "iqm":
            content["scores"][0]["iqm"] = None
        case _:
            content["protocol"] = []
    (copy / "myriad" / "verdicts.json").write_text(json.dumps(content))
    with pytest.warns(RunWarning, match="myriad.*left out"):
        assert build_report(copy, tmp_path / "page.html")["results"] == ["pendulum"]


def test_without_pyarrow_it_says_what_brings_it(capfd, results, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    copy = tmp_path / "copy"
    shutil.copytree(results / "myriad", copy)
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert main(shlex.split(f"reproduce 7 --redraw --out {copy}")) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1) and "pip install 'asmpg[" in err
    assert before == {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}


def test_pictures_that_are_no_charts_are_on_the_page(results, tmp_path):
    from PIL import Image

    copy = tmp_path / "copy"
    shutil.copytree(results / "pendulum", copy, ignore=shutil.ignore_patterns("*.png"))
    for name in ("figure_10d", "another", "figure_4", "figure_10"):
        Image.new("RGB", (2000, 10), "red").save(copy / f"{name}.png")
    build_report(copy, tmp_path / "page.html")
    pictures = re.findall(
        r'<img src="data:image/png;base64,[^"]*" alt="([^:]*):', (tmp_path / "page.html").read_text()
    )
    assert pictures == ["another", "figure 10d"]


def test_offline_tables_become_charts():
    """Means over seeds, and a band only where there is a spread."""
    from asmpg.experiments.table import Table

    table = Table()
    for seed, cosine in enumerate((0.8, 1.0)):
        table.add(model="lstm", horizon=5, seed=seed, cosine=cosine)
        table.add(model="rnn", horizon=5, seed=seed, cosine=0.5)
    (chart,) = EXPERIMENTS["2"].charts({"toy_offline": table})
    lstm, rnn = chart.panels[0].series
    assert (lstm.y, rnn.low) == ([0.9], ()) and lstm.low == [pytest.approx(0.8)]


@pytest.mark.parametrize(
    ("line", "option", "allowed"),
    [
        ("report nowhere", "RESULTS", "no folder"),
        ("report . -o there", "RESULTS", "verdicts.json"),
        ("report . --out .", "--out", "must be a file"),
    ],
)
def test_mistakes_are_one_line(capfd, tmp_path, monkeypatch, line, option, allowed):
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"asmpg: {option}") and allowed in err
    assert not list(tmp_path.iterdir())


def test_the_command_line_writes_it(capfd, results, tmp_path):
    assert main(["report", str(results), "-o", str(tmp_path / "a.html"), "--json"]) == 0
    content = json.loads(capfd.readouterr().out, parse_constant=pytest.fail)
    assert content["bytes"] == (tmp_path / "a.html").stat().st_size
    stored = [json.loads(path.read_text()) for path in results.rglob("verdicts.json")]
    assert sum(content["verdicts"].values()) == sum(len(one["verdicts"]) for one in stored) > 12


# Runs and sweeps of the user's own


def leave_run(path, scores, seconds=90.0, **options):
    """A run folder as training leaves it, finished at once: scores [records, seeds], or returns alone."""
    options = {"model": "transformer", **options}
    config = asmpg.TrainConfig("bioreactor", horizon=6, num_seeds=len(scores[0]), steps=300, **options)
    folder, history = RunFolder(path), History()
    path.mkdir(parents=True)
    folder.write_config(to_json(config), {"asmpg": "0", "device": "an abacus"})
    for record, values in enumerate(scores):
        numbers = {"return": 2.0 * np.array(values), "score": np.array(values)}
        if options.get("record_cosine"):
            del numbers["score"]
        history.add(100 * (record + 1), record, numbers)
    folder.write("metrics.jsonl", history.lines)
    folder.write("timings.jsonl", to_line({"steps": 300, "seconds": seconds}))


@pytest.fixture
def trained(tmp_path):
    """Two runs that differ in one setting, and one without scores."""
    leave_run(tmp_path / "own" / "a", [(0.0, 0.0), (0.5, 0.7), (0.9, 0.94)], overrides={"entropy": 0.1})
    leave_run(tmp_path / "own" / "b", [(0.0, 0.0), (0.4, 0.6)], overrides={"entropy": 0.01})
    leave_run(tmp_path / "own" / "c", [(0.1,), (math.nan,)], model="lstm", record_cosine=True)
    return tmp_path / "own"


def test_runs_of_ones_own_are_reported(trained, tmp_path, capfd):
    """Curves, final scores with intervals, what distinguishes runs, settings and time; a missing optimum is said."""
    assert main(["report", str(trained), "-o", str(tmp_path / "page.html"), "--json"]) == 0
    content = json.loads(capfd.readouterr().out, parse_constant=pytest.fail)
    assert (content["runs"], content["sweeps"], content["verdicts"]) == (["a", "b", "c"], [], {})
    (group,) = own.read_own(trained)
    rows = {row["method"]: row for row in group.rows}
    assert rows.keys() == {"transformer, entropy=0.1", "transformer, entropy=0.01", "lstm"}
    first = rows["transformer, entropy=0.1"]
    assert first["score"].startswith("0.92 [0.9") and (first["seeds"], first["steps"]) == (2, 300)
    assert first["return"].startswith("1.84 [") and first["minutes"] == pytest.approx(1.5)
    assert rows["lstm"]["score"] == "-" and rows["lstm"]["num_null"] == 1
    assert dict(group.settings)["transformer, entropy=0.1"] == "preset default, entropy = 0.1"
    page = (tmp_path / "page.html").read_text()
    assert "3 runs of your own" in page and "Contents" in page and f"asmpg {asmpg.__version__}" in page
    assert "an abacus" in page, "what they were made on"
    (chart,) = group.charts.values()
    (panel,) = chart["panels"]
    # Where one has no score, all are shown by what they have in common.
    assert panel["y_label"] == "return" and len(panel["series"]) == 3
    a = next(line for line in panel["series"] if line["name"] == "transformer, entropy=0.1")
    assert a["x"] == [100, 200, 300] and a["y"] == [0.0, 1.2, 1.84]
    assert all(low <= y <= high for low, y, high in zip(a["low"], a["y"], a["high"], strict=True))


def test_a_sweep_of_ones_own_is_reported(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    with sweeping.pretending(monkeypatch):
        sweeping.sweep(sweeping.write_suite(tmp_path), tmp_path / "all" / "tiny")
    (group,) = own.read_own(tmp_path / "all")
    assert group.title == "sweep tiny" and len(group.rows) == sweeping.NUM_ITEMS
    assert {row["method"].partition(", ")[2] for row in group.rows} == {
        f"entropy={e}" for e in (0.1, 0.01, 0.001)
    }
    assert group.hardware and group.versions and group.hours > 0
    assert main(["report", "all", "--json"]) == 0
    content = json.loads(capfd.readouterr().out)
    assert (content["runs"], content["sweeps"]) == ([], ["tiny"])


def test_a_damaged_run_leaves_the_others(trained, tmp_path):
    config = trained / "a" / "config.json"
    config.write_text(config.read_text().replace("bioreactor", "bioreacter"))
    with pytest.warns(RunWarning, match=r"a is left out: was edited"):
        (group,) = own.read_own(trained)
    assert len(group.rows) == 2


def test_what_cannot_be_shown_is_named_on_the_page(results, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    (copy / "myriad" / "charts.json").unlink()
    with pytest.warns(RunWarning, match="--redraw"):
        content = build_report(copy, tmp_path / "page.html")
    assert (
        content["left_out"] == ["myriad"]
        and "Left out: <code>myriad</code>" in (tmp_path / "page.html").read_text()
    )


# In a browser


@pytest.fixture(scope="module")
def browser():
    """Chromium or Chrome without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    binary = next((path for name in names if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium or Chrome with its chromedriver was found")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    started.set_window_size(1280, 1000)
    yield started
    started.quit()


@pytest.fixture
def opened(browser, page):
    """The page in the browser, which must not complain."""
    browser.get(pathlib.Path(page).resolve().as_uri())
    browser.get_log("browser")
    browser.get(pathlib.Path(page).resolve().as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    yield browser
    assert browser.get_log("browser") == []


# What a canvas shows, as a number that changes when it does.
INK = """
const canvas = arguments[0].querySelector("canvas"), data = canvas.getContext("2d")
  .getImageData(0, 0, canvas.width, canvas.height).data;
let sum = 0;
for (let i = 0; i < data.length; i += 1) sum = (sum * 31 + data[i]) % 1000000007;
return sum;
"""


def chart_of(browser, figure):
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, f'[data-chart$="figure_{figure}"]')


def box(chart, text):
    from selenium.webdriver.common.by import By

    labels = chart.find_elements(By.CSS_SELECTOR, "label")
    return next(label for label in labels if label.text.strip() == text).find_element(By.TAG_NAME, "input")


@pytest.mark.browser
def test_methods_and_axes_can_be_switched(opened):
    from selenium.webdriver.common.keys import Keys

    chart = chart_of(opened, 7)

    def ink():
        opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        return opened.execute_script(INK, chart)

    everything = ink()
    seen = {everything}
    for switch in ("lstm", "log x", "log y"):
        opened.execute_script("arguments[0].scrollIntoView()", chart)
        box(chart, switch).send_keys(Keys.SPACE)
        changed = ink()
        assert changed not in seen
        seen.add(changed)
        box(chart, switch).send_keys(Keys.SPACE)
        assert ink() == everything


@pytest.mark.browser
def test_the_keyboard_reads_values_out(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    panel = chart_of(opened, 7).find_element(By.CSS_SELECTOR, ".panel")
    output = panel.find_element(By.TAG_NAME, "output")
    panel.send_keys(Keys.HOME)
    assert output.text.startswith("horizon H 20:") and "lstm 0.95" in output.text
    panel.send_keys(Keys.ARROW_RIGHT)
    assert output.text.startswith("horizon H 100:") and "lstm 0.93" in output.text
    box(chart_of(opened, 7), "lstm").send_keys(Keys.SPACE)
    panel.send_keys(Keys.END)
    assert (
        output.text.startswith("horizon H 500:")
        and "lstm" not in output.text
        and "one-step 0.2" in output.text
    )


@pytest.mark.browser
def test_a_pointer_reads_values_out_in_all_panels(opened):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    panels = chart_of(opened, 6).find_elements(By.CSS_SELECTOR, ".panel")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", panels[0])
    ActionChains(opened).move_to_element(panels[0].find_element(By.CSS_SELECTOR, ".u-over")).perform()
    texts = [panel.find_element(By.TAG_NAME, "output").text for panel in panels]
    assert all(text.startswith("environment steps") for text in texts) and len(texts) == 3


@pytest.mark.browser
def test_dark_and_light_and_a_narrow_screen(opened):
    from selenium.webdriver.common.by import By

    def background():
        return opened.execute_script("return getComputedStyle(document.body).backgroundColor")

    before, ink = background(), opened.execute_script(INK, chart_of(opened, 7))
    opened.find_element(By.ID, "theme").click()
    assert background() != before
    assert opened.execute_script(INK, chart_of(opened, 7)) != ink
    opened.find_element(By.ID, "theme").click()
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 2, "mobile": True},
    )
    opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    width = opened.execute_script("return document.documentElement.scrollWidth")
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width == 390
