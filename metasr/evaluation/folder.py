"""The output folder of an evaluation: tables, scores and pictures."""

from collections.abc import Sequence
from pathlib import Path

from metasr.data.degrade import Degradation
from metasr.evaluation.cost import costs
from metasr.evaluation.methods import BICUBIC, Method
from metasr.evaluation.paper import TABLE_SCALE, paper_table, zoom
from metasr.evaluation.pictures import comparison_panel, scales_panel
from metasr.evaluation.protocol import Evaluation, HeldOutSlice
from metasr.evaluation.report import Circumstances, report, summary
from metasr.evaluation.tables import to_csv

TABLE, PAPER_TABLE = "table.txt", "paper_table.txt"
SCORES, SUMMARY, OUTCOMES = "scores.csv", "scores.json", "downstream.csv"


def write_results(folder: Path, result: Evaluation, methods: Sequence[Method], about: Circumstances) -> str:
    """Write `table.txt`, `scores.csv`, `scores.json` and, of pictured slices, `comparison.png`; return the table."""
    spent = costs(methods, result)
    text = report(result, spent, about)
    (folder / TABLE).write_text(text + "\n")
    (folder / SCORES).write_text(to_csv(result.scores))
    (folder / SUMMARY).write_text(summary(result, spent, about))
    if result.comparisons:
        comparison_panel(result.comparisons).save(folder / "comparison.png")
    return text


def write_paper(
    folder: Path, result: Evaluation, methods: Sequence[Method], held_out: HeldOutSlice | None, degrade: Degradation
) -> str:
    """Write `paper_table.txt` (Table 1) and `paper_scales.png` (Fig. 8, of one slice); return the table.

    Args:
        folder: Output folder.
        result: Results that include scale 2, or the model's only scale.
        methods: Bicubic first, the model last.
        held_out: The slice in the picture; None for no picture.
        degrade: Makes LR from HR.
    """
    parameters = {method.name: method.parameters for method in methods}
    text = paper_table(result.scores, parameters, methods[-1].only_scale or TABLE_SCALE)
    (folder / PAPER_TABLE).write_text(text + "\n")
    if held_out is not None:
        shown = [BICUBIC, methods[-1]]
        scales_panel(zoom(shown, held_out, degrade)).save(folder / "paper_scales.png")
    return text
