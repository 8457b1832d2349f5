"""Batch sizes over time: schedules, growth, adaptive sampling, and exact accumulation."""
