"""The report of a run: the HTML page, the model card, the plan for mergekit, the table and the environment."""

from depthprune.report.environment import environment
from depthprune.report.table import eval_table, evaluation_table
from depthprune.report.write import write_report

__all__ = ["environment", "eval_table", "evaluation_table", "write_report"]
