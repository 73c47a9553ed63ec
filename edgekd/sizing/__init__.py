"""Sizing: what shapes cost, measured or predicted, and the most capable one that fits the budgets."""
