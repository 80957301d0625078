"""Every example runs as a user runs it, and what it prints is right."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from optional import needs

EXAMPLES = Path(__file__).parents[1] / "examples"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NUMBER = r"([-+]?\d+(?:\.\d+)?)"


def run(name, *arguments, directory):
    """Run an example in an empty directory; return what it printed."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=directory,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def magnetisations(text):
    """Return {temperature: (measured, exact)} of the quickstart's table."""
    rows = re.findall(rf"^ +{NUMBER} +{NUMBER} +{NUMBER} +{NUMBER}$", text, re.MULTILINE)
    return {float(temperature): (float(measured), float(exact)) for temperature, measured, exact, _ in rows}


def test_every_example_has_a_test():
    tested = set(re.findall(r'\brun\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.slow
def test_quickstart_agrees_with_the_exact_result(tmp_path):
    text = run("quickstart.py", "--workers", "2", "--sweeps", "1000", directory=tmp_path)
    below_critical = {t: pair for t, pair in magnetisations(text).items() if t < 2.15}
    assert sorted(below_critical) == [1.5, 1.8, 2.0, 2.1]
    for measured, exact in below_critical.values():
        assert measured == pytest.approx(exact, abs=0.02)


def test_quickstart_survives_an_error_and_a_killed_worker(tmp_path):
    text = run("quickstart.py", "--workers", "2", "--sweeps", "20", "--size", "8", directory=tmp_path)
    assert "pool[0] raised ValueError: temperature -1.0 is not positive" in text
    assert "pool[0] died: worker 0, SIGKILL, in 'crash'" in text
    assert "2 of 2 lattices answered, generations [1, 0]" in text


def test_quickstart_gives_the_same_table_for_any_number_of_workers(tmp_path):
    small = ("--sweeps", "50", "--size", "16")
    one = magnetisations(run("quickstart.py", "--workers", "1", *small, directory=tmp_path))
    three = magnetisations(run("quickstart.py", "--workers", "3", *small, directory=tmp_path))
    assert len(one) == 7
    assert one == three


@pytest.mark.slow
def test_mesa_ensemble_draws_its_figure(tmp_path):
    small = ("--workers", "2", "--seeds", "3", "--steps", "8", "--size", "12")
    text = run("mesa_ensemble.py", *small, "--output", "ensemble.png", directory=tmp_path)
    assert (tmp_path / "ensemble.png").read_bytes().startswith(PNG_SIGNATURE)
    runs = [int(count) for count in re.findall(r"worker \d: (\d+) runs", text)]
    assert sum(runs) == 2 * 5 * 3  # orders, temptations, seeds
    assert len(re.findall(r"\d+ ± \d+ %", text)) == 2 * 5


@pytest.mark.slow
def test_sklearn_digits_reads_what_one_classifier_reads(tmp_path):
    text = run("sklearn_digits.py", "--workers", "2", "--output", "digits.png", directory=tmp_path)
    # The example "Recognizing hand-written digits" of scikit-learn has 97 % for this classifier and these halves.
    assert float(re.search(rf"accuracy {NUMBER}% of 899 images", text)[1]) == pytest.approx(97, abs=1)
    assert (tmp_path / "digits.png").read_bytes().startswith(PNG_SIGNATURE)
    counts = re.search(r"images read by each: (\d+), (\d+)", text)
    assert sum(map(int, counts.groups())) == 899


@pytest.mark.slow
def test_endless_stream_stays_within_its_buffer_and_its_memory(tmp_path):
    small = ("--workers", "2", "--items", "20000", "--buffersize", "100", "--rows", "4")
    text = run("endless_stream.py", *small, directory=tmp_path)
    rows = re.findall(rf"^ +(\d+) +(\d+) +(\d+) +{NUMBER} MB +{NUMBER} MB$", text, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [5000, 10000, 15000, 20000]
    assert all(0 <= int(row[2]) <= 100 for row in rows)
    # 15 MB were sent after the first row; kept in memory they would show.
    assert float(re.search(rf"memory grew by {NUMBER} MB", text)[1]) < 5


@needs("matplotlib")
def test_mandelbrot_has_the_known_area_and_draws_its_picture(tmp_path):
    small = ("--workers", "2", "--height", "250", "--iterations", "400")
    text = run("mandelbrot.py", *small, "--output", "mandelbrot.png", directory=tmp_path)
    assert float(re.search(rf"area of the set {NUMBER}", text)[1]) == pytest.approx(1.50659, abs=0.02)
    assert float(re.search(rf"mean shade outside {NUMBER}", text)[1]) == pytest.approx(0.5, abs=0.01)
    assert (tmp_path / "mandelbrot.png").read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.slow
def test_bootstrap_trends_cover_the_truth_for_any_number_of_workers(tmp_path):
    small = ("--members", "20", "--size", "60")
    two = run("bootstrap_trends.py", "--workers", "2", *small, "--output", "trends.png", directory=tmp_path)
    one = run("bootstrap_trends.py", "--workers", "1", *small, directory=tmp_path)
    assert two.splitlines()[1:4] == one.splitlines()[1:4]
    assert float(re.search(rf"interval at {NUMBER}%", two)[1]) == pytest.approx(88, abs=5)
    assert (tmp_path / "trends.png").read_bytes().startswith(PNG_SIGNATURE)


@pytest.mark.slow
def test_ompr_parser_counts_what_pythons_own_parser_counts(tmp_path):
    small = ("--workers", "2", "--packages", "json", "unittest", "--files", "4")
    text = run("ompr_parser.py", *small, "--output", "constructs.png", directory=tmp_path)
    assert "2 workers, each with a parser of its own" in text
    assert "Python's own parser counts the same: True" in text
    rows = re.findall(r"^(json|unittest) +(\d+) +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE)
    assert [row[0] for row in rows] == ["json", "unittest"]
    assert all(int(row[1]) > 5 for row in rows)
    assert re.search(r"^8 files in", text, re.MULTILINE)
    assert (tmp_path / "constructs.png").read_bytes().startswith(PNG_SIGNATURE)


@needs("starlette", "uvicorn")
def test_pools_to_watch_tell_where_they_can_be_watched(tmp_path):
    text = run("watch_pools.py", "--seconds", "1", directory=tmp_path)
    assert re.fullmatch(r"open http://127\.0\.0\.1:\d+/\?token=\S+\n", text)
