"""Schedules for a budget: what each change costs and spoils, and the best plan under a limit."""
