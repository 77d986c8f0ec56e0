"""Executors beside the local processes; each behind ``engine.runs.batch.executor.Executor``."""
