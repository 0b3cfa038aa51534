"""Evaluators: from pictures to scores."""
