"""Measurements: functions from traces and pictures to arrays and frames."""
