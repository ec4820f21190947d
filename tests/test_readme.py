"""README and the pages of docs say what the result files say, and their code runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import readme
from benchmarks.figures import DENSITY_FIGURE, digest_in
from benchmarks.readme import PAGES, README, RESULTS, drawn, filled
from benchmarks.result_files import ROOT, kept
from gemkern.experiments.run_folder import RunFolder

TEXT = README.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_are_those_of_the_result_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text, page) == text, "run python -m benchmarks.readme"


def test_a_figure_changed_by_hand_is_noticed() -> None:
    page = ROOT / "docs" / "races.md"
    text = page.read_text(encoding="utf-8")
    changed = re.sub(r"\| gem-miner \| (\d)", r"| gem-miner | 9\1", text)
    assert changed != text
    assert filled(changed, page) == text


def test_the_figures_are_those_of_the_result_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    figures = [(figure, text) for text in texts for figure in drawn(text, tmp_path)]
    assert len(figures) >= 2
    for figure, text in figures:
        assert digest_in(RESULTS / figure.name) == digest_in(figure), (
            "run python -m benchmarks.readme"
        )
        assert f"benchmarks/results/{figure.name})" in text
    (name,) = re.findall(r"<!-- curves: (\S+) -->", "".join(texts))
    found = kept(name)
    found["steps"][0]["sparse"] += 1
    monkeypatch.setattr(readme, "kept", lambda name: found)
    drawn(f"<!-- curves: {name} -->\n<!-- end -->", tmp_path)
    density = f"{name}-{DENSITY_FIGURE}"
    assert digest_in(tmp_path / density) != digest_in(RESULTS / density)


def test_what_is_not_measured_is_said() -> None:
    block = "<!-- rivals: race-digits-no-machine -->\n<!-- end -->"
    assert "Not measured: there is no `benchmarks/results/race-digits-no-machine.json`" in filled(
        block
    )
    with pytest.raises(FileNotFoundError):
        filled("<!-- steps: cpu-no-machine -->\n<!-- end -->")


PAGES_WITH_CODE = {
    page: re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for page in PAGES
}
BLOCKS = [(page.name, block) for page, blocks in PAGES_WITH_CODE.items() for block in blocks]
(OWN,) = [block for _, block in BLOCKS if block.startswith("# own.py")]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go where README's own module is."""
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    return tmp_path


@pytest.mark.parametrize("block", [block for _, block in BLOCKS], ids=[page for page, _ in BLOCKS])
def test_the_code_runs_as_printed(block: str, own: Path) -> None:
    torch.manual_seed(0)
    exec(block, {"__name__": "page"})


def test_the_commands_of_the_front_page_run_as_printed(tmp_path: Path) -> None:
    (commands,) = re.findall(r"^## Two commands\n+```\n(.*?)```", TEXT, re.MULTILINE | re.DOTALL)
    for command in commands.splitlines():
        words = [*shlex.split(command, comments=True)[1:], "--train-limit", "200", "--epochs", "2"]
        if words[0] == "race":
            words += ["--seeds", "1", "--set", "freeze_every=1"]
        done = subprocess.run(
            [sys.executable, "-m", "gemkern", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_links_lead_to_what_is_there() -> None:
    for page in (*PAGES, ROOT / "CONTRIBUTING.md"):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
        for link in links:
            assert link.startswith("http") or (page.parent / link).exists(), (page.name, link)


def test_the_command_of_an_own_race_runs_as_printed(own: Path) -> None:
    text = (ROOT / "docs" / "own.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^gemkern (race --model own:build .*)$", text, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "gemkern", *shlex.split(command)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    runs = RunFolder.load(own / "runs" / "race").runs()
    assert len(runs) == 8
    accuracies = {run.method: run.accuracy_after for run in runs}
    assert accuracies["dense"] > 0.8
    ticket = own / "runs" / "race" / "gem-miner-seed0.ticket.safetensors"
    words = ["finetune", str(ticket), "--data", "own:data", "--epochs", "1"]
    again = subprocess.run([sys.executable, "-m", "gemkern", *words], capture_output=True)
    assert again.returncode == 0, "a ticket of an own network is finetuned by its name"
