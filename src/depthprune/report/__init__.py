"""The report of a run: HTML page, model card, mergekit plan, evaluation table, environment."""

from depthprune.report.environment import environment
from depthprune.report.table import eval_table, evaluation_table
from depthprune.report.write import write_report

__all__ = ["environment", "eval_table", "evaluation_table", "write_report"]
