"""Pruning methods as frozen values: selector x restorer x granularity x schedule x guidance."""
